//! The program's references to maps and functions, before any path is walked.
//!
//! Owns what can be said of a reference alone: that it exists, and that the program type may use it. Invariant: afterwards the
//! number in every map reference is an index of the program's map list. Kernel counterpart: `resolve_pseudo_ldimm64`,
//! `check_map_prog_compatibility`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Errno;
use skep_abi::{MapType, ProgType};

use crate::cfg::is_ld_imm64;
use crate::check::alu::MAX_VAR_OFF;
use crate::env::{Check, Env, reject};
use crate::spec::{FieldKind, MapShape};
use crate::verified::RejectionKind;

/// Bytes of a page of an arena.
const ARENA_PAGE: u64 = 4096;

/// Maps that one program may use.
const MAX_USED_MAPS: usize = 64;

impl Env<'_> {
    /// Checks every `ld_imm64`, and every opcode.
    pub(crate) fn check_references(&mut self) -> Check {
        let insns = self.spec.insns;
        let mut used: Vec<u32> = Vec::new();
        let mut at = 0;
        while at < insns.len() {
            let raw = insns[at];
            if !is_ld_imm64(raw) {
                if matches!(skep_abi::decode(insns, at), Err(skep_abi::DecodeError::UnknownOpcode(_))) {
                    let text = format!("unknown opcode {:02x}", raw.code);
                    return Err(self.reject(Errno::EINVAL, RejectionKind::Malformed, text));
                }
                if raw.code & 7 == 1 && raw.imm != 0 {
                    let text = "BPF_LDX uses reserved fields".to_owned();
                    return Err(self.reject(Errno::EINVAL, RejectionKind::Malformed, text));
                }
                at += 1;
                continue;
            }
            let second = insns.get(at + 1).copied();
            let well_formed = second.is_some_and(|s| s.code == 0 && s.dst == 0 && s.src == 0 && s.off == 0);
            let Some(second) = second.filter(|_| well_formed) else {
                let text = "invalid bpf_ld_imm64 insn".to_owned();
                return Err(self.reject(Errno::EINVAL, RejectionKind::Malformed, text));
            };
            let value = matches!(raw.src, 2 | 6);
            match raw.src {
                0 | 3 | 4 => {
                    at += 2;
                    continue;
                }
                1 | 5 if second.imm == 0 => {}
                2 | 6 => {}
                _ => {
                    let text = "unrecognized bpf_ld_imm64 insn".to_owned();
                    return Err(self.reject(Errno::EINVAL, RejectionKind::Malformed, text));
                }
            }
            let index = raw.imm.cast_unsigned();
            let Some(shape) = self.spec.maps.get(index as usize) else {
                let text = format!("fd {} is not pointing to valid bpf_map", raw.imm);
                return Err(self.reject(Errno::EBADF, RejectionKind::Malformed, text));
            };
            if !used.contains(&index) {
                if used.len() >= MAX_USED_MAPS {
                    let text = format!("The total number of maps per program has reached the limit of {MAX_USED_MAPS}");
                    return Err(self.reject(Errno::E2BIG, RejectionKind::Limit, text));
                }
                used.push(index);
                self.check_map_prog(shape)?;
                if shape.map_type == MapType::Arena {
                    self.check_arena(index, shape)?;
                }
            }
            if value {
                self.check_direct_value(shape, second.imm.cast_unsigned())?;
            }
            at += 2;
        }
        Ok(())
    }

    /// The address of byte `off` of the first value.
    fn check_direct_value(&mut self, shape: &MapShape<'_>, off: u32) -> Check {
        if i64::from(off) >= MAX_VAR_OFF {
            return Err(reject!(self, EINVAL, "direct value offset of {off} is not allowed"));
        }
        let percpu = shape.map_type == MapType::PercpuArray && self.options.profile.percpu_direct;
        let arena = shape.map_type == MapType::Arena;
        if !percpu && !arena && shape.map_type != MapType::Array {
            return Err(reject!(self, EINVAL, "no direct value access support for this map type"));
        }
        let outside = if arena {
            u64::from(off) > u64::from(shape.max_entries) * ARENA_PAGE
        } else {
            shape.max_entries != 1 || off >= shape.value_size
        };
        if outside {
            let size = shape.value_size;
            let text = format!("invalid access to map value pointer, value_size={size} off={off}");
            // The types chose different numbers.
            let errno = match (shape.max_entries, percpu) {
                _ if arena => Errno::ERANGE,
                (1, _) => Errno::EINVAL,
                (_, false) => Errno::ENOTSUPP,
                (_, true) => Errno::ENOTSUP,
            };
            return Err(self.reject(errno, RejectionKind::Safety, text));
        }
        Ok(())
    }

    fn check_map_prog(&mut self, shape: &MapShape<'_>) -> Check {
        let prog = self.spec.prog_type;
        let tracing = matches!(
            prog,
            ProgType::Kprobe
                | ProgType::Tracepoint
                | ProgType::PerfEvent
                | ProgType::RawTracepoint
                | ProgType::RawTracepointWritable
        );
        if tracing && (shape.field(FieldKind::ListHead).is_some() || shape.field(FieldKind::RbRoot).is_some()) {
            return Err(reject!(self, EINVAL, "tracing progs cannot use bpf_{{list_head,rb_root}} yet"));
        }
        if shape.field(FieldKind::SpinLock).is_some() || shape.field(FieldKind::ResSpinLock).is_some() {
            if prog == ProgType::SocketFilter {
                return Err(reject!(self, EINVAL, "socket filter progs cannot use bpf_spin_lock yet"));
            }
            if tracing {
                return Err(reject!(self, EINVAL, "tracing progs cannot use bpf_spin_lock yet"));
            }
        }
        for (kind, name) in [(FieldKind::Timer, "bpf_timer"), (FieldKind::Workqueue, "bpf_wq")] {
            if tracing && shape.field(kind).is_some() {
                return Err(reject!(self, EINVAL, "tracing progs cannot use {name} yet"));
            }
        }
        if shape.map_type == MapType::StructOps {
            return Err(reject!(self, EINVAL, "bpf_struct_ops map cannot be used in prog"));
        }
        let sleepable = self.spec.flags.has(crate::spec::ProgFlags::SLEEPABLE) || prog == ProgType::Syscall;
        let sleepable_map = matches!(
            shape.map_type,
            MapType::Hash
                | MapType::LruHash
                | MapType::Array
                | MapType::PercpuHash
                | MapType::PercpuArray
                | MapType::LruPercpuHash
                | MapType::ArrayOfMaps
                | MapType::HashOfMaps
                | MapType::Ringbuf
                | MapType::UserRingbuf
                | MapType::InodeStorage
                | MapType::SkStorage
                | MapType::TaskStorage
                | MapType::CgrpStorage
                | MapType::Queue
                | MapType::Stack
                | MapType::Arena
        );
        if sleepable && !sleepable_map {
            let text = "Sleepable programs can only use array, hash, ringbuf and local storage maps";
            return Err(reject!(self, EINVAL, "{text}"));
        }
        Ok(())
    }

    /// The program's one arena.
    fn check_arena(&mut self, index: u32, shape: &MapShape<'_>) -> Check {
        if self.arena.is_some() {
            return Err(reject!(self, EBUSY, "Only one arena per program"));
        }
        if !self.caps.perfmon || !self.caps.bpf {
            return Err(reject!(self, EPERM, "CAP_BPF and CAP_PERFMON are required to use arena"));
        }
        self.arena = Some(index);
        if shape.user_start == 0 {
            return Err(reject!(self, EINVAL, "arena's user address must be set via map_extra or mmap()"));
        }
        Ok(())
    }
}
