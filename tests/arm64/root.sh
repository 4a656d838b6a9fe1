#!/bin/sh
# Unpack a Debian 12 arm64 root with Python, and the emulator, into a folder: sh root.sh FOLDER
# apt resolves against lists and a status of its own, so the host's packages, sources and
# architectures stay as they are, and no root rights are needed.
set -eu
folder=$1
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keys=/usr/share/keyrings/debian-archive-keyring.gpg
host=$(dpkg --print-architecture)
new=$folder.new

rm -rf "$new"
mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/root" "$new/emulator"
: > "$new/apt/status"
echo "deb [arch=$host,arm64 signed-by=$keys] $mirror bookworm main" > "$new/apt/sources.list"
cat > "$new/apt/apt.conf" <<CONF
APT::Architecture "arm64";
APT::Architectures { "arm64"; "$host"; };
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
Debug::NoLocking "true";
Dir::Etc::SourceList "$new/apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "$new/apt";
Dir::State::Status "$new/apt/status";
Dir::Cache "$new/apt";
CONF
export APT_CONFIG="$new/apt/apt.conf"
apt-get --quiet=2 update
apt-get --quiet=2 --yes --download-only install \
    python3.11:arm64 libstdc++6:arm64 "qemu-user-static:$host" > /dev/null
dpkg-deb --extract "$new"/apt/archives/qemu-user-static_*.deb "$new/emulator"
rm "$new"/apt/archives/qemu-user-static_*.deb
for package in "$new"/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$new/root"
done
mv "$new/emulator/usr/bin/qemu-aarch64-static" "$new/qemu-aarch64-static"
rm -rf "$new/apt" "$new/emulator" "$new/root/usr/share/doc" "$new/root/usr/share/man"
rm -rf "$folder"
mv "$new" "$folder"
