#!/bin/sh
# The device install: the wheel in an empty environment, outside the checkout, without torch.
set -eu
test_environment=$(cd "$1" && pwd)
root=$(pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$test_environment/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation \
    --wheel-dir "$folder" "$root"
# Without a pip of its own, which would take longer to install than all that a device needs.
"$test_environment/bin/python" -m venv --without-pip "$folder/empty"
"$test_environment/bin/python" -m pip --python "$folder/empty/bin/python" install --quiet \
    --constraint "$root/constraints.txt" "$folder"/edgemem-*.whl
cp "$root/tests/empty_environment.py" "$folder"
cd "$folder"
"$folder/empty/bin/python" -P empty_environment.py "$folder/empty/bin/edgemem"
