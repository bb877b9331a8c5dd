//! The eBPF instruction set and the kernel's tables, as data.
//!
//! Owns: instruction decoding and encoding, assembler and disassembler text, program types, map types, helper
//! prototypes, context layouts. Nothing here does IO, allocates without a bound, or depends on another crate of skep.
#![forbid(unsafe_code)]

pub mod insn;

pub use insn::{
    AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, TailCallImm, Width,
};
