"""What a network answers, as its attachment has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from edgemem.models.adaptive.outputs import logits_of
from edgemem.models.tasks.named_outputs import Named, named
from edgemem.models.tasks.task_outputs import logit_rows
from edgemem.models.tensor_rows import Frames, call

if TYPE_CHECKING:
    from edgemem.models.adaptive.attachment import Attachment


def answered(network: nn.Module, x: Frames, attachment: Attachment) -> tuple[Tensor, Named]:
    """Logits (see `Output`) and named outputs for frames [n, ...] of a device.

    Of classes nothing is named.
    """
    given = attachment.normalized(x)
    if attachment.task == "classes":
        return logits_of(lambda rows: call(network, rows), given, attachment.outputs), {}
    found = named(call(network, given))
    return logit_rows(attachment.task, attachment.scale, found, attachment.named), found
