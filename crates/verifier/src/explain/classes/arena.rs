//! Refusals of arenas and of what is tagged as a pointer into one.
//!
//! Owns these rows of the table. Invariant: as in the parent module, special patterns come before general ones.

use super::{Category as C, Class, ENCODING, Subject as S, row};

const TAGS: &str = "Keep the one tag that says what callers pass.";

/// The first row that fits counts.
pub(super) const ROWS: &[Class] = &[
    row(
        C::Map,
        S::None,
        "Only one arena per program",
        "a second arena",
        "Pointers into an arena do not say into which, so a program has one.",
        "Put everything into one arena, or split the program.",
    ),
    row(
        C::Map,
        S::None,
        "CAP_BPF and CAP_PERFMON are required to use arena",
        "an arena without capabilities",
        "A program with an arena may show addresses.",
        "Load the program with both capabilities.",
    ),
    row(
        C::Map,
        S::None,
        "arena's user address must be set via map_extra or mmap()",
        "an arena that user space has nowhere",
        "Addresses in an arena are those of user space, which has not mapped it and has not said where it will.",
        "Map the arena before the program is loaded, or give it an address (`__ulong(map_extra, …)`).",
    ),
    row(
        C::Pointer,
        S::None,
        "addr_space_cast insn can only be used in a program that has an associated arena",
        "a pointer into an arena that the program does not have",
        "The program casts a pointer between address spaces, and refers to no arena.",
        "Refer to the arena map in the program: one that only walks pointers has to name it as well.",
    ),
    row(
        C::Version,
        S::None,
        "sign extending loads from arena are not supported yet",
        "a load that extends a sign",
        "{access} is a load from the arena that extends a sign, which kernels before 6.18 cannot do.",
        "Load an unsigned type and convert it.",
    ),
    row(
        C::Argument,
        S::Reg,
        "R{reg} is not a pointer to arena or scalar.",
        "a pointer into the arena is expected",
        "r{reg} is {value}, and the function's parameter is tagged as a pointer into the arena.",
        "Pass a pointer into the arena.",
    ),
    row(
        C::Argument,
        S::Reg,
        "pointer in R{reg} isn't map pointer",
        "a map is expected",
        "r{reg} is {value}, and {call} takes a map.",
        "Pass the address of the map: `&map`.",
    ),
    row(
        C::Encoding,
        S::None,
        "arg#{arg} arena cannot be combined with any other tags",
        "a parameter with too many tags",
        "Parameter {arg} (from 0) is tagged as a pointer into the arena, and as something else.",
        TAGS,
    )
    .or(&["arg#{arg} has invalid combination of tags"]),
    row(
        C::Encoding,
        S::None,
        "arg#{arg} has pointer tag, but is not a pointer type",
        "a number tagged as a pointer",
        "Parameter {arg} (from 0) has a tag that only pointers have.",
        "Take the tag away, or make the parameter a pointer.",
    ),
    row(
        C::Unsupported,
        S::Reg,
        "R{reg} is no map, and {type} is taken for none",
        "the object of a map by its type",
        "r{reg} is {value}; the kernel may know it for a map by the type of the object.",
        ENCODING,
    ),
];
