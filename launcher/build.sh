#!/bin/sh
# Compiles softnet.c, which says what it is for: build.sh [PREFIX [OUTPUT]]
# CC names another compiler, e.g. CC='python3 -m ziglang cc -target aarch64-macos'.
set -eu
prefix=${1:-/opt/softnet}
output=${2:-build/softnet-launcher}
case $prefix in
  /*) ;;
  *) echo "build.sh: $prefix: the prefix must be an absolute path" >&2; exit 2 ;;
esac
mkdir -p "$(dirname "$output")"
${CC:-cc} -std=gnu11 -O2 -Wall -Wextra -Werror -fstack-protector-strong \
  "-DPREFIX=\"$prefix\"" -o "$output" "$(dirname "$0")/softnet.c"
