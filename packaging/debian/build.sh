#!/bin/sh
# Builds the Debian package: build.sh [FOLDER]   (default dist; SOFTNET_COMPILE=0 for the plain one)
#
# Needs dpkg-deb and, for the compiled package, what scripts/build-package.sh says.
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
output=${1:-$checkout/dist}
python=${PYTHON:-/usr/bin/python3}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

"$checkout/scripts/build-package.sh" "$python" "$root/usr/lib/softnet"
rm -rf "$root"/usr/lib/softnet/*.dist-info
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/usr/lib/softnet/softnet/__init__.py")
architecture=all
[ -z "$(find "$root" -name '*.so' -print -quit)" ] || architecture=$(dpkg --print-architecture)

install -D -m 755 "$here/softnet" "$root/usr/bin/softnet"
install -D -m 440 "$here/sudoers" "$root/etc/sudoers.d/softnet"
install -D -m 644 "$here/copyright" "$root/usr/share/doc/softnet/copyright"
install -d "$root/DEBIAN"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN/"
echo /etc/sudoers.d/softnet > "$root/DEBIAN/conffiles"
size=$(du -sk --exclude=DEBIAN "$root" | cut -f1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" "$here/control" > "$root/DEBIAN/control"
(cd "$root" && find usr -type f -exec md5sum {} + > DEBIAN/md5sums)

mkdir -p "$output"
dpkg-deb --build --root-owner-group "$root" "$output/softnet_${version}_$architecture.deb"
