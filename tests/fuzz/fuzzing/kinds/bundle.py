"""Bundles: the manifest by field, files by content, and what lies in the folder."""

import hashlib
import json
import os
import shutil
from contextlib import suppress
from unittest.mock import patch

import numpy as np
from fuzzing import device, mutators
from fuzzing.case import Case, Digest, Format

from edgemem.bank.levels.level_header import LevelShape
from edgemem.bank.levels.level_writer import write_level
from edgemem.bundle.manifest_file import to_json
from edgemem.bundle.opening import check_levels, open_bundle
from edgemem.cli.commands.device import inspect
from edgemem.demo import BUNDLE
from edgemem.runtime.engines.choice import Engine
from edgemem.runtime.loop import Runtime
from edgemem.runtime.tools.verification import verify

BEGIN = b'{\n "sha256": "'
SEAL = len(BEGIN) + 64
MANIFEST_EDITS = ("manifest", "text", "whole")
LEVEL = "bank/level-1.safetensors"
TENSORS = ("bank/generic.safetensors", "reference.safetensors", "source.safetensors", LEVEL)
FILES = (*TENSORS, "predict.onnx", "adapt.onnx", "key.onnx", "weights.bin")
NAMES = (
    "more.bin", "bank/level-2.safetensors", "bank/more", ".hidden", "README.md", "a\nb", "\x1b[31m",
    "MANIFEST.JSON"
)  # fmt: skip


