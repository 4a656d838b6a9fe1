#!/bin/sh
# The device install: a wheel in an empty environment, outside the checkout, without torch.
set -eu
test_environment=$(cd "$1" && pwd)
wheel=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
root=$(pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# Without a pip of its own, which would take longer to install than all that a device needs.
"$test_environment/bin/python" -m venv --without-pip "$folder/empty"
"$test_environment/bin/python" -m pip --python "$folder/empty/bin/python" install --quiet \
    --constraint "$root/constraints.txt" "$wheel"
cp -r "$root/tests/empty_environment.py" "$root/tests/runtime/language/tiny.edgemem" \
    "$root/tests/runtime/language/answers.json" "$folder"
cd "$folder"
"$folder/empty/bin/python" -P empty_environment.py frames "$folder/empty/bin/edgemem"
"$test_environment/bin/python" -m pip --python "$folder/empty/bin/python" install --quiet \
    --constraint "$root/constraints.txt" "$wheel[lm]"
"$folder/empty/bin/python" -P empty_environment.py text "$folder/empty/bin/edgemem"
