#!/bin/sh
# scripts/setup.sh GROUP...: installs the Debian packages that a group of commands needs and that are missing.
# It looks before it acts: with nothing missing it asks neither apt nor the network, and needs no root.
# It never installs a kernel: the demo's guest unpacks one into .cache.
set -eu

python="python3 python3-dev python3-venv gcc libc6-dev"
demo="qemu-system-x86 seabios busybox-static lz4 gcc libc6-dev dnsmasq-base iproute2 nftables util-linux"
test="$demo iputils-ping isc-dhcp-client dhcpcd-base systemd passt tcpdump sudo make"
# Other people's DHCP servers and networks, for the bridge uplink. Each runs in a namespace of the tests.
test="$test isc-dhcp-server kea-dhcp4-server libvirt-daemon-system"
bench="$demo iperf3 iputils-ping passt slirp4netns vde2"

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

usage() {
    echo "usage: scripts/setup.sh python|demo|test|bench ..." >&2
    exit 2
}

packages_of() {
    case $1 in
    python) echo "$python" ;;
    demo) echo "$demo" ;;
    test) echo "$test" ;;
    bench) echo "$bench" ;;
    *) usage ;;
    esac
}

installed() {
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

quiet_apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}

install_packages() {
    quiet_apt_get install -y --no-install-recommends "$@" >"$log" 2>&1
}

[ $# -gt 0 ] || usage
wanted=
for group in "$@"; do
    packages=$(packages_of "$group") || exit 2
    wanted="$wanted $packages"
done

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    fail "this is not Debian or a relative of it; install what corresponds to:$wanted"

missing=
for package in $wanted; do
    case " $missing " in *" $package "*) continue ;; esac
    installed "$package" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

[ "$(id -u)" = 0 ] || fail "root is needed to install:$missing; run: sudo $0 $*"
echo "setup.sh: installing$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The package lists may be missing or out of date: only then are they fetched.
# shellcheck disable=SC2086 # names of packages, one word each
if ! install_packages $missing; then
    quiet_apt_get -o APT::Update::Error-Mode=any update >"$log" 2>&1 || fail "apt-get update failed: $(grep "^E:" "$log" | head -n 1); check the network and /etc/apt"
    install_packages $missing || fail "apt-get install failed: $(grep '^E:' "$log" | tail -n 1); run it by hand:
    apt-get install --no-install-recommends$missing"
fi
