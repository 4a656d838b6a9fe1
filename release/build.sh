#!/bin/sh
# Wheel and sdist of a commit, the same to the byte wherever they are made: from the files that git
# has, with the commit's time and fixed modes. Usage: build.sh PYTHON FOLDER, in a checkout.
set -eu
python=$1
mkdir -p "$2"
out=$(cd "$2" && pwd)
root=$(git rev-parse --show-toplevel)
SOURCE_DATE_EPOCH=$(git -C "$root" log -1 --format=%ct)
export SOURCE_DATE_EPOCH
umask 022
draft=$(mktemp -d)
trap 'rm -rf "$draft"' EXIT
mkdir "$draft/source"
git -C "$root" -c tar.umask=0022 archive HEAD | tar -x -p -f - -C "$draft/source"
"$python" -m build --no-isolation --outdir "$draft/dist" "$draft/source"
for archive in "$draft"/dist/*.tar.gz; do
    "$python" "$root/release/same_archive.py" "$archive" "$SOURCE_DATE_EPOCH"
done
mv "$draft"/dist/* "$out"
(cd "$out" && sha256sum edgemem-*)
