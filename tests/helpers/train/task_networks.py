"""Small BatchNorm networks of every task, with lively statistics."""

import torch
from torch import nn

BATCH = 8


def _block(inputs, outputs, kind=nn.Conv2d, norm=nn.BatchNorm2d):
    return nn.Sequential(kind(inputs, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU())


class Regression(nn.Module):
    """[n, 1, 8, 8] -> [n, numbers], or [n]."""

    def __init__(self, numbers=1, bare=False):
        super().__init__()
        self.layers = nn.Sequential(_block(1, 8), _block(8, 8))
        self.head, self.bare = nn.Linear(8, numbers), bare

    def forward(self, x):
        y = self.head(self.layers(x).mean((2, 3)))
        return y[:, 0] if self.bare else y


class UNet(nn.Module):
    """[n, 1, 8, 8] -> [n, classes, 8, 8], with one skip connection."""

    def __init__(self, classes=3, end=None):
        super().__init__()
        self.down, self.deep = _block(1, 8), _block(8, 8)
        self.up, self.head = _block(16, 8), nn.Conv2d(8, classes, 1)
        self.end = end or nn.Identity()

    def forward(self, x):
        wide = self.down(x)
        deep = self.deep(nn.functional.max_pool2d(wide, 2))
        deep = nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest")
        return self.end(self.head(self.up(torch.cat([wide, deep], 1))))


class Recogniser(nn.Module):
    """[n, 4, 20] -> [n, 20, classes], or [20, n, classes]: one row of logits a step (CTC)."""

    def __init__(self, classes=5, time_first=False, end=None):
        super().__init__()
        self.layers = nn.Sequential(
            _block(4, 8, nn.Conv1d, nn.BatchNorm1d), _block(8, 8, nn.Conv1d, nn.BatchNorm1d)
        )
        self.head, self.time_first = nn.Linear(8, classes), time_first
        self.end = end or nn.Identity()

    def forward(self, x):
        y = self.end(self.head(self.layers(x).transpose(1, 2)))
        return y.transpose(0, 1) if self.time_first else y


class Autoencoder(nn.Module):
    """[n, 1, 8, 8] -> the same shape."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.decode = nn.Sequential(_block(8, 8), nn.Conv2d(8, 1, 1))

    def forward(self, x):
        return self.decode(nn.functional.interpolate(self.encode(x), scale_factor=2.0))


class Embedding(nn.Module):
    """[n, 1, 8, 8] -> [n, 300] of unit length."""

    def __init__(self, size=300):
        super().__init__()
        self.layers, self.head = nn.Sequential(_block(1, 8), _block(8, 8)), nn.Linear(8, size)

    def forward(self, x):
        return nn.functional.normalize(self.head(self.layers(x).mean((2, 3))), dim=1)


class Detector(nn.Module):
    """[n, 1, 8, 8] -> {"boxes": [n, 16, 4], "scores": [n, 16, 2]}, for every cell of a grid."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(_block(1, 8), _block(8, 8), nn.AvgPool2d(2))
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        y = self.layers(x)
        boxes, scores = (head(y).flatten(2).transpose(1, 2) for head in (self.boxes, self.scores))
        return {"boxes": 8 * boxes.sigmoid(), "scores": scores}


class MultiLabel(nn.Module):
    """[n, 1, 8, 8] -> [n, labels], each by its own sigmoid."""

    def __init__(self, labels=4, end=None):
        super().__init__()
        self.layers, self.head = nn.Sequential(_block(1, 8), _block(8, 8)), nn.Linear(8, labels)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.head(self.layers(x).mean((2, 3))))


def lively(network, seed=0):
    """The network with random weights and BatchNorm statistics, as if trained."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
    return network.eval()


NETWORKS = {
    "regression": (Regression, (1, 8, 8)),
    "dense": (UNet, (1, 8, 8)),
    "sequence": (lambda: Recogniser(time_first=True), (4, 20)),
    "reconstruction": (Autoencoder, (1, 8, 8)),
    "embedding": (Embedding, (1, 8, 8)),
    "detection": (Detector, (1, 8, 8)),
    "multilabel": (MultiLabel, (1, 8, 8)),
}
