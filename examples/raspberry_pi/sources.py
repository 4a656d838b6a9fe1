"""Where frames come from: a camera, a folder, a video file, or the packaged demo.

Libraries are imported when they are needed: picamera2 or OpenCV for a camera, OpenCV for video
files, Pillow for images. A frame is an image [h, w] or [h, w, 3] (RGB) uint8.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemem import InputError
from edgemem.demo import STREAM

Image = NDArray[np.uint8]
Seen = tuple[Image, int | None, str]  # image, label where it is known, name of what is shown
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
VIDEOS = (".mp4", ".mkv", ".avi", ".mov", ".h264", ".mjpeg")
SIZE = (640, 480)  # what a camera is asked for; the network gets far less


def open_input(name: str) -> Iterator[Seen]:
    """Frames of "auto" (a camera, or else the demo), "camera", "demo", a folder or a video file.

    Raises:
        InputError: nothing there, or a library is missing.
    """
    if name == "auto":
        try:
            return _camera()
        except InputError as error:
            print(f"{error} Showing the packaged demo instead.", file=sys.stderr)
            return demo()
    if name in ("camera", "demo"):
        return _camera() if name == "camera" else demo()
    path = Path(name)
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise InputError(name, "does not exist", "Pass a folder, a video file, camera or demo")
    if path.suffix.lower() not in VIDEOS:
        raise InputError(name, "is no kind of video", f"Use {', '.join(VIDEOS)}, or a folder")
    return _video(path)


def demo() -> Iterator[Seen]:
    """The packaged stream: digits under changing conditions, which come back."""
    with np.load(STREAM, allow_pickle=False) as held:
        frames, labels, contexts = held["x"], held["y"], held["context"]
    for frame, label, context in zip(frames, labels, contexts, strict=True):
        yield frame[0], int(label), str(context)


def fit(image: Image, shape: tuple[int, ...], invert: bool = False) -> Image:
    """An image as a network takes it: its middle, [channels, height, width] uint8.

    invert: dark on light becomes light on dark.

    Raises:
        InputError: the image or the network is of another kind.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError("bundle", f"takes {list(shape)}, not images", "Use one for 1 or 3 colours")
    if image.ndim not in (2, 3) or image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)):
        reason = f"has shape {list(image.shape)} and dtype {image.dtype}"
        raise InputError("image", reason, "Pass uint8 images [h, w] or [h, w, 3]")
    channels, height, width = shape
    coloured = np.stack([image] * 3, 2) if image.ndim == 2 else image
    planes = _resized(_middle(coloured, height / width), height, width)
    if channels == 1:
        planes = planes @ np.array([[0.299], [0.587], [0.114]])
    result = np.round(planes.transpose(2, 0, 1)).astype(np.uint8)
    return 255 - result if invert else result


def _middle(image: Image, ratio: float) -> Image:
    """The largest part [h, w, 3] in the middle with h / w = ratio."""
    height, width = image.shape[:2]
    tall, wide = min(height, round(width * ratio)), min(width, round(height / ratio))
    top, left = (height - tall) // 2, (width - wide) // 2
    return image[top : top + tall, left : left + wide]


def _resized(image: Image, height: int, width: int) -> NDArray[np.float64]:
    """Means over areas, where the image is large enough; else its nearest pixels."""
    if image.shape[0] < height or image.shape[1] < width:
        rows = np.arange(height) * image.shape[0] // height
        columns = np.arange(width) * image.shape[1] // width
        return image[rows][:, columns].astype(np.float64)
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, 0), columns, 1)
    tall = np.diff(np.append(rows, image.shape[0]))
    wide = np.diff(np.append(columns, image.shape[1]))
    return sums / (tall[:, None] * wide)[:, :, None]


def _camera() -> Iterator[Seen]:
    if importlib.util.find_spec("picamera2") is not None:
        return _pi_camera()
    if importlib.util.find_spec("cv2") is None:
        remedy = "Install python3-picamera2 with apt, or run: pip install opencv-python-headless"
        raise InputError("camera", "needs picamera2 or OpenCV", remedy)
    return _captured(0, "camera")


def _pi_camera() -> Iterator[Seen]:
    try:
        from picamera2 import Picamera2

        camera = Picamera2()
    except (ImportError, ValueError) as error:  # ValueError: it was built for another numpy
        raise InputError("picamera2", str(error), "See Camera in this example's README") from error
    except (RuntimeError, IndexError) as error:
        raise InputError(
            "camera", str(error), "Connect one, and check it with rpicam-hello"
        ) from error
    # What picamera2 calls BGR888 are arrays in the order red, green, blue.
    main = {"size": SIZE, "format": "BGR888"}
    camera.configure(camera.create_video_configuration(main=main))
    camera.start()

    def frames() -> Iterator[Seen]:
        try:
            while True:
                yield camera.capture_array(), None, "camera"
        finally:
            camera.stop()

    return frames()


def _video(path: Path) -> Iterator[Seen]:
    return _captured(str(path), path.name)


def _captured(what: int | str, name: str) -> Iterator[Seen]:
    """Frames that OpenCV reads from a camera or a file."""
    cv2 = _needed("cv2", name, "pip install opencv-python-headless")
    capture = cv2.VideoCapture(what)
    if not capture.isOpened():
        capture.release()
        raise InputError(name, "cannot be opened", "Check that it is there and not in use")

    def frames() -> Iterator[Seen]:
        try:
            while (read := capture.read())[0]:
                yield read[1][:, :, ::-1], None, name
        finally:
            capture.release()
        if name == "camera":  # a file ends, a camera does not
            raise InputError(name, "gives no more frames", "Check its cable")

    return frames()


def _folder(path: Path) -> Iterator[Seen]:
    """Every image of a folder, in the order of names; .npy files hold one image or [n, ...]."""
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in (*PICTURES, ".npy"))
    if not files:
        raise InputError(str(path), "holds no image", f"Use {', '.join((*PICTURES, '.npy'))}")
    readers = dict.fromkeys(PICTURES, _read_picture) | {".npy": _read_array}
    if any(file.suffix.lower() != ".npy" for file in files):
        _needed("PIL", "images", "pip install pillow")
    return _read_all(files, readers)


def _read_all(files: list[Path], readers: Mapping[str, Callable[[Path], Any]]) -> Iterator[Seen]:
    for file in files:
        try:
            images = readers[file.suffix.lower()](file)
        except (OSError, ValueError) as error:
            raise InputError(str(file), f"cannot be read ({error})", "Remove it") from error
        stacked = images.ndim == 4 or (images.ndim == 3 and images.shape[2] != 3)
        for image in images if stacked else [images]:
            yield image, None, file.parent.name


def _read_picture(file: Path) -> Image:
    from PIL import Image as pictures

    with pictures.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def _read_array(file: Path) -> Image:
    return np.load(file, allow_pickle=False)


def _needed(module: str, for_what: str, command: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(for_what, f"needs the package {module}", f"Run: {command}") from error
