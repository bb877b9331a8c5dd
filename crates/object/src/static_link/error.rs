//! Why objects cannot be linked.
//!
//! Invariant: a text names the files that it is about, and what it quotes from them is escaped.

/// Why objects cannot be linked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// No inputs, or too many.
    #[error("{have} objects to link, 1 to {max} are allowed")]
    Inputs {
        /// How many there are.
        have: usize,
        /// How many are allowed.
        max: usize,
    },
    /// An input is no object file.
    #[error("{file}")]
    Input {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: crate::Error,
    },
    /// Two inputs contradict each other about a symbol.
    #[error("symbol '{symbol}': {why} ({first} and {second})")]
    Symbol {
        /// The symbol's name, escaped.
        symbol: String,
        /// The file with the definition, or the first of two.
        first: String,
        /// The other file.
        second: String,
        /// What does not fit.
        why: String,
    },
    /// Two inputs contradict each other about a section.
    #[error("section {section}: {why} ({first} and {second})")]
    Section {
        /// Its name, escaped.
        section: String,
        /// The first file.
        first: String,
        /// The file that does not fit it.
        second: String,
        /// What does not fit.
        why: String,
    },
    /// A relocation of an input has nowhere to go.
    #[error("{file}: relocation in section {section}, offset {offset:#x}: {why}")]
    Relocation {
        /// The file.
        file: String,
        /// The section that it changes, escaped.
        section: String,
        /// Offset in it, before linking.
        offset: u64,
        /// What is wrong.
        why: String,
    },
    /// The types together are refused.
    #[error("the types of the objects cannot be merged")]
    Types(#[from] skep_btf::Error),
    /// The result would be larger than any object.
    #[error("the linked object has too many {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
    },
    /// A bug of this crate, never the input's fault.
    #[error("internal error in skep-object: {0}")]
    Internal(&'static str),
}
