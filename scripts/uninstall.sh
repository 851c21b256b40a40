#!/bin/sh
# Removes what install.sh made, and nothing else: uninstall.sh [--prefix FOLDER]   (DESTDIR as there)
set -eu
prefix=/opt/softnet
destdir=${DESTDIR:-}
case ${1:-} in
  --prefix) prefix=${2:?--prefix needs a value} ;;
  '') ;;
  *) echo "uninstall.sh: $1: unknown option; see the head of $0" >&2; exit 2 ;;
esac
home=$destdir$prefix
if [ ! -f "$home/installed" ]; then
  echo "uninstall.sh: $prefix: nothing of Softnet's is installed there; say where with --prefix" >&2
  exit 1
fi
# The list names the rule first: from then on nobody becomes root through what is being removed.
while read -r path; do rm -f "$destdir$path"; done < "$home/installed"
rm -rf "$home"
echo "removed $prefix"
