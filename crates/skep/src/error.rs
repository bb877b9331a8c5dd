//! Why an object does not load.

use skep_abi::Errno;
use skep_verifier::{Explanation, Rejection, RejectionKind};

use crate::maps::MapError;
use crate::verify::SpecError;

/// Why an object does not load. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The object has something that cannot be loaded.
    #[error("{object}")]
    Object {
        /// The object's file.
        object: String,
        /// What cannot be loaded, with section.
        source: skep_object::Error,
    },
    /// A program cannot be handed to the verifier.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A map cannot be created.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The verifier refused a program.
    #[error("program '{program}' was rejected: {rejection}")]
    Rejected {
        /// The program.
        program: String,
        /// The verdict.
        rejection: Box<Rejection>,
        /// Why, for people.
        explanation: Box<Explanation>,
        /// The verifier's log.
        log: String,
    },
    /// An extension program does not know what it extends.
    #[error("program '{program}' replaces a function, and no program was named that has it (set_attach_target)")]
    NoTarget {
        /// The program.
        program: String,
    },
    /// A program that tail-calls through a prog array does not go with those in it.
    #[error("program '{program}' does not go with the programs of prog array '{map}': {errno}")]
    Owner {
        /// The program.
        program: String,
        /// The prog array.
        map: String,
        /// Why not.
        errno: Errno,
    },
    /// A program's type has no context that this engine can make.
    #[error("program '{program}': programs of type {prog_type} cannot be run here")]
    NotRunnable {
        /// The program.
        program: String,
        /// Its type.
        prog_type: skep_abi::ProgType,
    },
    /// An accepted program uses something that this engine does not have: the verdict is the kernel's, running it is not
    /// possible here.
    #[error("program '{program}' is accepted, but cannot be run here: {need}")]
    Needs {
        /// The program.
        program: String,
        /// The first thing that is missing.
        need: skep_verifier::Need,
    },
    /// An accepted program could not be turned into something to run.
    #[error("program '{program}': {step}")]
    Build {
        /// The program.
        program: String,
        /// What failed: rewriting, compiling, installing.
        step: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A prog array does not take a program that the object puts into it.
    #[error("map '{map}', slot {slot}: program '{program}' does not fit: {errno}")]
    Slot {
        /// The prog array.
        map: String,
        /// Its slot.
        slot: u32,
        /// The program.
        program: String,
        /// Why not.
        errno: Errno,
    },
}

impl LoadError {
    /// The verifier's log, where a program was refused; empty otherwise.
    #[must_use]
    pub fn log(&self) -> &str {
        match self {
            Self::Rejected { log, .. } => log,
            _ => "",
        }
    }

    /// Why a program was refused, for people: what is wrong, where, how it came to be, what to do.
    #[must_use]
    pub fn explanation(&self) -> Option<&Explanation> {
        match self {
            Self::Rejected { explanation, .. } => Some(explanation),
            _ => None,
        }
    }

    /// Whether a program was refused for what it does, rather than for a defect of the engine.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        matches!(self, Self::Rejected { rejection, .. } if rejection.kind != RejectionKind::Internal)
    }

    /// The errno that the kernel gives for the same.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Object { source, .. } => Errno(source.errno()),
            Self::Map(error) => error.errno,
            Self::Rejected { rejection, .. } => rejection.errno,
            Self::Slot { errno, .. } | Self::Owner { errno, .. } => *errno,
            Self::Needs { .. } => Errno::ENOTSUPP,
            _ => Errno::EINVAL,
        }
    }
}
