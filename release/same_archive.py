"""Rewrites a .tar.gz so that equal files give equal bytes.

No times, owners or order of a machine stay in it.
"""

import gzip
import io
import sys
import tarfile
from pathlib import Path


def rewrite(archive: Path, seconds: int) -> None:
    """seconds: since the epoch, the time of every file."""
    content = io.BytesIO()
    with (
        tarfile.open(archive) as old,
        gzip.GzipFile(filename="", fileobj=content, mode="wb", mtime=seconds) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda item: item.name):
            same = tarfile.TarInfo(member.name)
            same.type, same.size, same.linkname = member.type, member.size, member.linkname
            same.mtime, same.mode = seconds, 0o755 if member.isdir() else member.mode & 0o755
            new.addfile(same, old.extractfile(member) if member.isfile() else None)
    archive.write_bytes(content.getvalue())


if __name__ == "__main__":
    rewrite(Path(sys.argv[1]), int(sys.argv[2]))
