#!/usr/bin/env bash
# Rebuilds the committed objects: needs clang-19 and libbpf's headers (Debian: clang-19 libbpf-dev linux-libc-dev).
set -euo pipefail
cd "$(dirname "$0")"
clang=${CLANG:-clang-19}
flags=(-O2 -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -ffile-prefix-map="$PWD"=.)
for source in sections maps data externs externs_strong core core_target types names collide; do
	"$clang" "${flags[@]}" -g -c "$source.bpf.c" -o "$source.bpf.o"
done
for cpu in v1 v2 v3 v4; do
	"$clang" "${flags[@]}" -g -mcpu="$cpu" -c cpu.bpf.c -o "cpu.$cpu.bpf.o"
done
"$clang" "${flags[@]}" -c nobtf.bpf.c -o nobtf.bpf.o
"${STRIP:-llvm-strip-19}" -g ./*.bpf.o
