#!/bin/sh
# The device side's tests with the oldest packages on the oldest Python, which has wheels of all of
# them, and with the newest on every later Python that this machine has.
# The newest on the oldest Python are about those of constraints.txt, which `make test` runs with.
set -eu
for python in python3.11 python3.12 python3.13 python3.14; do
    if ! "$python" -c '' 2> /dev/null; then
        echo "test-versions SKIPPED $python: it is not on this machine's PATH"
    elif [ "$python" = python3.11 ]; then
        sh release/test_versions.sh "$python" oldest device
    else
        sh release/test_versions.sh "$python" newest device
    fi
done
