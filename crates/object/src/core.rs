//! CO-RE relocations written into a program's instructions, and references to maps that will not be.
//!
//! Owns which field of an instruction a value goes into, and poisoning. Invariant: an instruction holds either the
//! target's value or a call of a helper that does not exist, so that the verifier refuses the program only if it can be
//! reached. Kernel counterpart: `bpf_core_patch_insn`, `bpf_core_poison_insn`, tools/lib/bpf/relo_core.c, 6.18.

use skep_abi::RawInsn;
use skep_btf::{Btf, CoreRelo, CoreTarget, Patch, Resolution};

use crate::error::escaped;
use crate::spec::{ObjectSpec, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, ProgramSpec};

/// `imm` of the call that a poisoned instruction becomes: 0xbad2310, "bad relo".
pub const POISON_CALL: i32 = 0x0bad_2310;

/// A relocation that has no answer: in the target of CO-RE, or among the maps that are created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poisoned {
    /// The instruction, in slots.
    pub slot: u32,
    /// Why.
    pub reason: String,
}

impl ObjectSpec {
    /// Applies the CO-RE relocations of all programs against `target`; what was poisoned, by program.
    pub fn apply_core(&mut self, target: &Btf) -> Vec<(usize, Poisoned)> {
        let Some(local) = self.btf.clone() else { return Vec::new() };
        let target = CoreTarget::new(target);
        let mut out = Vec::new();
        for (index, program) in self.programs.iter_mut().enumerate() {
            out.extend(program.apply_core(&local, &target).into_iter().map(|poisoned| (index, poisoned)));
        }
        out
    }

    /// Poisons each reference of `program` to a map that is not to be created.
    pub fn poison_maps(&self, program: &mut ProgramSpec) -> Vec<Poisoned> {
        let mut out = Vec::new();
        for slot in 0..program.insns.len() {
            let Some(insn) = program.insns.get(slot).filter(|insn| insn.is_ld_imm64()) else { continue };
            if !matches!(insn.src, PSEUDO_MAP_FD | PSEUDO_MAP_VALUE) {
                continue;
            }
            let map = usize::try_from(insn.imm).ok().and_then(|index| self.maps.get(index));
            if let Some(map) = map.filter(|map| !map.autocreate) {
                poison(&mut program.insns, slot);
                let reason = format!("map '{}' is not created: its autocreate is off", escaped(&map.name));
                out.push(Poisoned { slot: u32::try_from(slot).unwrap_or(u32::MAX), reason });
            }
        }
        out
    }
}

impl ProgramSpec {
    /// Applies and forgets the CO-RE relocations of this program, whose object has the types `local`.
    pub fn apply_core(&mut self, local: &Btf, target: &CoreTarget<'_>) -> Vec<Poisoned> {
        self.apply_core_where(local, target, |_| true)
    }

    /// Applies and forgets those CO-RE relocations that start from a type of a name that `wanted` takes; the name is without
    /// its flavour.
    pub fn apply_core_where(
        &mut self,
        local: &Btf,
        target: &CoreTarget<'_>,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<Poisoned> {
        let mut out = Vec::new();
        let (now, later) = std::mem::take(&mut self.core_relos)
            .into_iter()
            .partition(|relo: &CoreRelo| wanted(skep_btf::essential_name(local.name(relo.type_id))));
        self.core_relos = later;
        let now: Vec<CoreRelo> = now;
        for relo in now {
            let slot = relo.insn_off as usize;
            let reason = match target.resolve(local, &relo) {
                Resolution::Value(value) => match patch(&mut self.insns, slot, &value) {
                    Ok(()) => continue,
                    Err(reason) => reason,
                },
                Resolution::Poison(reason) => reason,
            };
            poison(&mut self.insns, slot);
            out.push(Poisoned { slot: relo.insn_off, reason });
        }
        out
    }
}

fn poison(insns: &mut [RawInsn], slot: usize) {
    let call = RawInsn { code: 0x85, dst: 0, src: 0, off: 0, imm: POISON_CALL };
    let wide = insns.get(slot).is_some_and(|insn| insn.is_ld_imm64());
    for at in slot..=slot.saturating_add(usize::from(wide)) {
        if let Some(insn) = insns.get_mut(at) {
            *insn = call;
        }
    }
}

/// Writes a value; the error is why the instruction cannot hold it.
fn patch(insns: &mut [RawInsn], slot: usize, value: &Patch) -> Result<(), String> {
    let Some(insn) = insns.get(slot).copied() else { return Err("there is no such instruction".into()) };
    let differs = |holds: u64| {
        if value.check_old && holds != value.old {
            Err(format!("the instruction holds {holds}, the object's types say {}", value.old))
        } else {
            Ok(())
        }
    };
    let mut new = insn;
    match insn.code & 7 {
        // ALU and ALU64 with an immediate.
        4 | 7 if insn.code & 8 == 0 => {
            differs(u64::from(insn.imm.cast_unsigned()))
                .or_else(|why| differs(i64::from(insn.imm).cast_unsigned()).map_err(|_| why))?;
            new.imm = narrow(value.new)?;
        }
        // LDX, ST, STX.
        1..=3 => {
            differs(i64::from(insn.off).cast_unsigned())?;
            if value.wrong_width {
                return Err("a signed integer or a struct has another size in the target".into());
            }
            new.off = i16::try_from(value.new).map_err(|_| format!("offset {} does not fit 16 bits", value.new))?;
            if value.old_size != value.new_size {
                new.code = with_width(insn.code, value.old_size, value.new_size)?;
            }
        }
        0 if insn.is_ld_imm64() && insn.src == 0 => {
            let Some(high) = insns.get_mut(slot.saturating_add(1)) else {
                return Err("ld_imm64 is cut in half".into());
            };
            differs(u64::from(insn.imm.cast_unsigned()) | u64::from(high.imm.cast_unsigned()) << 32)?;
            let [a, b, c, d, e, f, g, h] = value.new.to_le_bytes();
            new.imm = i32::from_le_bytes([a, b, c, d]);
            high.imm = i32::from_le_bytes([e, f, g, h]);
        }
        _ => return Err(format!("an instruction with code {:#04x} takes no value", insn.code)),
    }
    if let Some(place) = insns.get_mut(slot) {
        *place = new;
    }
    Ok(())
}

/// A value as an immediate: sign-extended or zero-extended, as long as its bits fit.
fn narrow(value: u64) -> Result<i32, String> {
    let unsigned = u32::try_from(value).map(u32::cast_signed);
    unsigned
        .or_else(|_| i32::try_from(value.cast_signed()))
        .map_err(|_| format!("value {value:#x} does not fit an immediate"))
}

fn with_width(code: u8, old: u32, new: u32) -> Result<u8, String> {
    let size = |bytes: u32| match bytes {
        1 => Ok(0x10),
        2 => Ok(0x08),
        4 => Ok(0x00),
        8 => Ok(0x18),
        other => Err(format!("a field of {other} bytes is no single load")),
    };
    if code & 0x18 != size(old)? {
        return Err(format!("the instruction's width is not the field's {old} bytes"));
    }
    Ok(code & !0x18 | size(new)?)
}
