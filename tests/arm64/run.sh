#!/bin/sh
# The device side on an emulated Raspberry Pi: sh tests/arm64/run.sh TEST_ENVIRONMENT
# Where the emulated machine cannot be had, this says so and succeeds: nothing was proven then.
set -eu
here=$(dirname "$0")
folder=$(pwd)/build/arm64
keys=/usr/share/keyrings/debian-archive-keyring.gpg

skip() {
    echo "arm64: SKIPPED, nothing was checked: $1" >&2
    echo "arm64: $2" >&2
    exit 0
}

[ "$(uname -s)" = Linux ] || skip "this is not Linux" "run it on Debian or Ubuntu"
for tool in apt-get dpkg dpkg-deb; do
    command -v "$tool" > /dev/null || skip "$tool is missing" "run it on Debian or Ubuntu"
done
[ -e "$keys" ] ||
    skip "$keys is missing" "install it with: sudo apt-get install debian-archive-keyring"
mkdir -p "$folder"
# root.sh makes the folder under another name, so where it is, it is whole.
if ! [ -d "$folder/debian" ] || [ "$here/root.sh" -nt "$folder/debian" ]; then
    sh "$here/root.sh" "$folder/debian" ||
        skip "no Debian arm64 root and emulator could be unpacked" \
            "see the error above; another mirror: DEBIAN_MIRROR=http://... make test-arm64"
fi
exec "$1/bin/python" "$here/check.py"
