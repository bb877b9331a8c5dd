#!/usr/bin/env bash
# Rebuilds the committed objects of this folder, or writes them into the one given: needs clang-19 and libbpf's headers.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")}")
cd "$(dirname "$0")"
compile() { # SOURCE OBJECT FLAGS…
	local source=$1 object=$2
	shift 2
	"${CLANG:-clang-19}" -O2 -g -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -ffile-prefix-map="$PWD"=. "$@" \
		-c "$source.bpf.c" -o "$out/$object.bpf.o"
	"${STRIP:-llvm-strip-19}" -g "$out/$object.bpf.o"
}
compile main main
compile lib lib
compile main main_plain -DNO_PERCPU
compile lib lib_plain -DNO_PERCPU
for what in licence twice other_type other_map other_func other_kind; do
	compile clash "clash_$what" "-D${what^^}"
done
