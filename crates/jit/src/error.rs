//! Why a program could not be compiled.

/// An error of [`crate::compile`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JitError {
    /// A slot does not decode.
    #[error("instruction {slot} is not valid in a rewritten program")]
    Decode {
        /// Xlated slot.
        slot: u32,
        /// What is wrong with it.
        #[source]
        source: skep_abi::DecodeError,
    },
    /// The back end has no code for this instruction.
    #[error("instruction {slot}: {what} is not supported by the code generator")]
    Unsupported {
        /// Xlated slot.
        slot: u32,
        /// Which instruction.
        what: &'static str,
    },
    /// The layout has no address for a helper that the program calls.
    #[error("instruction {slot} calls helper {id}, which has no address")]
    MissingHelper {
        /// Xlated slot.
        slot: u32,
        /// Helper id.
        id: i32,
    },
    /// The layout has no address for a kfunc that the program calls.
    #[error("instruction {slot} calls kfunc {index}, which has no address")]
    MissingKfunc {
        /// Xlated slot.
        slot: u32,
        /// Index in the program's kfunc list.
        index: i32,
    },
    /// The layout has no map with this index, or the map cannot be used this way.
    #[error("instruction {slot} uses map {map}, which has no {what}")]
    MissingMap {
        /// Xlated slot.
        slot: u32,
        /// Index in the used maps.
        map: i64,
        /// What is missing: "description", "address of values", …
        what: &'static str,
    },
    /// A jump or call leaves the program or its subprogram.
    #[error("instruction {slot} jumps out of its subprogram")]
    Jump {
        /// Xlated slot.
        slot: u32,
    },
    /// The machine code exceeds what relative jumps reach.
    #[error("the machine code takes {bytes} bytes, more than relative jumps reach")]
    TooLarge {
        /// Size found.
        bytes: usize,
    },
    /// The code generator contradicted itself.
    #[error("internal error of the code generator: {0}")]
    Internal(&'static str),
}
