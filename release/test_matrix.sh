#!/bin/sh
# The device side's tests on every Python that the project allows and this machine has: with the
# newest packages on each, and with the oldest on the oldest Python, for which all of them have wheels.
set -eu
for python in python3.11 python3.12 python3.13 python3.14; do
    if ! "$python" -c '' 2> /dev/null; then
        echo "test-versions SKIPPED $python: it is not on this machine's PATH"
        continue
    fi
    [ "$python" != python3.11 ] || sh release/test_versions.sh "$python" oldest device
    sh release/test_versions.sh "$python" newest device
done
