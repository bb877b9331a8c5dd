//! Every context access that the tables allow or refuse is allowed or refused by the kernel.

use skep_abi::asm::assemble;
use skep_abi::ctx::{CtxAccess, CtxFieldKind, ctx_layout_for};
use skep_testing::kernel;
use skep_testing::probe::{ProgKind, kinds};

/// Far enough to pass the end of every structure.
const REACH: u32 = 272;

/// The kernel's register type after a load, up to its bounds: `pkt`, `sock_or_null`, `scalar`.
fn type_after(line: &str) -> String {
    let state = line.split_once("R0").map_or("", |(_, state)| state);
    let state = state.trim_start_matches("_w").trim_start_matches('=');
    let end = state.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(state.len());
    state[..end].to_owned()
}

fn kernel_type(access: CtxAccess<'_>) -> String {
    let CtxAccess::Field(field) = access else { return "scalar".to_owned() };
    match field.kind {
        CtxFieldKind::Scalar => "scalar".to_owned(),
        CtxFieldKind::PacketData => "pkt".to_owned(),
        CtxFieldKind::PacketEnd => "pkt_end".to_owned(),
        CtxFieldKind::PacketMeta => "pkt_meta".to_owned(),
        CtxFieldKind::Sock => "sock".to_owned(),
        CtxFieldKind::SockOrNull => "sock_or_null".to_owned(),
        CtxFieldKind::SockCommonOrNull => "sock_common_or_null".to_owned(),
        CtxFieldKind::FlowKeys => "flow_keys".to_owned(),
        CtxFieldKind::TpBuffer => "tp_buffer".to_owned(),
        CtxFieldKind::RdonlyBufOrNull => "rdonly_buf_or_null".to_owned(),
        CtxFieldKind::BufOrNull => "buf_or_null".to_owned(),
        CtxFieldKind::Btf(name) => format!("trusted_ptr_{name}"),
    }
}

/// The type that the kernel gives for a load, `None` when it refuses the access; for a store, an empty type.
fn ask(kind: &ProgKind, offset: u32, name: &str, write: bool) -> Option<String> {
    let access =
        if write { format!("*({name} *)(r1 +{offset}) = r2") } else { format!("r0 = *({name} *)(r1 +{offset})") };
    let program = assemble(&format!("r2 = 0\n{access}\nr0 = 0\nexit")).expect("assembles");
    let log = match kind.load(&program, 2) {
        Ok(loaded) => loaded.log,
        Err(failure) => failure.log,
    };
    log.lines().find(|line| line.starts_with("2: ("))?;
    let line = log.lines().find(|line| line.starts_with("1: (")).unwrap_or_default();
    Some(if write { String::new() } else { type_after(line) })
}

#[test]
fn the_kernel_allows_the_same_accesses() {
    if !kernel::require("context accesses against the kernel") {
        return;
    }
    let (mut compared, mut differences) = (0u32, Vec::new());
    for kind in kinds() {
        let Some(layout) = ctx_layout_for(kind.prog, kind.attach) else { continue };
        let ends = layout.region.map_or(0..0, |region| region.end.saturating_sub(12)..region.end.min(32000) + 4);
        for offset in (0..REACH).chain(ends.filter(|end| *end >= REACH && *end < 32767)) {
            for (size, name) in [(1, "u8"), (2, "u16"), (4, "u32"), (8, "u64")] {
                for write in [false, true] {
                    let ours = layout.find(offset, size, write);
                    let ours = ours.map(|access| if write { String::new() } else { kernel_type(access) });
                    let theirs = ask(&kind, offset, name, write);
                    compared += 1;
                    if ours != theirs {
                        let verb = if write { "write" } else { "read" };
                        differences.push(format!(
                            "{:?} {:?} {verb} {offset}/{size}: ours {ours:?}, kernel {theirs:?}",
                            kind.prog, kind.attach
                        ));
                    }
                }
            }
        }
    }
    assert!(compared > 100_000, "{compared}");
    let shown = differences[..differences.len().min(60)].join("\n");
    assert!(differences.is_empty(), "{} of {compared}\n{shown}", differences.len());
    println!("contexts: {compared} accesses as the kernel decides them");
}
