//! The helper tables of `skep-abi` are the running kernel's.
//!
//! Which program type may call what is asked by loading `call N`; `BLESS=1` rewrites the table from the answers. The
//! prototypes are compared with the kernel's own structures, found by the helper's symbol.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use skep_abi::asm::assemble;
use skep_abi::helper::{
    Allowed, ArgKind, ArgType, Caps, HelperProto, ProtoFlags, RetKind, helper, helper_allowed, helper_for,
};
use skep_abi::{AttachType, ProgType};
use skep_testing::kernel::{self, KernelMemory, symbols};
use skep_testing::probe::{ProgKind, kinds, vmlinux};

const LAST: u32 = 211;
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/abi/src/helper/allow_table.rs");

/// The helpers that the kernel lets this kind call.
fn allowed_by_kernel(kind: &ProgKind) -> BTreeSet<u32> {
    let mut allowed = BTreeSet::new();
    for id in 1..=LAST {
        let program = assemble(&format!("call {id}\nr0 = 0\nexit")).expect("assembles");
        match kind.load(&program, 1) {
            Err(failure) if failure.log.contains("cannot use helper") => {}
            other => {
                let no_log = matches!(&other, Err(failure) if failure.log.is_empty());
                assert!(!no_log, "{kind:?} does not load");
                allowed.insert(id);
            }
        }
    }
    allowed
}

/// `camel` case of a kernel name: the Rust variant.
fn variant(name: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(capital).collect()
}

fn list(ids: impl Iterator<Item = u32>) -> String {
    ids.map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
}

/// The text of the table for what was probed.
fn render(probed: &[(ProgKind, BTreeSet<u32>)]) -> String {
    let common: BTreeSet<u32> =
        probed.iter().map(|(_, set)| set.clone()).reduce(|a, b| &a & &b).expect("something was probed");
    let mut text = format!(
        "//! Which helpers each program type may call, probed from Linux 6.18.\n//!\n\
         //! Rewritten by `BLESS=1 cargo test -p skep-testing --test helper_oracle`; helpers that the probed kernel was\n\
         //! built without are missing.\n\n\
         use super::allow::Row;\nuse crate::types::{{AttachType as A, ProgType as P}};\n\n\
         /// What every program type may call.\n#[rustfmt::skip]\npub(super) static COMMON: &[u32] = &[{}];\n\n\
         /// What one program type may call beyond [`COMMON`]; without attach types, for all of them.\n\
         #[rustfmt::skip]\npub(super) static ROWS: &[Row] = &[\n",
        list(common.iter().copied())
    );
    type Group = (BTreeSet<u32>, Vec<AttachType>);
    let mut by_type: BTreeMap<ProgType, Vec<Group>> = BTreeMap::new();
    for (kind, set) in probed {
        let groups = by_type.entry(kind.prog).or_default();
        match groups.iter_mut().find(|(known, _)| known == set) {
            Some((_, attach)) => attach.push(kind.attach),
            None => groups.push((set.clone(), vec![kind.attach])),
        }
    }
    for (prog, groups) in by_type {
        let alone = groups.len() == 1;
        for (set, attach) in groups {
            let attach: Vec<String> = attach.iter().map(|attach| format!("A::{}", variant(attach.name()))).collect();
            let attach = if alone { String::new() } else { attach.join(", ") };
            let extra = list(set.difference(&common).copied());
            let prog = variant(prog.name());
            writeln!(text, "    Row {{ prog: P::{prog}, attach: &[{attach}], ids: &[{extra}] }},").expect("string");
        }
    }
    text + "];\n"
}

