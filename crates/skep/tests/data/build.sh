#!/usr/bin/env bash
# Rebuilds committed objects of this folder, or writes them into the one given: needs clang-19 and libbpf's headers.
set -euo pipefail
out=$(realpath "${1:-$(dirname "$0")}")
cd "$(dirname "$0")"
compile() { # FLAGS… -- SOURCE OBJECT
	local flags=()
	while [ "$1" != -- ]; do flags+=("$1"); shift; done
	"${CLANG:-clang-19}" -g -target bpf -I"/usr/include/$(uname -m)-linux-gnu" -ffile-prefix-map="$PWD"=. "${flags[@]}" \
		-c "$2.bpf.c" -o "$out/$3.bpf.o"
	"${STRIP:-llvm-strip-19}" -g "$out/$3.bpf.o"
}
compile -O2 -- percpu_globals percpu_globals
compile -O2 -DVOLATILE=volatile -- percpu_globals percpu_globals_volatile
compile -O0 -- percpu_globals percpu_globals_O0
compile -O2 -- map_iter map_iter
compile -O2 -- percpu_shared percpu_shared
