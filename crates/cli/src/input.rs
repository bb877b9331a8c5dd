//! What a user hands in: files (size capped, regular ones only), packets as hex, names with values.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Largest object or JSON file that is read, in bytes.
pub(crate) const MAX_FILE: u64 = 256 << 20;

/// Opens a regular file of at most `max` bytes; also returns its length.
///
/// A directory, a FIFO or a device is refused before it is opened, so that nothing blocks and nothing is endless.
pub(crate) fn open_regular(path: &Path, max: u64) -> Result<(File, u64)> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("cannot open {shown}"))?;
    if meta.is_dir() {
        bail!("{shown} is a directory, a file was expected");
    }
    if !meta.is_file() {
        bail!("{shown} is not a regular file");
    }
    if meta.len() > max {
        bail!("{shown} has {} bytes, more than the {max} that are read", meta.len());
    }
    let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
    Ok((file, meta.len()))
}

/// The bytes of a regular file of at most `max` bytes.
pub(crate) fn read_regular(path: &Path, max: u64) -> Result<Vec<u8>> {
    let (file, length) = open_regular(path, max)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length)?);
    // The file may grow meanwhile: the cap holds all the same.
    file.take(max).read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(bytes)
}

/// Bytes from hex digits; blanks, colons and `0x` are allowed between bytes.
pub(crate) fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let mut digits = Vec::new();
    for word in text.split(|c: char| c.is_whitespace() || c == ':') {
        digits.extend(word.strip_prefix("0x").unwrap_or(word).bytes());
    }
    if digits.len() % 2 == 1 {
        bail!("{} hex digits: a byte has two", digits.len());
    }
    let nibble = |d: u8| char::from(d).to_digit(16).and_then(|v| u8::try_from(v).ok());
    digits
        .chunks(2)
        .map(|pair| match (nibble(pair[0]), nibble(pair[1])) {
            (Some(high), Some(low)) => Ok(high << 4 | low),
            _ => bail!("{:?} is not a hex byte", String::from_utf8_lossy(pair)),
        })
        .collect()
}

/// An integer as C writes it: decimal, `0x…` or `0…`, with a sign.
pub(crate) fn parse_integer(text: &str) -> Result<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let parsed = if let Some(hex) = lower.strip_prefix("0x") {
        i128::from_str_radix(hex, 16)
    } else if lower.len() > 1 && lower.starts_with('0') {
        i128::from_str_radix(&lower[1..], 8)
    } else {
        lower.parse()
    };
    let value = parsed.map_err(|_| anyhow::anyhow!("{text:?} is not a number"))?;
    Ok(if negative { -value } else { value })
}

/// `NAME=VALUE` in two parts.
pub(crate) fn split_assignment(text: &str) -> Result<(&str, &str)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name, value)),
        _ => bail!("{text:?} is not NAME=VALUE"),
    }
}

/// `text` with control characters written as escapes, for messages that quote input.
pub(crate) fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let keep = !c.is_control();
            keep.then_some(c).into_iter().chain((!keep).then(|| c.escape_default()).into_iter().flatten())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_in_the_usual_spellings() {
        assert_eq!(parse_hex("00ff").unwrap(), [0, 255]);
        assert_eq!(parse_hex("0x00 0xFF:1a").unwrap(), [0, 255, 26]);
        assert!(parse_hex("").unwrap().is_empty());
        assert!(parse_hex("0").is_err());
        assert!(parse_hex("zz").is_err());
        assert!(parse_hex("+1").is_err());
    }

    #[test]
    fn integers_as_in_c() {
        assert_eq!(parse_integer("10").unwrap(), 10);
        assert_eq!(parse_integer("-0x10").unwrap(), -16);
        assert_eq!(parse_integer("010").unwrap(), 8);
        assert_eq!(parse_integer("0").unwrap(), 0);
        for bad in ["", "-", "0x", "1e3", "ten", "340282366920938463463374607431768211456"] {
            assert!(parse_integer(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_and_directories_are_refused_at_once() {
        for path in ["/dev/zero", "/"] {
            assert!(read_regular(Path::new(path), MAX_FILE).is_err(), "{path}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 11]).unwrap();
        assert!(read_regular(file.path(), 10).is_err());
        assert_eq!(read_regular(file.path(), 11).unwrap().len(), 11);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(escaped("a\x1b[31mb\n"), "a\\u{1b}[31mb\\n");
    }
}
