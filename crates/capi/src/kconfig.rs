//! Values of `CONFIG_` variables that an open call's options give.
//!
//! Owns the form of a kernel's configuration file: `CONFIG_X=y`, a number, or text in quotes; anything else in a line is
//! passed over. Invariant: a value fits the type that the object declares, or the object is not opened. Counterpart:
//! `bpf_object__read_kconfig_mem`, tools/lib/bpf/libbpf.c, 6.18.

use skep_abi::Errno;
use skep_btf::{Btf, TypeData};
use skep_object::{ExternKind, ObjectSpec};

use crate::print;

/// Sets the variables that `config` names.
pub(crate) fn apply(spec: &mut ObjectSpec, config: &str) -> Result<(), Errno> {
    for line in config.lines() {
        let Some((name, value)) = line.trim().split_once('=').filter(|(name, _)| name.starts_with("CONFIG_")) else {
            continue;
        };
        let found = spec.externs.iter().find(|found| found.name == name);
        let Some(ExternKind::Kconfig { type_id, size, .. }) = found.map(|found| &found.kind) else { continue };
        let bytes = spec.btf.as_deref().and_then(|btf| {
            let kind = &btf.get(btf.resolve(*type_id))?.data;
            encode(btf, kind, value.trim(), usize::try_from(*size).ok()?)
        });
        let Some(bytes) = bytes else {
            print::warn(format_args!("{name}: '{value}' does not fit the type that the object declares"));
            return Err(Errno::EINVAL);
        };
        spec.set_extern(name, &bytes).map_err(|error| Errno(error.errno()))?;
    }
    Ok(())
}

/// A value as `size` bytes of memory.
fn encode(btf: &Btf, kind: &TypeData, value: &str, size: usize) -> Option<Vec<u8>> {
    match (kind, value) {
        // `enum libbpf_tristate` takes all three, a bool two of them, a char the letter itself.
        (TypeData::Enum(_), "n") => number(0, size),
        (TypeData::Enum(_), "y") => number(1, size),
        (TypeData::Enum(_), "m") => number(2, size),
        (TypeData::Int(int), "y" | "n") if int.is_bool() => number(i128::from(value == "y"), size),
        (TypeData::Int(_), "y" | "n" | "m") if size == 1 => number(i128::from(value.as_bytes()[0]), size),
        (TypeData::Int(int), _) if !int.is_bool() => {
            let (negative, digits) = value.strip_prefix('-').map_or((false, value), |rest| (true, rest));
            let magnitude = match digits.strip_prefix("0x") {
                Some(hex) => i128::from_str_radix(hex, 16).ok()?,
                None => digits.parse().ok()?,
            };
            number(if negative { -magnitude } else { magnitude }, size)
        }
        (TypeData::Array(array), _) if btf.size_of(array.elem).ok()? == 1 => {
            let text = value.strip_prefix('"')?.strip_suffix('"')?;
            let mut bytes = text.as_bytes().to_vec();
            // The last byte is a zero, whatever does not fit.
            bytes.truncate(size.checked_sub(1)?);
            bytes.resize(size, 0);
            Some(bytes)
        }
        _ => None,
    }
}

/// A number that fits `size` bytes, signed or unsigned.
fn number(value: i128, size: usize) -> Option<Vec<u8>> {
    let bits = u32::try_from(size.checked_mul(8)?).ok().filter(|bits| (8..=64).contains(bits))?;
    let fits = value >= -(1 << (bits - 1)) && value < 1 << bits;
    fits.then(|| value.to_le_bytes()[..size].to_vec())
}
