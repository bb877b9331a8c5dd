//! What each message of the verifier means, as a table.
//!
//! Owns the class of every refusal: its category, its title, why it is refused and what to do. Invariant: the first pattern that
//! fits a message is the one that counts, so special ones come first; a test holds that every message in this crate's sources
//! fits one. A pattern is the message with `{name}` for what varies; reasons and suggestions may name these, and the facts
//! `{access}`, `{value}`, `{call}`, `{field}` and `{context}`.

mod access;
mod arena;
mod arguments;
mod calls;
mod flow;
mod limits;
mod objects;
mod pointers;

use crate::verified::RejectionKind;

use Category as C;
use Subject as S;

/// What a refusal is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Category {
    /// Memory is accessed outside its object, or misaligned.
    Bounds,
    /// A pointer may be null.
    Null,
    /// Something is read that was never written.
    Uninitialized,
    /// A pointer is used as no pointer of its type may be.
    Pointer,
    /// The context.
    Context,
    /// An argument of a call.
    Argument,
    /// What may be called, and where.
    Call,
    /// What must be given back.
    Reference,
    /// Locks and sections.
    Section,
    /// Loops, jumps and functions.
    Flow,
    /// What a program returns.
    Return,
    /// Maps.
    Map,
    /// A limit.
    Limit,
    /// The program's encoding or types.
    Encoding,
    /// The kernel version that is verified for does not have it.
    Version,
    /// Something that this engine does not do.
    Unsupported,
    /// The verifier itself.
    Internal,
}

impl Category {
    /// In words, as the explanation's first line has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bounds => "memory bounds",
            Self::Null => "null pointer",
            Self::Uninitialized => "uninitialized data",
            Self::Pointer => "pointer use",
            Self::Context => "context access",
            Self::Argument => "call argument",
            Self::Call => "call",
            Self::Reference => "reference",
            Self::Section => "lock or section",
            Self::Flow => "control flow",
            Self::Return => "return value",
            Self::Map => "map",
            Self::Limit => "limit",
            Self::Encoding => "encoding",
            Self::Version => "kernel version",
            Self::Unsupported => "not supported here",
            Self::Internal => "verifier",
        }
    }
}

/// What the causal path follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject {
    /// Nothing.
    None,
    /// The value of register `{reg}`.
    Reg,
    /// The same, and what was done with the memory's size in the next register.
    Memory,
    /// The bytes of stack behind register `{reg}`.
    Stack,
    /// How this place was reached: the branches.
    Branches,
    /// What is held: where it was taken, and the branches since.
    Held,
    /// The instructions processed most.
    Hot,
    /// The value of r0.
    Zero,
    /// The second argument of the call.
    Second,
}

/// What the names of a pattern stand for in a message.
pub(super) type Captures<'m> = Vec<(&'static str, &'m str)>;

/// One row.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) pattern: &'static str,
    /// Other messages that mean the same.
    also: &'static [&'static str],
    pub(super) category: Category,
    pub(super) title: &'static str,
    pub(super) reason: &'static str,
    pub(super) suggestion: &'static str,
    pub(super) subject: Subject,
}

const fn row(
    category: Category,
    subject: Subject,
    pattern: &'static str,
    title: &'static str,
    reason: &'static str,
    suggestion: &'static str,
) -> Class {
    Class { pattern, also: &[], category, title, reason, suggestion, subject }
}

impl Class {
    /// The same for other messages.
    const fn or(self, also: &'static [&'static str]) -> Self {
        Self { also, ..self }
    }

    /// What the names of the first pattern that fits stand for.
    fn captures<'m>(&self, message: &'m str) -> Option<Captures<'m>> {
        std::iter::once(&self.pattern).chain(self.also).find_map(|pattern| captures(pattern, message))
    }
}

/// What to do about instructions that no compiler makes.
const ENCODING: &str = "Clang does not make this: look at what wrote or changed the instructions (inline assembly, a linker, a generator).";

/// What to do about a pointer that may be NULL.
const NULL_CHECK: &str = "Test the pointer first: `if (!p) return 0;`.";

/// What to do about an argument that must be memory.
const OWN_MEMORY: &str = "Pass the address of a local variable, of a map value or of packet bytes that were checked.";

/// What to do about an index.
pub(super) const CHECK_INDEX: &str = "Bound the index before it is used, on the variable that is used: compare it as an unsigned number with the number \
     of elements (`if (i >= N) return 0;`), or mask it (`i &= N - 1`) where N is a power of two.";

/// The rows, in order.
fn rows() -> impl Iterator<Item = &'static Class> {
    let arena = arena::ROWS.iter();
    arena.chain(
        [access::ROWS, pointers::ROWS, arguments::ROWS, calls::ROWS, flow::ROWS, limits::ROWS, objects::ROWS]
            .into_iter()
            .flatten(),
    )
}

