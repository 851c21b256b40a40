#!/bin/sh
# The tests of the vmnet binding over Apple's own libdispatch, which Debian 13 has in libswiftlang.
# As root: makes a Debian 13 in .cache/trixie (300 MB, once) and runs the tests in it, as uid 0 of the chroot.
set -eu
root="$(cd "$(dirname "$0")/../.." && pwd)"
system="$root/.cache/trixie"
mirror="${1:-}" # where debootstrap gets it from unless told
if ! [ -f "$system/.ready" ]; then
	rm -rf "$system"
	debootstrap --variant=minbase --include=libswiftlang,python3,python3-pytest,python3-pytest-timeout,iproute2 \
		trixie "$system" ${mirror:+"$mirror"}
	touch "$system/.ready"
fi
dispatch="$(dirname "$(find "$system/usr" -name libdispatch.so | head -n1)")"
mkdir -p "$system/softnet"
rm -rf "$system/softnet/src" "$system/softnet/tests"
make -s -C "$root/tests/twin" OUT="$system/softnet/.cache/twin" DISPATCH="$dispatch"
cp -r "$root/src" "$root/tests" "$root/pyproject.toml" "$system/softnet/"
inside="${dispatch#"$system"}"
unshare -m chroot "$system" env -i PATH=/usr/bin:/bin PYTHONPATH=/softnet/src:/softnet/tests \
	PYTHONDONTWRITEBYTECODE=1 LD_LIBRARY_PATH="$inside" TWIN_BUILD=ready sh -euc '
	mount -t proc proc /proc
	cd /softnet
	ldd .cache/twin/libtwinvmnet.so | grep libdispatch
	mkdir -p /tmp/client && rm -f /tmp/client/*
	TWIN_ANYUID=1 TWIN_WIRE=unix:/tmp/client/wire .cache/twin/client /tmp/client
	python3 -m pytest -o addopts=--import-mode=importlib -p no:cacheprovider --timeout 120 \
		tests/unit/test_vmnet_interface.py tests/unit/test_vmnet_link.py tests/unit/test_vmnet_rules.py \
		tests/unit/test_vmnet_blocks.py tests/unit/test_vmnet_uplink.py'
