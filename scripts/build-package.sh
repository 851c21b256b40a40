#!/bin/sh
# Puts the package, compiled where that is possible, into a folder: build-package.sh PYTHON FOLDER
#
# Compiling takes pip for that PYTHON, a C compiler, and Cython from the index (SOFTNET_WHEEL names a
# wheel that was built before, and needs none of them). Without them the same sources are installed as
# they are and run interpreted. Works in a copy: the checkout stays as it is.
set -eu
python=$1 folder=$2
checkout=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder" "$work/checkout" "$work/wheel"

if [ -n "${SOFTNET_WHEEL:-}" ]; then
  "$python" -I -m zipfile -e "$SOFTNET_WHEEL" "$folder"
elif [ "${SOFTNET_COMPILE:-1}" = 1 ] && command -v cc >/dev/null && "$python" -I -m pip --version >/dev/null 2>&1; then
  (cd "$checkout" && cp -R src pyproject.toml setup.py LICENSE README.md "$work/checkout/")
  "$python" -I -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir "$work/wheel" "$work/checkout"
  "$python" -I -m zipfile -e "$work"/wheel/softnet-*.whl "$folder"
else
  echo "build-package.sh: no pip or no C compiler for $python: Softnet will run interpreted" >&2
  cp -R "$checkout/src/softnet" "$folder/softnet"
fi

# What compiling leaves and running does not need.
find "$folder/softnet" \( -name '__pycache__' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.pyi' \) -prune -exec rm -rf {} +
test -f "$folder/softnet/__init__.py"
