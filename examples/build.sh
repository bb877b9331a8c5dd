#!/usr/bin/env bash
# Rebuilds the committed objects from their C sources with clang-19 and libbpf's headers. Output: examples/*.bpf.o, or
# the folder given as the first argument.
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-.}
for source in */*.bpf.c; do
	name=$(basename "$source" .bpf.c)
	"${CLANG:-clang-19}" -O2 -g -Wall -Werror -target bpf -mcpu=v3 -ffile-prefix-map="$PWD=examples" \
		-I"/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$out/$name.bpf.o"
	"${STRIP:-llvm-strip-19}" -g "$out/$name.bpf.o"
done
