"""From a function to a graph: what the tracer may leave out, and what it may not."""

import onnxruntime
import pytest
import torch

from edgemem.export.functions.forward import Function
from edgemem.export.tracing.trace import to_onnx

X = torch.arange(12.0).reshape(3, 4) - 5


def copied(x, gain):
    """A value that is written over another, and read."""
    y = x * gain
    return (y.copy_(x + gain),)


def read_again(x, gain):
    """The place that was written over is read afterwards."""
    y = x * gain
    z = y.copy_(x + gain)
    return (z * y,)


def read_through_a_view(x, gain):
    """So is a view of it, which was taken before."""
    y = x * gain
    view = y.view(-1)
    y.copy_(x + gain)
    return (view * 2,)


def written_through_a_view(x, gain):
    """What is written over is a part of something that is read."""
    y = x * gain
    y[0].copy_(y[1] + gain)
    return (y,)


def spread(x, gain):
    """One row for all, in another type."""
    y = x * gain
    return (y.copy_((x[0] + gain).double()),)


@pytest.mark.parametrize("dynamic_batch", [False, True])
@pytest.mark.parametrize(
    "call", [copied, read_again, read_through_a_view, written_through_a_view, spread]
)
def test_what_is_written_in_place_comes_out_as_in_torch(call, dynamic_batch):
    gain = torch.tensor(3.0)
    proto = to_onnx(Function({"x": X, "hp.gain": gain}, ("y",), call, dynamic_batch))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (found,) = session.run(None, {"x": X.numpy(), "hp.gain": gain.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), call(X.clone(), gain)[0])


def test_sizes_that_every_run_chooses():
    """Also none at all, and one: while tracing both would be taken for constants."""

    def call(ids, past):
        whole = torch.cat([past, ids], 0)
        return whole.cumsum(0)[past.shape[0] :], whole

    axes = {"ids": {0: "new"}, "past": {0: "past"}}
    inputs = {"ids": X, "past": torch.ones(5, 4)}
    proto = to_onnx(Function(inputs, ("y", "next.past"), call, False, axes=axes))
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for new, past in ((3, 5), (1, 0), (1, 1), (2, 0), (7, 1)):
        ids, earlier = torch.randn(new, 4), torch.randn(past, 4)
        found = session.run(None, {"ids": ids.numpy(), "past": earlier.numpy()})
        for one, other in zip(found, call(ids, earlier), strict=True):
            torch.testing.assert_close(torch.from_numpy(one), other)


def test_two_outputs_that_are_one_value_keep_their_names():
    def call(x, gain):
        y = x * gain
        return y, y

    gain = torch.tensor(3.0)
    proto = to_onnx(Function({"x": X, "hp.gain": gain}, ("loss", "entropy"), call, False))
    assert [value.name for value in proto.graph.output] == ["loss", "entropy"]
    found = onnxruntime.InferenceSession(proto.SerializeToString()).run(
        None, {"x": X.numpy(), "hp.gain": gain.numpy()}
    )
    for value in found:
        torch.testing.assert_close(torch.from_numpy(value), X * gain)


def test_operators_that_the_exporter_has_to_lower_are_lowered():
    def call(x, gain):
        return (x.var(1) * gain, x[None].squeeze((0,)) * gain)

    gain = torch.tensor(3.0)
    proto = to_onnx(Function({"x": X, "hp.gain": gain}, ("a", "b"), call, False))
    found = onnxruntime.InferenceSession(proto.SerializeToString()).run(
        None, {"x": X.numpy(), "hp.gain": gain.numpy()}
    )
    for value, expected in zip(found, call(X, gain), strict=True):
        torch.testing.assert_close(torch.from_numpy(value), expected)
