#!/bin/sh
# The tests that are not slow, with the oldest, or the newest, versions that pyproject.toml allows
# of what users install. torch is always the one of constraints.txt.
# With `device`: only the tests of the device side, which need no torch.
# Usage: test_versions.sh PYTHON oldest|newest [device]
set -eu
environment=".venv-$2${3:+-$3-$(basename "$1")}"
if [ ! -e "$environment/installed" ] || [ pyproject.toml -nt "$environment/installed" ]; then
    rm -rf "$environment"
    "$1" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet 'setuptools>=77'
    if [ "$2" = oldest ]; then
        "$environment/bin/python" release/floors.py > "$environment/constraints.txt"
    else
        grep '^torch==' constraints.txt > "$environment/constraints.txt"
    fi
    "$environment/bin/python" -m pip install --quiet \
        --constraint "$environment/constraints.txt" --editable ".[${3:-dev}${3:+-tests}]"
    touch "$environment/installed"
fi
"$environment/bin/python" --version
"$environment/bin/python" -m pip list | grep -iE '^(numpy|onnx|rich|safetensors|torch|typer|click)'
OMP_NUM_THREADS=1 "$environment/bin/python" -m pytest -n 2 --dist loadfile -m 'not slow' \
    ${3:+tests/edgemem tests/runtime}