#[test]
fn the_kernel_allows_the_same_helpers() {
    if !kernel::require("helper lists against the kernel") {
        return;
    }
    let kinds = kinds();
    assert!(kinds.len() >= 55, "only {} kinds of programs load", kinds.len());
    let probed: Vec<_> = kinds.into_iter().map(|kind| (kind, allowed_by_kernel(&kind))).collect();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(TABLE, render(&probed)).expect("the table can be written");
        return;
    }
    let mut differences = Vec::new();
    for (kind, set) in &probed {
        for id in 1..=LAST {
            let ours = helper_allowed(kind.prog, kind.attach, id, Caps::ALL) == Allowed::Yes;
            if ours != set.contains(&id) {
                differences.push(format!("{:?} {:?} {id}: ours {ours}", kind.prog, kind.attach));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A prototype as the kernel stores it: flags, result, arguments.
type Stored = ([u8; 4], u32, [u32; 5]);

fn stored(proto: &HelperProto) -> Stored {
    let ProtoFlags { gpl_only, pkt_access, might_sleep, allow_fastcall, .. } = proto.flags;
    let flags = [gpl_only, pkt_access, might_sleep, allow_fastcall].map(u8::from);
    let ret = match proto.ret.kind {
        RetKind::Integer => 0,
        RetKind::Void => 1,
        RetKind::PtrToMapValue => 2,
        RetKind::PtrToSocket => 3,
        RetKind::PtrToTcpSock => 4,
        RetKind::PtrToSockCommon => 5,
        RetKind::PtrToMem => 6,
        RetKind::PtrToMemOrBtfId => 7,
        RetKind::PtrToBtfId => 8,
    };
    (flags, ret | proto.ret.flags.0, proto.args.map(|arg| arg.kind as u32 | arg.flags.0))
}

/// Every structure in the kernel's read-only data that looks like a prototype, with its BTF ids, by function symbol.
fn kernel_protos() -> HashMap<String, Vec<(Stored, [u64; 6])>> {
    let memory = KernelMemory::open().expect("kernel memory");
    let symbols = symbols();
    let start = *symbols.iter().find(|(_, name)| *name == "__start_rodata").expect("__start_rodata").0;
    let mut data = Vec::new();
    while let Ok(page) = memory.read(start + data.len() as u64, 16384) {
        data.extend(page);
    }
    let word = |at: usize| u32::from_le_bytes(data[at..at + 4].try_into().expect("4 bytes"));
    let long = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().expect("8 bytes"));
    let mut found: HashMap<String, Vec<(Stored, [u64; 6])>> = HashMap::new();
    for at in (0..data.len().saturating_sub(96)).step_by(8) {
        let Some(name) = symbols.get(&long(at)) else { continue };
        let flags: [u8; 4] = data[at + 8..at + 12].try_into().expect("4 bytes");
        let args = [0, 1, 2, 3, 4].map(|i| word(at + 16 + 4 * i));
        if flags.iter().any(|flag| *flag > 1) || args.iter().any(|arg| arg & 0xff > 23) {
            continue;
        }
        let extra = [0, 1, 2, 3, 4, 5].map(|i| {
            let value = long(at + 40 + 8 * i);
            // A pointer to a BTF id in the same data becomes the id.
            match usize::try_from(value.wrapping_sub(start)) {
                Ok(offset) if offset + 4 <= data.len() => u64::from(word(offset)),
                _ => value,
            }
        });
        found.entry(name.clone()).or_default().push(((flags, word(at + 12), args), extra));
    }
    found
}

/// Symbols of helpers whose function is not named as the helper.
fn symbols_of(name: &str) -> Vec<String> {
    let short = name.strip_prefix("bpf_").unwrap_or(name);
    let mut names = vec![name.to_owned(), short.to_owned()];
    let wrapped = |prefix: &str, suffix: &str| format!("bpf_{prefix}{short}{suffix}");
    for prefix in ["skb_", "xdp_", "sock_ops_", "lwt_in_", "sk_"] {
        names.push(wrapped(prefix, ""));
    }
    for suffix in ["_compat", "_kprobe", "_tracing", "_curr", "_pe"] {
        names.push(wrapped("", suffix));
    }
    names.extend(
        match short {
            "get_prandom_u32" => "bpf_user_rnd_u32",
            "get_smp_processor_id" => "bpf_get_raw_cpu_id",
            "probe_read_str" => "bpf_probe_read_compat_str",
            "lwt_push_encap" => "bpf_lwt_in_push_encap",
            "skb_output" => "bpf_skb_event_output",
            "xdp_output" => "bpf_xdp_event_output",
            "get_socket_cookie" => "bpf_get_socket_ptr_cookie",
            "sk_assign" => "bpf_sk_lookup_assign",
            _ => return names,
        }
        .split(' ')
        .map(str::to_owned),
    );
    names
}

#[test]
fn prototypes_are_the_kernels() {
    if !kernel::require("helper prototypes against the kernel") {
        return;
    }
    // Built without (or, for the tail call, without a function of its own).
    let absent = [
        "bpf_tail_call",
        "bpf_probe_write_user",
        "bpf_override_return",
        "bpf_rc_repeat",
        "bpf_rc_keydown",
        "bpf_rc_pointer_rel",
    ];
    let kernel = kernel_protos();
    // They may sleep since a stable release in the middle of 6.18: in this kernel all three of them, or none.
    let sleep_since = ["bpf_sys_bpf", "bpf_btf_find_by_name_kind", "bpf_sys_close"];
    let sleeps = |name: &&str| kernel.get(*name).is_some_and(|protos| protos.iter().any(|(proto, _)| proto.0[2] == 1));
    let sleeping = sleep_since.iter().filter(|name| sleeps(name)).count();
    assert!(sleeping == 0 || sleeping == sleep_since.len(), "{sleeping} of {sleep_since:?} may sleep");
    let (mut compared, mut differences) = (0u32, Vec::new());
    let mut check = |proto: &HelperProto| {
        let candidates: Vec<_> = symbols_of(&proto.name).iter().filter_map(|name| kernel.get(name)).flatten().collect();
        if absent.contains(&&*proto.name) {
            return;
        }
        compared += 1;
        let mut ours = stored(proto);
        if sleeping == 0 && sleep_since.contains(&&*proto.name) {
            ours.0[2] = 0;
        }
        let same: Vec<_> = candidates.iter().filter(|(theirs, _)| *theirs == ours).collect();
        if same.is_empty() {
            differences.push(format!("{}: ours {ours:x?}, kernel {candidates:x?}", proto.name));
        }
        // Sizes and kernel types of arguments, and the kernel type of the result.
        let fits = same.iter().any(|(_, extra)| {
            let args = proto.args.iter().zip(extra).all(|(arg, extra)| match arg.btf {
                Some(name) if u32::try_from(*extra).is_ok() => {
                    skep_btf::TypeId(u32::try_from(*extra).unwrap_or(0)).0 != 0
                        && vmlinux().name(skep_btf::TypeId(u32::try_from(*extra).unwrap_or(0))) == name
                }
                _ => arg.size == 0 || u64::from(arg.size) == *extra,
            });
            let ret = match (proto.ret.btf, u32::try_from(extra[5])) {
                (Some(name), Ok(id)) => vmlinux().name(skep_btf::TypeId(id)) == name,
                _ => true,
            };
            args && ret
        });
        if !same.is_empty() && !fits {
            differences.push(format!("{}: sizes or types: {same:x?}", proto.name));
        }
    };
    for id in 1..=LAST {
        check(helper(id).expect("every id has a prototype"));
        for kind in kinds() {
            let proto = helper_for(kind.prog, kind.attach, id).expect("every id has a prototype");
            if !std::ptr::eq(proto, helper(id).expect("as above")) {
                check(proto);
            }
        }
    }
    assert!(compared >= 205, "{compared}");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn the_same_helpers_need_perfmon() {
    if !kernel::require("helpers without CAP_PERFMON against the kernel") {
        return;
    }
    let kinds: Vec<ProgKind> =
        kinds().into_iter().filter(|kind| matches!(kind.prog, ProgType::Xdp | ProgType::SchedCls)).collect();
    let probe = || kinds.iter().map(|kind| (*kind, allowed_by_kernel(kind))).collect::<Vec<_>>();
    let probed = kernel::without_perfmon(probe).expect("capabilities can be dropped");
    let caps = Caps { bpf: true, perfmon: false };
    for (kind, set) in probed {
        let ours: BTreeSet<u32> =
            (1..=LAST).filter(|id| helper_allowed(kind.prog, kind.attach, *id, caps) == Allowed::Yes).collect();
        assert_eq!(ours, set, "{kind:?}: extra {:?}, missing {:?}", &ours - &set, &set - &ours);
    }
}

#[test]
fn everybody_may_call_the_same_helpers() {
    if !kernel::require("helpers without capabilities against the kernel") {
        return;
    }
    let nobody = match kernel::Unprivileged::allow_for_test() {
        Ok(nobody) => nobody,
        Err(why) => {
            println!("helpers without capabilities are not asked of the kernel: {why}");
            return;
        }
    };
    let of_everybody = |kind: &ProgKind| matches!(kind.prog, ProgType::SocketFilter | ProgType::CgroupSkb);
    for kind in kinds().into_iter().filter(of_everybody) {
        let set = nobody.run(|| allowed_by_kernel(&kind)).expect("capabilities can be laid down");
        let ours: BTreeSet<u32> =
            (1..=LAST).filter(|id| helper_allowed(kind.prog, kind.attach, *id, Caps::NONE) == Allowed::Yes).collect();
        assert_eq!(ours, set, "{kind:?}: extra {:?}, missing {:?}", &ours - &set, &set - &ours);
    }
}

/// Lines that give register `n` a value fit for the argument; `None` where that takes more than a line.
fn argument(arg: &ArgType, n: usize) -> Option<String> {
    Some(match arg.kind {
        ArgKind::DontCare => String::new(),
        ArgKind::Anything => format!("r{n} = 0\n"),
        ArgKind::PtrToCtx => format!("r{n} = r6\n"),
        ArgKind::PtrToMem => format!("r{n} = r10\nr{n} += -64\n"),
        ArgKind::ConstSize | ArgKind::ConstSizeOrZero => format!("r{n} = 8\n"),
        _ => return None,
    })
}

/// Whether packet pointers survive a call; `None` when such a call cannot be made here.
fn keeps_packet(kind: &ProgKind, offsets: (u32, u32), proto: &HelperProto) -> Option<bool> {
    let (data, end) = offsets;
    let width = if matches!(kind.prog, ProgType::SkMsg | ProgType::SockOps) { "u64" } else { "u32" };
    let mut text: String = (1..=8).map(|slot| format!("*(u64 *)(r10 {}) = 0\n", -8 * slot)).collect();
    text += &format!("r6 = r1\nr7 = *({width} *)(r6 +{data})\nr8 = *({width} *)(r6 +{end})\nr2 = r7\nr2 += 8\n");
    text += "if r2 > r8 goto out\n";
    for (at, arg) in proto.args.iter().enumerate() {
        text += &argument(arg, at + 1)?;
    }
    text += &format!("call {}\nr1 = *(u8 *)(r7 +0)\nout: r0 = 0\nexit", proto.id);
    let program = assemble(&text).expect("assembles");
    match kind.load(&program, 1) {
        Ok(_) => Some(true),
        Err(failure) if failure.message().starts_with("R7 invalid mem access 'scalar'") => Some(false),
        Err(_) => None,
    }
}

#[test]
fn the_same_helpers_lose_the_packet() {
    if !kernel::require("which helpers change packets against the kernel") {
        return;
    }
    let (mut kept, mut lost, mut differences) = (0, 0, Vec::new());
    for kind in kinds() {
        let offsets = match kind.prog {
            ProgType::Xdp => (0, 4),
            ProgType::SchedCls | ProgType::LwtXmit | ProgType::LwtIn | ProgType::LwtSeg6local | ProgType::SkSkb => {
                (76, 80)
            }
            ProgType::SkMsg => (0, 8),
            ProgType::SockOps => (192, 200),
            _ => continue,
        };
        for id in 1..=LAST {
            let proto = helper_for(kind.prog, kind.attach, id).expect("every id has a prototype");
            let Some(keeps) = keeps_packet(&kind, offsets, proto) else { continue };
            kept += u32::from(keeps);
            lost += u32::from(!keeps);
            if keeps == proto.flags.changes_pkt {
                differences.push(format!("{:?} {}: kernel keeps the packet: {keeps}", kind.prog, proto.name));
            }
        }
    }
    assert!(kept > 100 && lost > 20, "{kept} {lost}");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
