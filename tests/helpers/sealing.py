"""Manifests altered on purpose, with the check sum that docs/formats/bundle.md tells of."""

import hashlib
import json


def sealed(document):
    """The bytes of a manifest with these fields, whatever they are."""
    fields = {name: value for name, value in document.items() if name != "sha256"}
    rest = json.dumps(fields, indent=1).removeprefix("{") if fields else "\n}"
    rest = f",{rest}\n".encode()
    return b'{\n "sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'"' + rest


def reseal(bundle, change=lambda manifest: None):
    """Rewrite sizes, hashes and check sum after a change, so that only deeper checks notice it."""
    path = bundle / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    for name, record in manifest["files"].items():
        if (bundle / name).is_file():
            content = (bundle / name).read_bytes()
            record.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    path.write_bytes(sealed(manifest))
