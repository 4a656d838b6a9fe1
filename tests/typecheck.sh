#!/bin/sh
# Type-check the package as users get it: mypy does not run the import hook of an editable install.
set -eu
test_environment=$(cd "$1" && pwd)
root=$(pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$test_environment/bin/python" -m pip install --quiet --no-deps --target "$folder/site" "$2"
cd "$folder"
MYPYPATH="$folder/site" "$test_environment/bin/mypy" --config-file "$root/pyproject.toml" \
    --cache-dir "$root/.mypy_cache" -p edgemem
