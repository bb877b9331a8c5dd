//! Format strings of `bpf_snprintf`, `bpf_trace_printk` and their kin.
//!
//! Owns which ones there are. Invariant: a format is valid here exactly if the kernel takes it. Kernel counterpart:
//! `bpf_bprintf_prepare`, kernel/bpf/helpers.c, 6.18; lib/ctype.c.

/// Number of arguments that a zero-terminated format takes; `None` if it is not valid.
#[must_use]
pub fn format_args_count(text: &[u8]) -> Option<u64> {
    let end = text.iter().position(|&b| b == 0)?;
    let mut rest = &text[..end];
    let mut count = 0;
    while let [first, after @ ..] = rest {
        rest = after;
        if first.is_ascii_control() && !is_space(*first) {
            return None;
        }
        if *first != b'%' {
            continue;
        }
        if let [b'%', after @ ..] = rest {
            rest = after;
            continue;
        }
        count += 1;
        rest = after_conversion(rest)?;
    }
    Some(count)
}

/// What follows a conversion whose per cent sign was read.
fn after_conversion(text: &[u8]) -> Option<&[u8]> {
    let text = skip_while(text, |b| b"0+- ".contains(&b));
    let text = skip_while(text, |b| b.is_ascii_digit());
    match text {
        [b'p', rest @ ..] => after_pointer(rest),
        [b's', rest @ ..] => ends(rest).then_some(rest),
        [b'c', rest @ ..] => Some(rest),
        [b'l', b'l', kind, rest @ ..] | [b'l', kind, rest @ ..] | [kind, rest @ ..] => {
            b"iduxX".contains(kind).then_some(rest)
        }
        [] => None,
    }
}

fn after_pointer(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'k' | b'u', b's', rest @ ..] => ends(rest).then_some(rest),
        [b'K' | b'x' | b's' | b'S' | b'B', rest @ ..] | [b'i' | b'I', b'4' | b'6', rest @ ..] => Some(rest),
        _ => ends(text).then_some(text),
    }
}

fn skip_while(text: &[u8], skipped: impl Fn(u8) -> bool) -> &[u8] {
    let kept = text.iter().position(|&b| !skipped(b)).unwrap_or(text.len());
    &text[kept..]
}

/// Whether a string or a bare pointer may end before this text: not before a letter or a digit.
fn ends(text: &[u8]) -> bool {
    text.first().is_none_or(|&next| is_space(next) || is_punctuation(next))
}

/// White space, with that of Latin-1.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ' | 0xa0)
}

/// Punctuation, with that of Latin-1.
fn is_punctuation(byte: u8) -> bool {
    byte.is_ascii_punctuation() || matches!(byte, 0xa1..=0xbf | 0xd7 | 0xf7)
}

#[cfg(test)]
mod tests {
    use super::format_args_count;

    #[test]
    fn arguments_are_counted() {
        for (text, count) in [
            ("", 0),
            ("100%%", 0),
            ("%d %5u %lx %llX %i", 5),
            ("%-+0 9d|%c%cx", 3),
            ("%s, %pks.%pus %p", 4),
            ("%pI4%pi6%px%pK%ps%pS%pB5", 7),
            ("ä%d€\x0b", 1),
        ] {
            assert_eq!(format_args_count(format!("{text}\0rest").as_bytes()), Some(count), "{text}");
        }
    }

    #[test]
    fn what_is_no_format_is_refused() {
        for text in [
            "%", "%l", "%llld", "%5-d", "%.2d", "%#x", "%q", "%pA", "%pk", "%pd", "%pi5", "%sA", "%sä", "%5%", "\x7f",
            "\x01",
        ] {
            assert_eq!(format_args_count(format!("{text}\0").as_bytes()), None, "{text}");
        }
        assert_eq!(format_args_count(b"no end"), None);
    }
}
