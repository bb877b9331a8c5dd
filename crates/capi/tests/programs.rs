//! C programs of `tests/c` against the shared and the static library, in C and C++, with every compiler there is.

mod common;

use common::{Link, build, compilers, here, run};

fn passes(name: &str) {
    let scratch = tempfile::tempdir().expect("a folder");
    let source = here().join("tests/c").join(format!("{name}.c"));
    for compiler in compilers() {
        // Both libraries with one compiler, the shared one with all.
        let links: &[Link] = if compiler.1 == "c" { &[Link::Shared, Link::Static] } else { &[Link::Shared] };
        for &link in links {
            // A C++ compiler with -Wextra wants every field of LIBBPF_OPTS, as it does with libbpf's.
            let more: &[&str] = if compiler.1 == "c" { &[] } else { &["-Wno-missing-field-initializers"] };
            let program = build(scratch.path(), &source, compiler, link, more);
            assert_eq!(run(&program, &[]), "ok\n", "{compiler:?} {link:?}");
        }
    }
}

#[test]
fn objects() {
    passes("objects");
}
