//! `printf` as BPF programs may use it.
//!
//! Invariant: a conversion is refused that the kernel refuses, and pointers are only followed where the run may read.
//! Kernel counterpart: `bpf_bprintf_prepare`, kernel/bpf/helpers.c; `bstr_printf`, lib/vsprintf.c, 6.18.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "arguments are 64 bits wide and converted to the width that the format names"
)]

use std::fmt::Write as _;

use skep_abi::Errno;

use super::probe::{read, read_string};
use crate::frame::Run;

/// Bytes of one string argument at most.
const MAX_STRING: usize = 512;

/// One conversion of the format.
#[derive(Default)]
struct Conversion {
    minus: bool,
    zero: bool,
    plus: bool,
    space: bool,
    width: usize,
    /// Bits of the argument.
    long: bool,
}

/// The text, with `args` taken one after the other.
///
/// # Errors
/// `EINVAL` for a format that is not terminated, an unknown conversion, or too few arguments.
pub(super) fn format(run: Run, format: &[u8], args: &[u64]) -> Result<Vec<u8>, Errno> {
    let taken = skep_abi::format::format_args_count(format).ok_or(Errno::EINVAL)?;
    if taken > args.len() as u64 {
        return Err(Errno::EINVAL);
    }
    let end = format.iter().position(|&b| b == 0).ok_or(Errno::EINVAL)?;
    let mut input = format[..end].iter().copied().peekable();
    let mut args = args.iter().copied();
    let mut out = Vec::new();
    while let Some(byte) = input.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        if input.next_if_eq(&b'%').is_some() {
            out.push(b'%');
            continue;
        }
        let mut conversion = flags_and_width(&mut input);
        let kind = input.next().ok_or(Errno::EINVAL)?;
        let arg = args.next().ok_or(Errno::EINVAL)?;
        match kind {
            b'p' => pointer(run, &mut out, &mut input, arg)?,
            b's' => pad(&mut out, &conversion, &read_string(run, arg, MAX_STRING).unwrap_or_default()),
            b'c' => pad(&mut out, &conversion, &[arg as u8]),
            _ => {
                let kind = length(&mut input, &mut conversion, kind)?;
                integer(&mut out, &conversion, kind, arg)?;
            }
        }
    }
    Ok(out)
}

fn flags_and_width(input: &mut std::iter::Peekable<impl Iterator<Item = u8>>) -> Conversion {
    let mut c = Conversion::default();
    while let Some(flag) = input.next_if(|b| b"-0+ ".contains(b)) {
        match flag {
            b'-' => c.minus = true,
            b'0' => c.zero = true,
            b'+' => c.plus = true,
            _ => c.space = true,
        }
    }
    while let Some(digit) = input.next_if(u8::is_ascii_digit) {
        c.width = (c.width * 10 + usize::from(digit - b'0')).min(512);
    }
    c
}

/// Takes `l` and `ll`; the conversion letter.
fn length(
    input: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    conversion: &mut Conversion,
    first: u8,
) -> Result<u8, Errno> {
    if first != b'l' {
        return Ok(first);
    }
    conversion.long = true;
    input.next_if_eq(&b'l');
    input.next().ok_or(Errno::EINVAL)
}

fn integer(out: &mut Vec<u8>, c: &Conversion, kind: u8, arg: u64) -> Result<(), Errno> {
    let unsigned = if c.long { arg } else { u64::from(arg as u32) };
    let signed = if c.long { arg as i64 } else { i64::from(arg as i32) };
    let (sign, digits) = match kind {
        b'd' | b'i' => {
            let sign = match signed {
                ..0 => "-",
                _ if c.plus => "+",
                _ if c.space => " ",
                _ => "",
            };
            (sign, signed.unsigned_abs().to_string())
        }
        b'u' => ("", unsigned.to_string()),
        b'x' => ("", format!("{unsigned:x}")),
        b'X' => ("", format!("{unsigned:X}")),
        _ => return Err(Errno::EINVAL),
    };
    let zeros = if c.zero && !c.minus { c.width.saturating_sub(sign.len() + digits.len()) } else { 0 };
    let text = format!("{sign}{}{digits}", "0".repeat(zeros));
    let plain = Conversion { minus: c.minus, width: c.width, ..Conversion::default() };
    pad(out, &plain, text.as_bytes());
    Ok(())
}

fn pad(out: &mut Vec<u8>, c: &Conversion, text: &[u8]) {
    let spaces = c.width.saturating_sub(text.len());
    if !c.minus {
        out.extend(std::iter::repeat_n(b' ', spaces));
    }
    out.extend_from_slice(text);
    if c.minus {
        out.extend(std::iter::repeat_n(b' ', spaces));
    }
}

/// `%p`, `%px`, `%pK`, `%pB`, `%ps`, `%pS`, `%pks`, `%pus`, `%pi4`, `%pI4`, `%pi6`, `%pI6`.
fn pointer(
    run: Run,
    out: &mut Vec<u8>,
    input: &mut std::iter::Peekable<impl Iterator<Item = u8>>,
    arg: u64,
) -> Result<(), Errno> {
    match input.peek() {
        Some(b'k' | b'u') => {
            input.next();
            if input.next() != Some(b's') {
                return Err(Errno::EINVAL);
            }
            out.extend(read_string(run, arg, MAX_STRING).unwrap_or_default());
        }
        Some(&version @ (b'i' | b'I')) => {
            input.next();
            match input.next() {
                Some(b'4') => ipv4(run, out, version, arg),
                Some(b'6') => ipv6(run, out, version, arg),
                _ => return Err(Errno::EINVAL),
            }
        }
        Some(b'x' | b'K' | b'B' | b's' | b'S') => {
            input.next();
            out.extend(format!("{arg:016x}").bytes());
        }
        _ => out.extend(format!("{arg:016x}").bytes()),
    }
    Ok(())
}

fn ipv4(run: Run, out: &mut Vec<u8>, version: u8, arg: u64) {
    let mut address = [0; 4];
    let _ = read(run, arg, &mut address);
    let [a, b, c, d] = address;
    let text = if version == b'i' { format!("{a:03}.{b:03}.{c:03}.{d:03}") } else { format!("{a}.{b}.{c}.{d}") };
    out.extend(text.bytes());
}

fn ipv6(run: Run, out: &mut Vec<u8>, version: u8, arg: u64) {
    let mut address = [0; 16];
    let _ = read(run, arg, &mut address);
    let mut text = String::new();
    for (at, pair) in address.chunks(2).enumerate() {
        let colon = if at > 0 && version == b'I' { ":" } else { "" };
        let _ = write!(text, "{colon}{:02x}{:02x}", pair[0], pair[1]);
    }
    out.extend(text.bytes());
}
