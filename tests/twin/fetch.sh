#!/bin/sh
# Fetches what the ABI check compares with, into .cache/abi (nothing of it is part of the project):
# - ziglang (PyPI): a C compiler with Apple's own dispatch and xpc headers;
# - @nativescript/macos-node-api (npm): a listing of vmnet, made by machine from Apple's SDK.
set -eu
ZIGLANG=0.15.2
MACOS_NODE_API=0.4.0
cache="$(cd "$(dirname "$0")/../.." && pwd)/.cache/abi"
mkdir -p "$cache"
cd "$cache"
[ -x ziglang/zig ] || "${PYTHON:-python3}" -m pip install -q --no-deps --target . "ziglang==$ZIGLANG"
if ! [ -f package/types/vmnet.d.ts ]; then
	npm pack --silent "@nativescript/macos-node-api@$MACOS_NODE_API" >/dev/null
	tar -xzf "nativescript-macos-node-api-$MACOS_NODE_API.tgz" package/types/vmnet.d.ts package/LICENSE
	rm "nativescript-macos-node-api-$MACOS_NODE_API.tgz"
fi
echo "$cache"
