"""A graph and its weights, handed to onnxruntime as bytes that were checked.

The engine never gets the path of a graph, so it cannot follow what a graph names. Weights are
copied into the engine, and what becomes of the file later does not matter. In profile "memory" they
are not: there the engine maps the one file that was checked at that moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import onnxruntime

from edgemem.block import Array
from edgemem.bundle.checked_files import Files
from edgemem.errors import BundleError
from edgemem.runtime.engines.external_data import REMEDY, ExternalTensor, external_tensors

FOLDER = "session.model_external_initializers_file_folder_path"


@contextmanager
def loaded(
    path: Path, files: Files, options: onnxruntime.SessionOptions, *, mapped: bool = False
) -> Iterator[bytes]:
    """The bytes of a graph; while they become a session with these options, its weights are there.

    mapped: the engine shall map the weights where they lie, unless that is behind a link, which
    engines refuse to follow.

    Raises:
        BundleError: a file is not what it should be, or is not there.
    """
    content, thing = files.read(path), f"{path.parent.name}/{path.name}"
    tensors = external_tensors(content, thing)
    places = {name: _beside(path, name, thing) for name in {item.location for item in tensors}}
    with ExitStack() as stack:
        if mapped and not any(place.is_symlink() for place in places.values()):
            for place in places.values():
                stack.enter_context(files.steady(place))
            options.add_session_config_entry(FOLDER, str(path.parent))
        elif tensors:
            held = {name: files.read(place) for name, place in places.items()}
            arrays = [_array(item, held[item.location], thing) for item in tensors]
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays]
            options.add_external_initializers([item.name for item in tensors], values)
        yield content


def _beside(path: Path, name: str, thing: str) -> Path:
    if not name or Path(name).name != name or "\\" in name or "\0" in name:
        raise BundleError(thing, f"keeps weights at {name[:60]!r}, not beside itself", REMEDY)
    return path.with_name(name)


def _array(tensor: ExternalTensor, content: bytes, thing: str) -> Array:
    try:
        found: Array = np.ndarray(tensor.shape, tensor.dtype, content, tensor.offset)
    except (TypeError, ValueError) as error:
        reason = f"keeps {tensor.name!r} outside of {tensor.location!r} ({error})"
        raise BundleError(thing, reason, REMEDY) from error
    return np.require(found, requirements="A")  # the engine reads whole numbers at once
