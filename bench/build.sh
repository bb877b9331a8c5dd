#!/usr/bin/env bash
# Rebuilds bench/*.bpf.o with clang-19, into this folder or the one given.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-.}
for source in *.bpf.c; do
	name=$(basename "$source" .bpf.c)
	"${CLANG:-clang-19}" -O2 -g -Wall -Werror -target bpf -mcpu=v3 -ffile-prefix-map="$PWD=bench" \
		-I"/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$out/$name.bpf.o"
	"${STRIP:-llvm-strip-19}" -g "$out/$name.bpf.o"
done
