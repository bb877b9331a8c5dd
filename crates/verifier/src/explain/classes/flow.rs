//! Refusals of control flow and of what a function returns.
//!
//! Owns these rows of the table. Invariant: as in the parent module, special patterns come before general ones.

use super::{Category as C, Class, ENCODING, Subject as S, row};

/// The first row that fits counts.
pub(super) const ROWS: &[Class] = &[
    // Control flow.
    row(
        C::Flow,
        S::Branches,
        "infinite loop detected at insn {at}",
        "a loop that never ends",
        "The path comes back to instruction {at} with the same values in all registers and on the stack: nothing that the \
         loop's condition depends on changes from one turn to the next.",
        "Count something in the loop's condition, up to a constant: `for (i = 0; i < N; i++)`, or use bpf_for() or bpf_loop().",
    ),
    row(
        C::Flow,
        S::None,
        "back-edge from insn {at} to {to}",
        "a loop in an unprivileged program",
        "Instruction {at} jumps back to {to}, and programs without CAP_BPF may not have loops.",
        "Unroll the loop (`#pragma unroll`), or load the program with CAP_BPF.",
    ),
    row(
        C::Flow,
        S::None,
        "unreachable insn {at}",
        "code that nothing reaches",
        "No path leads to instruction {at}.",
        ENCODING,
    ),
    row(
        C::Flow,
        S::None,
        "jump out of range from insn {at} to {to}",
        "a jump out of the function",
        "Instruction {at} jumps to {to}, outside of its function.",
        ENCODING,
    ),
    row(
        C::Flow,
        S::None,
        "jump into the middle of ldimm64 insn {at}",
        "a jump into an instruction",
        "Instruction {at} is the second half of a load of 64 bits.",
        ENCODING,
    ),
    row(
        C::Flow,
        S::None,
        "last insn is not an exit or jmp",
        "a function without end",
        "The path runs off the function's last instruction.",
        "Return at the end of the function; a function that the compiler found to have undefined behaviour may end so \
         (look for uninitialised variables and missing returns).",
    ),
    row(
        C::Flow,
        S::None,
        "invalid insn idx {at} insn_cnt {count}",
        "the path leaves the program",
        "There is no instruction {at}.",
        ENCODING,
    ),
    row(
        C::Flow,
        S::None,
        "call to invalid destination",
        "a call of no function",
        "The call's target lies outside of the program.",
        ENCODING,
    ),
    row(
        C::Flow,
        S::None,
        "insn {at} cannot call exception cb directly",
        "the exception callback is called",
        "It is entered by throwing alone.",
        "Put what both need into a third function.",
    ),
    row(
        C::Flow,
        S::None,
        "exception callback type id not found in func_info",
        "the exception callback is not there",
        "The tag names a function that the program does not have.",
        "Define the function that __exception_cb() names.",
    ),
    // Return values.
    row(
        C::Return,
        S::Zero,
        "At {where} the register R0 has {range} should have been in [{min}, {max}]",
        "the returned number is not allowed",
        "The function returns {value}, and it may only return {min} to {max} here.",
        "Return one of the values that the program type defines, on every path.",
    ),
    row(
        C::Return,
        S::Zero,
        "At {where} the register R0 is not a {what} value ({type})",
        "no number is returned",
        "The function returns {value}, and it must return a number.",
        "Return a number on every path.",
    ),
    row(
        C::Return,
        S::Zero,
        "R0 not a scalar value",
        "a callback returns no number",
        "The callback returns {value}; it must return 0 or 1.",
        "Return 0 to go on or 1 to stop.",
    ),
];
