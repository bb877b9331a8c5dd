//! Why a skeleton cannot be generated.
//!
//! Owns the crate's one error type. Invariant: a text names the map or variable it is about.

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a skeleton cannot be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The object was refused.
    #[error("the object cannot be opened")]
    Object(#[from] skep_object::Error),
    /// Two things would have one name.
    #[error("{what} '{first}' and '{second}' would both be named '{ident}'")]
    SameName {
        /// `maps` or `programs`.
        what: &'static str,
        /// One name in the object.
        first: String,
        /// The other.
        second: String,
        /// What both become.
        ident: String,
    },
    /// A variable's type cannot be written.
    #[error("variable '{variable}' in {section}")]
    Type {
        /// The variable.
        variable: String,
        /// Its section.
        section: String,
        /// Why.
        #[source]
        source: skep_btf::Error,
    },
    /// Two variables overlap, so that no struct can hold them.
    #[error("variable '{variable}' in {section} overlaps the one before")]
    Overlap {
        /// The variable.
        variable: String,
        /// Its section.
        section: String,
    },
    /// The object has data but no types.
    #[error("{section} has variables without types; compile with -g")]
    NoTypes {
        /// The section.
        section: String,
    },
    /// The object is whole, but has something that no load gives a value.
    #[error("the object cannot be loaded")]
    Unloadable(#[source] skep_object::Error),
    /// The object's types cannot be written.
    #[error("the object's types cannot be written")]
    Btf(#[source] skep_btf::Error),
    /// A program that a loader program cannot load.
    #[error("program '{program}' cannot be in a light skeleton: {why}")]
    Loader {
        /// The program.
        program: String,
        /// Why.
        why: String,
    },
    /// Nothing but a process that maps the arena can give its variables their values.
    #[error("map '{map}' cannot be in a light skeleton: it is an arena with global variables")]
    LoaderArena {
        /// The arena.
        map: String,
    },
    /// An instruction refers to no map.
    #[error("an instruction refers to a map that the object does not have")]
    LoaderMap,
    /// More maps, programs or data than one loader program can have.
    #[error("the object is too large for a light skeleton")]
    LoaderTooLarge,
}