/// The row of a message, with what its pattern's names stand for.
pub(super) fn class_of(message: &str) -> Option<(&'static Class, Captures<'_>)> {
    rows().find_map(|class| Some((class, class.captures(message)?)))
}

/// The class of a message that no row fits.
pub(super) fn fallback(kind: RejectionKind) -> Class {
    let (category, reason, suggestion) = match kind {
        RejectionKind::Malformed => (C::Encoding, "The program is not well formed.", ENCODING),
        RejectionKind::Safety => (
            C::Pointer,
            "The instruction does what is not allowed here.",
            "Look at the log above: its last lines are the way here.",
        ),
        RejectionKind::Limit => (C::Limit, "A limit is exceeded.", "Make the program smaller or simpler."),
        RejectionKind::Unsupported => (
            C::Unsupported,
            "The program may be right, but needs something of the kernel that this engine does not have.",
            "docs/parity says what there is; `skep verify --kernel` asks the running kernel as well.",
        ),
        RejectionKind::Internal => (
            C::Internal,
            "The verifier contradicts itself: a bug.",
            "Please report it with the object and this output.",
        ),
    };
    row(category, S::None, "{message}", "{message}", reason, suggestion)
}

/// The values of a pattern's names, if it fits the whole message. A name takes as little as it can.
fn captures<'m>(pattern: &'static str, message: &'m str) -> Option<Captures<'m>> {
    let mut found = Vec::new();
    let (mut pattern, mut rest) = (pattern, message);
    while let Some((literal, after)) = pattern.split_once('{') {
        rest = rest.strip_prefix(literal)?;
        let (name, tail) = after.split_once('}')?;
        let stop = tail.split('{').next().unwrap_or_default();
        let end = if tail.is_empty() {
            rest.len()
        } else if tail == stop {
            // The last literal must end the message.
            rest.strip_suffix(stop)?.len()
        } else {
            rest.find(stop)?
        };
        let (value, left) = rest.split_at(end);
        if name == "reg" && !value.parse::<u8>().is_ok_and(|n| n <= 10) {
            return None;
        }
        found.push((name, value));
        rest = left;
        pattern = tail;
    }
    (rest == pattern).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_what_varies() {
        let c = captures("R{reg} invalid mem access '{type}'", "R3 invalid mem access 'scalar'").unwrap();
        assert_eq!(c, [("reg", "3"), ("type", "scalar")]);
        assert_eq!(captures("R{reg} !read_ok", "R3 !read_okay"), None);
        assert_eq!(captures("R{reg} !read_ok", "R99 !read_ok"), None);
        assert_eq!(captures("a {x} b", "a 1 b 2 b").unwrap(), [("x", "1 b 2")]);
    }

    fn category(message: &str) -> Category {
        class_of(message).unwrap().0.category
    }

    #[test]
    fn special_rows_come_before_general_ones() {
        assert_eq!(category("R0 invalid mem access 'map_value_or_null'"), Category::Null);
        assert_eq!(category("R0 type=sock_or_null expected=sock"), Category::Null);
        assert_eq!(category("R1 type=scalar expected=fp"), Category::Argument);
    }

    /// The texts of every refusal in this crate: what is not in the table is a deliberate default.
    #[test]
    fn every_message_of_the_sources_has_a_row() {
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let (mut missing, mut seen) = (Vec::new(), 0);
        for text in messages(std::path::Path::new(sources)) {
            seen += 1;
            let plain = sample(&text);
            // A text made elsewhere (`"R{n} {text}"`) is looked at by the verifier's vectors.
            let words = text.split(' ').any(|word| word.len() > 3 && word.bytes().all(|b| b.is_ascii_lowercase()));
            let made_elsewhere = text.contains("{text}") || text.starts_with("{context}");
            if words && !made_elsewhere && class_of(&plain).is_none() {
                missing.push(text);
            }
        }
        // A few new ones may wait for their rows.
        assert!(
            seen > 100 && missing.len() * 20 < seen,
            "messages without a row in explain/classes:\n{}",
            missing.join("\n")
        );
    }

    /// The first string of every `reject!(…)`.
    fn messages(folder: &std::path::Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(messages(&path));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for part in text.split("reject!(self, ").skip(1) {
                let Some((_, after)) = part.split_once('"').filter(|(head, _)| head.len() < 60) else { continue };
                let Some((message, _)) = after.split_once('"') else { continue };
                found.push(message.to_owned());
            }
        }
        found
    }

    /// A message as it might come out, with a digit for what varies.
    fn sample(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text.replace("{{", "(").replace("}}", ")");
        while let Some((head, tail)) = rest.clone().split_once('{') {
            out.push_str(head);
            out.push('1');
            rest = tail.split_once('}').map_or(String::new(), |(_, t)| t.to_owned());
        }
        out + &rest
    }
}
