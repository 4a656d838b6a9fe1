#!/bin/sh
# A device that has no wheel of onnxruntime: LiteRT, numpy, and EdgeMem without its requirements.
# $1: an environment with setuptools; $2: a bundle with LiteRT graphs.
set -eu
builder=$(cd "$1" && pwd)
bundle=$(cd "$2" && pwd)
root=$(pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$builder/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation \
    --wheel-dir "$folder" "$root"
"$builder/bin/python" -m venv "$folder/device"
"$folder/device/bin/python" -m pip install --quiet \
    --constraint "$root/tests/targets/constraints-litert.txt" \
    ai-edge-litert numpy safetensors typer rich
"$folder/device/bin/python" -m pip install --quiet --no-deps "$folder"/edgemem-*.whl
cp "$root/tests/targets/without_onnxruntime.py" "$folder"
cd "$folder"
"$folder/device/bin/python" -P without_onnxruntime.py "$bundle" "$folder/device/bin/edgemem"
