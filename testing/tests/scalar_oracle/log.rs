//! Reading the register states out of the kernel's log.

use skep_verifier::state::bounds::{Bounds, Interval};
use skep_verifier::state::tnum::Tnum;

/// A line of the log that says something of registers.
pub(crate) enum Line {
    /// `5: (0f) r6 += r7 ; R6=scalar(…)`
    Insn { slot: usize, states: Vec<(u8, Bounds)> },
    /// `5: R6=scalar(…)`: the states after an instruction whose line precision marks have cut off.
    Late { slot: usize, states: Vec<(u8, Bounds)> },
    /// `from 7 to 9: R0=… R6=…`
    Branch { from: usize, to: usize, states: Vec<(u8, Bounds)> },
}

pub(crate) fn parse(text: &str) -> impl Iterator<Item = Line> {
    text.lines().filter_map(line)
}

fn line(text: &str) -> Option<Line> {
    if let Some(rest) = text.strip_prefix("from ") {
        let (edge, states) = rest.split_once(':')?;
        let (from, to) = edge.split_once(" to ")?;
        return Some(Line::Branch { from: from.parse().ok()?, to: to.parse().ok()?, states: registers(states) });
    }
    if let Some((slot, states)) = text.split_once(": R") {
        return Some(Line::Late { slot: slot.parse().ok()?, states: registers(&format!("R{states}")) });
    }
    let (slot, rest) = text.split_once(": (")?;
    let slot = slot.trim().parse().ok()?;
    let states = rest.split_once(" ; ").map(|(_, states)| registers(states)).unwrap_or_default();
    Some(Line::Insn { slot, states })
}

/// The scalars among `R0=ctx() R6=scalar(…) R7=5`; spaces occur inside `var_off=(…; …)` only.
fn registers(text: &str) -> Vec<(u8, Bounds)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('R') {
        rest = &rest[at + 1..];
        let Some((name, value)) = rest.split_once('=') else { break };
        let Ok(register) = name.trim_end_matches("_w").parse() else { continue };
        let end = value.find(" R").unwrap_or(value.len());
        if let Some(bounds) = scalar(value[..end].trim()) {
            found.push((register, bounds));
        }
        rest = &value[end..];
    }
    found
}

fn scalar(text: &str) -> Option<Bounds> {
    let text = text.strip_prefix('P').unwrap_or(text);
    let Some(inside) = text.strip_prefix("scalar(") else {
        let end = text.find(|c: char| !(c.is_ascii_hexdigit() || c == 'x' || c == '-')).unwrap_or(text.len());
        return number(&text[..end]).map(Bounds::constant);
    };
    let mut bounds = Bounds::UNKNOWN;
    let inside = &inside[..inside.rfind(')')?];
    let (ranges, bits) = match inside.split_once("var_off=(") {
        Some((before, rest)) => {
            let (bits, after) = rest.split_once(')')?;
            (format!("{before}{}", after.strip_prefix(',').unwrap_or(after)), Some(bits))
        }
        None => (inside.to_owned(), None),
    };
    if let Some(bits) = bits {
        let (value, mask) = bits.split_once("; ")?;
        bounds.var_off = Tnum::new(number(value)?, number(mask)?);
    }
    for group in ranges.split(',').filter(|group| !group.is_empty()) {
        let mut names: Vec<&str> = group.split('=').collect();
        let value = names.pop()?;
        for name in names {
            set(&mut bounds, name, value)?;
        }
    }
    Some(bounds)
}

fn set(bounds: &mut Bounds, name: &str, text: &str) -> Option<()> {
    if name == "id" {
        return Some(());
    }
    let value = number(text)?;
    let Bounds { u64, s64, u32, s32, .. } = bounds;
    match name {
        "umin" => *u64 = Interval::new(value, u64.max),
        "umax" => *u64 = Interval::new(u64.min, value),
        "smin" => *s64 = Interval::new(value as i64, s64.max),
        "smax" => *s64 = Interval::new(s64.min, value as i64),
        "umin32" => *u32 = Interval::new(value as u32, u32.max),
        "umax32" => *u32 = Interval::new(u32.min, value as u32),
        "smin32" => *s32 = Interval::new(value as i32, s32.max),
        "smax32" => *s32 = Interval::new(s32.min, value as i32),
        _ => return None,
    }
    Some(())
}

fn number(text: &str) -> Option<u64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    };
    Some(if negative { value.wrapping_neg() } else { value })
}
