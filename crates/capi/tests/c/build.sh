#!/usr/bin/env bash
# Rebuilds the committed objects with clang-19 and libbpf's headers, here or in the folder given as the first argument.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")}")
cd "$(dirname "$0")/../../../.."
for source in crates/capi/tests/c/*.bpf.c; do
	name=$(basename "$source" .bpf.c)
	"${CLANG:-clang-19}" -O2 -g -Wall -Werror -target bpf -mcpu=v3 -ffile-prefix-map="$PWD"=. \
		-I"/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$out/$name.bpf.o"
	"${STRIP:-llvm-strip-19}" -g "$out/$name.bpf.o"
done
