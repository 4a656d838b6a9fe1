"""Small reference networks, and the shape of those that published checkpoints use."""

from edgemem.models.networks.cifar_resnet import resnet20, resnet32
from edgemem.models.networks.conv1d import conv1d
from edgemem.models.networks.depthwise import depthwise
from edgemem.models.networks.digits import digits
from edgemem.models.networks.wide_resnet import wrn40_2

__all__ = ["conv1d", "depthwise", "digits", "resnet20", "resnet32", "wrn40_2"]
