#!/usr/bin/env bash
# Unpacks the OpenSSH of the next Debian release, with the libraries it needs, into a folder
# of its own and writes wrappers ssh, sftp, scp, ssh-keygen and sshd there. Nothing is installed.
#
#   tests/clients/newer-openssh.sh FOLDER     (FOLDER/bin/ssh afterwards)
#
# The packages come from the Debian archive that this machine already uses, one release on.
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
release=${NEWER_DEBIAN_RELEASE:-trixie}
[ -x "$folder/bin/sshd" ] && "$folder/bin/ssh" -V 2>/dev/null && exit 0

archive=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | grep -m1 '/debian/*$' \
    || sed -n 's/^deb \([^ ]*\/debian\/*\) .*/\1/p' /etc/apt/sources.list | head -n 1)
[ -n "$archive" ] || { echo "no Debian archive in the package sources" >&2; exit 1; }

state="$folder/apt"
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$folder/root" "$folder/bin"
cp /var/lib/dpkg/status "$state/status"
echo "deb [trusted=yes] $archive $release main" > "$state/sources.list"
options=(
    -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=-
    -o Dir::State="$state" -o Dir::State::Lists="$state/lists" -o Dir::State::status="$state/status"
    -o Dir::Cache="$state/cache" -o APT::Architecture="$(dpkg --print-architecture)"
    -o APT::Sandbox::User=root
)
apt-get "${options[@]}" -qq update
cd "$state/cache/archives"
apt-get "${options[@]}" -qq download \
    openssh-client openssh-server libc6 libssl3t64 libedit2 libfido2-1 libgssapi-krb5-2 libkrb5-3 libk5crypto3 \
    libkrb5support0 libcom-err2 libkeyutils1 libselinux1 libpcre2-8-0 zlib1g libcbor0.10 libudev1 \
    libtinfo6 libbsd0 libmd0 libcap2 libzstd1
for package in *.deb; do dpkg-deb -x "$package" "$folder/root"; done

libraries=$(dirname "$(find "$folder/root" -name 'libc.so.6' | head -n 1)")
loader=$(find "$folder/root" -name 'ld-linux*.so*' | head -n 1)
for program in bin/ssh bin/sftp bin/scp bin/ssh-keygen bin/ssh-keyscan sbin/sshd; do
    printf '#!/bin/sh\nexec "%s" --library-path "%s:%s" "%s" "$@"\n' \
        "$loader" "$libraries" "$folder/root/usr/lib/$(basename "$libraries")" \
        "$folder/root/usr/$program" > "$folder/bin/${program#*/}"
    chmod +x "$folder/bin/${program#*/}"
done
"$folder/bin/ssh" -V
