"""Arrays and hyper-parameters for tests of what norms remember."""

import torch

BATCH, CLASSES = 8, 10


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frames(network, count=BATCH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *network.input_shape, generator=generator)


def zero(arrays):
    return {name: torch.zeros_like(value) for name, value in arrays.items()}


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(
        torch.as_tensor(found).double(),
        torch.as_tensor(expected).double(),
        rtol=tolerance,
        atol=tolerance,
    )
