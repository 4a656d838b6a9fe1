"""Sealed documents: JSON that is read back only if no bit of it has changed.

`manifest.json` of every bundle is one. It begins with the SHA-256 of all that follows, which is
looked at before anything else is read. It finds accidents; against malice, the identity of the
bundle has to be known from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from edgemem.bundle.manifest import REMEDY
from edgemem.errors import BundleError
from edgemem.files.typed_json import Value, read_json

MANIFEST = "manifest.json"
FORMAT = "edgemem-bundle"
FORMAT_VERSION = 1
FRAMES, TEXT, MEMORIES = "frames", "text", "memories"
# Kind of a folder with a manifest -> what takes it.
OPENED_BY = {
    FRAMES: "Open it with edgemem.open, or edgemem run",
    TEXT: "Open it with edgemem.open_language, or edgemem generate",
    MEMORIES: "Make it part of a bundle: edgemem export-lm FOLDER --memories BANK",
}
MOST_BYTES = 16 << 20
BEGINNING = re.compile(rb'\{\n "sha256": "([0-9a-f]{64})"')


def sealed(document: dict[str, Any]) -> bytes:
    """The bytes of a manifest with these fields, its own check sum first.

    Raises:
        BundleError: a number is not finite.
    """
    try:
        text = json.dumps({"sha256": "", **document}, indent=1, allow_nan=False) + "\n"
    except ValueError as error:
        raise BundleError(MANIFEST, f"cannot be written ({error})", "Report this") from error
    before, after = text.split('""', 1)
    digest = hashlib.sha256(after.encode()).hexdigest()
    return f'{before}"{digest}"{after}'.encode()


def read_sealed(content: bytes, where: str, kind: str) -> Value:
    """The document of a manifest of one kind, as it was written.

    Raises:
        BundleError: altered, not JSON, or another format, version or kind.
    """
    document, found = _document(content, where)
    if found != kind:
        raise BundleError(where, f"is of kind {found}, not {kind}", OPENED_BY[found])
    return document


def sealed_kind(content: bytes, where: str) -> str:
    """The kind of a manifest: `FRAMES`, `TEXT` or `MEMORIES`.

    Raises:
        BundleError: altered, not JSON, or another format or version.
    """
    return _document(content, where)[1]


def _document(content: bytes, where: str) -> tuple[Value, str]:
    check_seal(content, where)
    document = read_json(content, where, BundleError, REMEDY, most_bytes=MOST_BYTES)
    if document.object().get("format", document).plain != FORMAT:
        raise BundleError(where, "is not the manifest of an EdgeMem bundle", REMEDY)
    version = document.field("format_version")
    if version.plain != FORMAT_VERSION or type(version.plain) is not int:
        raise BundleError(
            where,
            f"has format version {version.shown}; this EdgeMem reads {FORMAT_VERSION}",
            "Update EdgeMem, or export the bundle again",
        )
    told = document.object().get("kind")
    others = [name for name in OPENED_BY if name != FRAMES]
    return document, FRAMES if told is None else told.choice(others)


def check_seal(content: bytes, where: str) -> None:
    """Check that all bytes after its check sum are as they were written.

    Raises:
        BundleError: they are not.
    """
    begin = BEGINNING.match(content)
    if begin is None and content.startswith(b"{\r"):
        raise BundleError(
            where, "had its line ends changed", "Copy it as binary (git: *.edgemem/** -text)"
        )
    if begin is None:
        raise BundleError(where, "does not begin with its check sum", REMEDY)
    if hashlib.sha256(content[begin.end() :]).hexdigest().encode() != begin[1]:
        raise BundleError(where, "was changed after it was written (check sum)", REMEDY)
