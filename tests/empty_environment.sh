#!/bin/sh
# The device install: the wheel in an empty environment, outside the checkout, without torch.
set -eu
test_environment=$(cd "$1" && pwd)
root=$(pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$test_environment/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation \
    --wheel-dir "$folder" "$root"
"$test_environment/bin/python" -m venv "$folder/empty"
"$folder/empty/bin/python" -m pip install --quiet --constraint "$root/constraints.txt" \
    "$folder"/edgemem-*.whl
cp "$root/tests/empty_environment.py" "$folder"
cd "$folder"
"$folder/empty/bin/python" -P empty_environment.py "$folder/empty/bin/edgemem"