class BundleFormat(Format):
    name, share = "bundle", 0.18

    def __init__(self, folder):
        self.folder = folder / "digits.edgemem"
        shutil.copytree(BUNDLE, self.folder)
        elements = device.bundle().manifest.block.elements
        shape = LevelShape(1, 2, device.bundle().manifest.key, elements, "int8")
        numbers = np.random.default_rng(2)
        keys = numbers.normal(size=(2, shape.key_length)).astype(np.float32)
        rows = numbers.normal(size=(2, elements)).astype(np.float32) * 0.01
        write_level(self.folder / LEVEL, shape, keys, np.ones(2, np.int64), rows)
        self.manifest = read_manifest(self.folder)
        self.contents = {name: (self.folder / name).read_bytes() for name in FILES}
        self._complete()
        self.size = len(json.dumps(self.manifest))
        self.altered = set()

    def _complete(self):
        """Fill fields that the demo leaves empty, so that they are read, too."""
        self.manifest["files"][LEVEL] = {"size": 0, "sha256": ""}
        self.manifest["graphs"]["learn"] = "adapt.onnx"
        self.manifest["teaching"] = {
            "capacity": 10, "arrays": ["remembered_prior"], "root_share": 0.5,
            "reads": {"mixed": {next(iter(self.manifest["hyper_parameters"])): 0.5}},
        }  # fmt: skip
        graphs = {n: self.manifest["graphs"][n] for n in ("predict", "adapt")}
        self.manifest["targets"] = {
            "npu": {
                name: {"file": file, "signature": "", "inputs": ["x"], "outputs": ["logits"]}
                for name, file in graphs.items()
            }
        }

    def invent(self, rng):
        kind = rng.choice(
            ("manifest",) * 4 + ("text", "text", "tensors", "tensors", "file", "folder")
        )
        often = {"file": 0.5, "text": 0.3}.get(kind, 0.8)
        edits = [self._edit(rng, kind) for _ in range(rng.choice((1, 1, 1, 2)))]
        return Case(edits, rng.random() < often)

    def _edit(self, rng, kind):
        if kind == "manifest":
            return ["manifest", mutators.json_edit(rng, self.manifest)]
        if kind == "text":
            edit = mutators.flip_edit if rng.random() < 0.7 else mutators.bytes_edit
            return [rng.choice(("text", "whole")), edit(rng, self.size)]
        if kind == "tensors":
            name = rng.choice(TENSORS)
            return ["tensors", name, mutators.tensors_edit(rng, self.contents[name])]
        name = rng.choice(FILES)
        if kind == "file":
            edit = mutators.flip_edit if rng.random() < 0.5 else mutators.bytes_edit
            return ["bytes", name, edit(rng, len(self.contents[name]))]
        how = rng.choice(("extra", "missing", "folder", "link", "fifo", "swap", "outside"))
        return [how, name, rng.choice(NAMES if how == "extra" else FILES)]

    def build(self, case):
        self._restore()
        manifest = json.loads(json.dumps(self.manifest))
        self._record(manifest)
        intact = sealed(json.dumps(manifest).encode())
        for edit in case.edits:
            if edit[0] not in MANIFEST_EDITS:
                with suppress(OSError, ValueError):  # two edits of one place
                    self._edit_folder(edit)
        if case.sealed:
            self._record(manifest)
        text = json.dumps(manifest).encode()
        for kind, edit in (edit for edit in case.edits if edit[0] in ("manifest", "text")):
            with suppress(ValueError, RecursionError):  # broken by the edit before
                if kind == "text":
                    text = mutators.edited_bytes(text, edit)
                else:
                    text = mutators.edited_json(json.loads(text), edit).encode()
        content = sealed(text)
        if not case.sealed:  # the check sum stays as it was
            content = intact[:SEAL] + content[SEAL:]
        for edit in case.edits:
            if edit[0] == "whole":
                content = mutators.edited_bytes(content, edit[1])
        (self.folder / "manifest.json").write_bytes(content)

    def _restore(self):
        for name in self.altered:
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            if name in self.contents:
                path.write_bytes(self.contents[name])
        self.altered.clear()

    def _record(self, manifest):
        for name, record in manifest["files"].items():
            path = self.folder / name
            if path.is_file():
                content = path.read_bytes() if name in self.altered else self.contents[name]
                record.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())

    def _edit_folder(self, edit):
        kind, name, what = edit
        path = self.folder / name
        self.altered.add(what if kind == "extra" else name)
        if kind in ("tensors", "bytes"):
            change = mutators.edited_tensors if kind == "tensors" else mutators.edited_bytes
            path.write_bytes(change(path.read_bytes(), what))
        elif kind == "extra":
            (self.folder / what).write_bytes(b"more")
        elif kind == "swap":
            path.write_bytes(self.contents[what])
        else:
            path.unlink()
            if kind == "folder":
                path.mkdir()
            elif kind == "link":
                path.symlink_to(self.folder / what)
            elif kind == "outside":
                path.symlink_to("/etc/hostname")
            elif kind == "fifo":
                os.mkfifo(path)

    def use(self):
        digest = Digest()
        inspect(self.folder)
        bundle = open_bundle(self.folder)
        digest.add(to_json(bundle.manifest))
        check_levels(bundle)
        engine = Engine("cpu", device.Sessions(bundle, self.contents), "fuzzed", {})
        with Runtime(bundle, engine.backend) as runtime:
            shape = bundle.manifest.frames.shape
            frames = np.resize(device.frames()[1], (bundle.manifest.frames.batch, *shape))
            found = [
                runtime.predict(frames, frozen=True),
                runtime.step(frames),
                runtime.predict(frames[:3]),
            ]
            digest.add(*(answer.logits for answer in found))
        with patch("edgemem.runtime.tools.verification.choose", lambda *_: engine):
            digest.add(vars(verify(self.folder)))
        return digest.output()


def read_manifest(folder):
    """The fields of a manifest but its check sum."""
    fields = json.loads((folder / "manifest.json").read_text())
    return {name: value for name, value in fields.items() if name != "sha256"}


def sealed(text):
    """The bytes of a manifest, from the JSON of its other fields, whatever has become of that."""
    after = b'",' + text[1:]
    return BEGIN + hashlib.sha256(after[1:]).hexdigest().encode() + after
