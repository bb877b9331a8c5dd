//! The eBPF instruction set and the kernel's tables, as data.
//!
//! Owns: instruction decoding and encoding, assembler and disassembler text, program types, map types, helper
//! prototypes, context layouts. Nothing here does IO, allocates without a bound, or depends on another crate of skep.
#![forbid(unsafe_code)]

pub mod asm;
pub mod ctx;
mod decode;
pub mod disasm;
mod encode;
pub mod errno;
pub mod flags;
pub mod format;
pub mod helper;
pub mod info;
pub mod insn;
pub mod kfunc;
pub mod opcode;
pub mod since;
pub mod types;

pub use decode::{DecodeError, OddLength, decode, decode_xlated};
pub use errno::Errno;
pub use flags::{map_flags, prog_flags, update_flags};
pub use insn::{
    AluOp, AtomicOp, CallTarget, EndKind, Imm64, Insn, JmpOp, Operand, RawInsn, Reg, Size, TailCallImm, Width,
};
pub use types::{AttachType, MapType, ProgType};
