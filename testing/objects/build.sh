#!/usr/bin/env bash
# Rebuilds the committed objects from their C sources with clang-19 and libbpf's headers. Output: testing/objects/*.bpf.o,
# or the folder given as the first argument.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")}")
# From the root, so that the debug information names files by their place in the repository.
cd "$(dirname "$0")/../.."
for source in testing/objects/*.bpf.c; do
	name=$(basename "$source" .bpf.c)
	"${CLANG:-clang-19}" -O2 -g -Wall -Werror -target bpf -mcpu=v3 -ffile-prefix-map="$PWD"=. \
		-I"/usr/include/$(uname -m)-linux-gnu" -c "$source" -o "$out/$name.bpf.o"
	"${STRIP:-llvm-strip-19}" -g "$out/$name.bpf.o"
done
