//! The C dump of real types compiles, and every struct in it has the size and offsets of the BTF.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use skep_btf::{Btf, Kind, TypeId, dump};

fn btf(name: &str) -> std::sync::Arc<Btf> {
    skep_object::parse(&support::committed(name), name).unwrap().btf.unwrap()
}

/// Compiles with each C compiler there is; panics with its messages if it refuses.
fn compile(source: &str) -> usize {
    let mut ran = 0;
    for compiler in ["cc", "clang-19"] {
        let child = Command::new(compiler)
            .args(["-fsyntax-only", "-Wno-unknown-pragmas", "-x", "c", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else { continue };
        child.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success(), "{compiler}: {}", String::from_utf8_lossy(&out.stderr));
        ran += 1;
    }
    ran
}

/// The dump with an assertion for each struct and each member that C can name.
fn with_asserts(btf: &Btf) -> (String, usize) {
    let mut text = dump::c_dump(btf).unwrap();
    let mut count = 0;
    for (id, ty) in btf.types() {
        let keyword = match ty.kind() {
            Kind::Struct => "struct",
            Kind::Union => "union",
            _ => continue,
        };
        let name = btf.name(id);
        // Where two files use one tag for different types, the dump renames the second.
        let is_tag = |&id: &TypeId| btf.get(id).is_some_and(|ty| ty.as_composite().is_some() || ty.as_enum().is_some());
        if name.is_empty() || btf.find_all(name).filter(is_tag).count() != 1 {
            continue;
        }
        let size = btf.size_of(id).unwrap();
        writeln!(text, "_Static_assert(sizeof({keyword} {name}) == {size}, \"size of {name}\");").unwrap();
        count += 1;
        for (member, m) in btf.members(id).filter(|(name, m)| !name.is_empty() && m.bitfield_size == 0) {
            let offset = m.bit_offset / 8;
            let macro_name = "__builtin_offsetof";
            writeln!(
                text,
                "_Static_assert({macro_name}({keyword} {name}, {member}) == {offset}, \"{name}.{member}\");"
            )
            .unwrap();
            count += 1;
        }
    }
    (text, count)
}

#[test]
fn the_dump_of_every_object_compiles_with_the_right_layout() {
    for name in ["types", "data", "core", "maps", "sections", "externs"] {
        let (text, count) = with_asserts(&btf(name));
        assert!(count > 5, "{name}");
        compile(&text);
    }
}

#[test]
fn shapes_of_types_are_written_as_c_wants_them() {
    let text = dump::c_dump(&btf("types")).unwrap();
    for needle in [
        "struct packed {\n\tchar c;\n\t__u64 wide;\n\t__u16 half;\n} __attribute__((packed));\n",
        "\tunsigned int a: 3;\n\tunsigned int b: 30;\n\t__u64 c: 40;\n",
        "\tint (*array_of_functions[4])(int, const struct list *);\n",
        "\tint (*pointer_to_array)[7];\n",
        "typedef int (*callback_t)(struct list *, const char *, ...);\n",
        "typedef callback_t (*factory_t)(void);\n",
        "typedef int matrix_t[3][5];\n",
        "typedef struct {\n\tint anonymous;\n} anon_t;\n",
        "\tconst volatile char *const volatile qualified;\n",
        "enum small {\n\tSMALL_A = 0,\n\tSMALL_B = -3,\n};\n",
        "\tLARGE = 9223372036854775809ULL,\n",
        "struct forward;\n",
        "\tstruct list *next;\n\tstruct list **pprev;\n",
        "__attribute__((btf_type_tag(\"user\")))",
    ] {
        assert!(text.contains(needle), "{needle:?} is not in\n{text}");
    }
    assert!(text.find("struct list;").unwrap() < text.find("typedef int (*callback_t)").unwrap());
}

#[test]
fn the_raw_dump_is_bpftools() {
    let text = dump::raw_dump(&btf("types"));
    for needle in [
        "INT 'unsigned int' size=4 bits_offset=0 nr_bits=32 encoding=(none)\n",
        "STRUCT 'packed' size=11 vlen=3\n\t'c' type_id=",
        "ENUM 'small' encoding=SIGNED size=4 vlen=2\n\t'SMALL_A' val=0\n\t'SMALL_B' val=-3\n",
        "ENUM64 'large' encoding=UNSIGNED size=8 vlen=2\n\t'LARGE' val=9223372036854775809ULL\n",
        "FWD 'forward' fwd_kind=struct\n",
        "FWD 'forward_union' fwd_kind=union\n",
        "DECL_TAG 'argument' type_id=",
        " component_idx=0\n",
        "FUNC 'tagged_argument' type_id=",
        " linkage=global\n",
        "DATASEC 'license' size=4 vlen=1\n\ttype_id=",
        "TYPE_TAG 'user' type_id=",
        "FLOAT 'double' size=8\n",
        " bitfield_size=30\n",
    ] {
        assert!(text.contains(needle), "{needle:?} is not in\n{text}");
    }
}

#[test]
fn kernel_types_compile_with_the_right_layout() {
    let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
    let btf = Btf::parse(&bytes).unwrap();
    let (text, count) = with_asserts(&btf);
    assert!(count > 10_000, "{count}");
    if compile(&text) == 0 {
        panic!("no C compiler: install gcc or clang-19");
    }
}
