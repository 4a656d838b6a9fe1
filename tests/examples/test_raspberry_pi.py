"""The camera example, without a camera."""

import configparser
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgemem import InputError
from edgemem.demo import STREAM

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "raspberry_pi"
SCRIPT = "raspberry_pi/camera.py"
# Stands for OpenCV: a camera of 20 frames, and files of three.
FAKE_OPENCV = """
import numpy as np
class VideoCapture:
    def __init__(self, what):
        self.left = 20 if what == 0 else 3
    def isOpened(self):
        return True
    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((48, 64, 3), 7 * abs(self.left), np.uint8)
    def release(self):
        print("released")
"""
# Stands for picamera2.
FAKE_PICAMERA2 = """
import numpy as np
class Picamera2:
    def create_video_configuration(self, main):
        return main
    def configure(self, main):
        self.shape = (main["size"][1], main["size"][0], 3)
    def start(self):
        pass
    def capture_array(self):
        return np.full(self.shape, 90, np.uint8)
    def stop(self):
        print("stopped")
"""


def test_it_runs_on_the_packaged_demo_where_there_is_no_camera(example, tmp_path):
    for library in ("picamera2", "cv2"):  # whatever is installed here
        (tmp_path / f"{library}.py").write_text("raise ImportError('not for this test')")
    found = example(SCRIPT, "--frames", "480", modules=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "Showing the packaged demo instead" in found.stderr
    table = [line.split() for line in found.stdout.splitlines()]
    everything = next(row for row in table if row[:2] == ["all", "480"])
    assert float(everything[4]) <= float(everything[2]) - 10, found.stdout
    assert max(len(line) for line in found.stdout.splitlines() if line.startswith(" ")) <= 80
    assert (tmp_path / "results" / "camera.png").stat().st_size > 10_000


def test_json_is_one_object_and_the_state_goes_on(example, tmp_path):
    options = ("--input", "demo", "--frames", "20", "--json", "--state", str(tmp_path / "a.db"))
    for _ in range(2):
        found = json.loads(example(SCRIPT, *options).stdout)
        assert found["frames"] == found["labelled"] == 20 and found["unit"] == "frames"
    assert (tmp_path / "a.db").exists()


def test_a_folder_of_images_and_arrays(example, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"
    folder.mkdir()
    with np.load(STREAM) as held:
        digits = held["x"][:24, 0]
    pillow.fromarray(np.kron(digits[0], np.ones((40, 60), np.uint8))).save(folder / "a.png")
    np.save(folder / "b.npy", digits)
    np.save(folder / "c.npy", np.zeros((5, 4, 3), np.uint8))
    found = json.loads(example(SCRIPT, "--input", str(folder), "--json").stdout)
    assert found["frames"] == 26 and found["labelled"] == 0 and found["picture"] is None
    assert found["adapted_error"] is None and 0 <= found["agreement"] <= 1


def test_the_camera_of_a_raspberry_pi(example, tmp_path):
    (tmp_path / "picamera2.py").write_text(FAKE_PICAMERA2)
    found = example(SCRIPT, "--frames", "5", modules=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "5 frames" in found.stdout and "stopped" in found.stdout


def test_cameras_and_videos_by_opencv(example, refused, tmp_path):
    (tmp_path / "cv2.py").write_text(FAKE_OPENCV)
    (tmp_path / "film.mp4").touch()
    film = example(SCRIPT, "--input", str(tmp_path / "film.mp4"), modules=tmp_path)
    assert film.returncode == 0 and "3 frames" in film.stdout and "released" in film.stdout
    few = example(SCRIPT, "--frames", "5", "--fps", "50", modules=tmp_path)
    assert few.returncode == 0 and "5 frames" in few.stdout and "released" in few.stdout
    gone = example(SCRIPT, "--input", "camera", modules=tmp_path)
    assert gone.returncode == 2 and "gives no more frames" in gone.stderr


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "nowhere: does not exist"),
        ("empty", "holds no image"),
        ("broken", "cannot be read"),
        ("floats", "dtype float64"),
        ("notes.txt", "is no kind of video"),
        ("film.mp4", "needs the package cv2.*pip install opencv-python-headless"),
    ],
)
def test_what_it_cannot_use_is_told(module, monkeypatch, tmp_path, name, reason):
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    for folder in ("empty", "broken", "floats"):
        (tmp_path / folder).mkdir()
    (tmp_path / "broken" / "a.npy").write_bytes(b"nothing")
    np.save(tmp_path / "floats" / "a.npy", np.zeros((8, 8)))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "film.mp4").touch()
    sources = module("raspberry_pi", "sources")
    with pytest.raises(InputError, match=reason):
        for image, _, _ in sources.open_input(str(tmp_path / name)):
            sources.fit(image, (1, 8, 8))


def test_a_refusal_is_one_line(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(SCRIPT, "--input", "empty")
    assert "has no manifest.json" in refused(SCRIPT, "--input", "demo", "--bundle", "empty")
    assert "often" in refused(SCRIPT, "--input", "demo", "--adapt-when", "often")


def test_images_are_cut_to_their_middle_and_averaged(module):
    sources = module("raspberry_pi", "sources")
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:4], image[:, 4:6], image[:, 6:] = (200, 0, 0), (0, 100, 0), 255
    assert sources.fit(image, (3, 2, 2)).tolist() == [
        [[200, 0], [200, 0]],
        [[0, 100], [0, 100]],
        [[0, 0], [0, 0]],
    ]
    assert sources.fit(image, (1, 1, 2), invert=True).shape == (1, 1, 2)
    assert (sources.fit(image[..., 0], (1, 8, 8)) <= 200).all()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs unix sockets")
def test_it_tells_systemd_that_it_is_well_and_stops_when_told(tmp_path):
    address, state = str(tmp_path / "notify"), tmp_path / "camera.db"
    command = [sys.executable, FOLDER / "camera.py", "--input", "demo", "--fps", "20"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(600)
        process = subprocess.Popen(
            [*command, "--state", state], cwd=tmp_path, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"NOTIFY_SOCKET": address},
        )  # fmt: skip
        try:
            assert channel.recv(64) == b"READY=1"
            assert channel.recv(64) == b"WATCHDOG=1"
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            output = process.communicate(timeout=600)[0]
        finally:
            process.kill()
    assert process.returncode == 143 and "frames" in output and state.exists()


def test_the_unit_writes_to_its_data_partition_alone():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read(FOLDER / "edgemem-camera.service")
    service = unit["Service"]
    assert service["ProtectSystem"] == "strict" and service["StateDirectory"] == "edgemem"
    assert service["SuccessExitStatus"] == "143" and service["Restart"] == "on-failure"
    assert int(service["WatchdogSec"]) >= 30
    assert service["Type"] == "notify" and "MemoryMax" in service and int(service["Nice"]) > 0
    assert unit["Unit"]["RequiresMountsFor"] == "/var/lib/edgemem"
    assert "--state /var/lib/edgemem/" in service["ExecStart"]


def test_the_command_of_the_unit_takes_its_options(example):
    unit = (FOLDER / "edgemem-camera.service").read_text()
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    options = [word for word in command.split() if word.startswith("--")]
    text = example(SCRIPT, "--help").stdout
    assert options and all(f"  {option} " in text for option in options)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_accepts_the_unit(tmp_path):
    text = (FOLDER / "edgemem-camera.service").read_text()
    there = text.replace("/opt/edgemem/venv/bin/python", sys.executable)
    (tmp_path / "edgemem-camera.service").write_text(there)
    found = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "edgemem-camera.service"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0 and "edgemem" not in found.stderr, found.stderr
