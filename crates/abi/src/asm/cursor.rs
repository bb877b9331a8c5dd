//! A position in a line: takes words, punctuation, numbers and registers, skipping blanks before each.

use super::Problem;
use crate::insn::{Reg, Size, Width};

/// What is left of a line.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    line: &'a str,
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Self { line, rest: line.trim_end() }
    }

    pub(super) fn rest(&self) -> &'a str {
        self.rest.trim_start()
    }

    pub(super) fn is_end(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn expected(&self, what: &'static str) -> Problem {
        let trimmed = self.line.trim_end().len() - self.rest().len();
        Problem::Expected(what, trimmed + 1)
    }

    pub(super) fn end(&self) -> Result<(), Problem> {
        if self.is_end() { Ok(()) } else { Err(self.expected("the end of the line")) }
    }

    /// Takes `token` if it is next.
    pub(super) fn eat(&mut self, token: &str) -> bool {
        match self.rest().strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes the word `word` if it is next and ends there.
    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let mut after = *self;
        if after.eat(word) && !after.rest.starts_with(is_name) {
            *self = after;
            return true;
        }
        false
    }

    pub(super) fn need(&mut self, token: &'static str) -> Result<(), Problem> {
        if self.eat(token) { Ok(()) } else { Err(self.expected(token)) }
    }

    /// The longest name that is next; may be empty.
    pub(super) fn name(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        self.rest = after;
        name
    }

    /// Everything up to `close`, which is taken too.
    pub(super) fn until(&mut self, close: char) -> Result<&'a str, Problem> {
        let rest = self.rest();
        let (inside, after) = rest.split_once(close).ok_or_else(|| self.expected("a closing bracket"))?;
        self.rest = after;
        Ok(inside.trim())
    }

    /// A register of 32 (`w3`) or 64 bits (`r3`).
    pub(super) fn any_reg(&mut self) -> Option<(Width, Reg)> {
        let mut after = *self;
        let name = after.name();
        let (width, digits) = match name.split_at_checked(1)? {
            ("r", digits) => (Width::W64, digits),
            ("w", digits) => (Width::W32, digits),
            _ => return None,
        };
        if digits.len() > 1 && digits.starts_with('0') || digits.starts_with('+') {
            return None;
        }
        let reg = Reg::new(digits.parse().ok()?)?;
        *self = after;
        Some((width, reg))
    }

    pub(super) fn reg(&mut self) -> Result<Reg, Problem> {
        let before = *self;
        match self.any_reg() {
            Some((Width::W64, reg)) => Ok(reg),
            _ => Err(before.expected("a register r0-r11")),
        }
    }

    /// A number with an optional sign, decimal or `0x`; whether it was hexadecimal is the second result.
    pub(super) fn number(&mut self) -> Result<(i128, bool), Problem> {
        let mut after = *self;
        let negative = after.eat("-");
        if !negative {
            after.eat("+");
        }
        let word = after.name();
        let (digits, radix) = match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
            Some(hex) => (hex, 16),
            None => (word, 10),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return Err(self.expected("a number"));
        }
        let value = i128::from(u64::from_str_radix(digits, radix).map_err(|_| Problem::Range)?);
        *self = after;
        Ok((if negative { -value } else { value }, radix == 16))
    }

    /// A 32-bit immediate, written signed or, up to 0xffffffff, as its bits.
    pub(super) fn imm32(&mut self) -> Result<i32, Problem> {
        let (value, _) = self.number()?;
        to_i32(value)
    }

    /// A memory offset; none is 0.
    pub(super) fn offset(&mut self) -> Result<i16, Problem> {
        if self.rest().starts_with(')') {
            return Ok(0);
        }
        let (value, _) = self.number()?;
        i16::try_from(value).map_err(|_| Problem::Range)
    }

    /// `(u32 *)`, with `signed` also `(s32 *)`.
    pub(super) fn size_cast(&mut self) -> Result<(Size, bool), Problem> {
        self.need("(")?;
        let before = *self;
        let (size, signed) = match self.name() {
            "u8" => (Size::B, false),
            "u16" => (Size::H, false),
            "u32" => (Size::W, false),
            "u64" => (Size::Dw, false),
            "s8" => (Size::B, true),
            "s16" => (Size::H, true),
            "s32" => (Size::W, true),
            _ => return Err(before.expected("u8, u16, u32, u64, s8, s16 or s32")),
        };
        self.need("*")?;
        self.need(")")?;
        Ok((size, signed))
    }

    /// `(r1 +4)`.
    pub(super) fn base(&mut self) -> Result<(Reg, i16), Problem> {
        self.need("(")?;
        let base = self.reg()?;
        let off = self.offset()?;
        self.need(")")?;
        Ok((base, off))
    }
}

pub(super) fn to_i32(value: i128) -> Result<i32, Problem> {
    match i32::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => Ok(u32::try_from(value).map_err(|_| Problem::Range)?.cast_signed()),
    }
}

pub(super) fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.' || c == '$'
}
