//! Numbers of the encoding: fields of the opcode byte and the immediates and offsets that select a form.
//!
//! Facts of RFC 9669 and include/uapi/linux/bpf.h, without behaviour; decoding is [`crate::decode()`]'s.
#![expect(missing_docs, reason = "the names are RFC 9669's and the kernel's, without the BPF_ prefix")]

pub const CLASS: u8 = 0x07;
pub const LD: u8 = 0x00;
pub const LDX: u8 = 0x01;
pub const ST: u8 = 0x02;
pub const STX: u8 = 0x03;
pub const ALU: u8 = 0x04;
pub const JMP: u8 = 0x05;
pub const JMP32: u8 = 0x06;
pub const ALU64: u8 = 0x07;

pub const SIZE: u8 = 0x18;
pub const W: u8 = 0x00;
pub const H: u8 = 0x08;
pub const B: u8 = 0x10;
pub const DW: u8 = 0x18;

pub const MODE: u8 = 0xe0;
pub const IMM: u8 = 0x00;
pub const ABS: u8 = 0x20;
pub const IND: u8 = 0x40;
pub const MEM: u8 = 0x60;
pub const MEMSX: u8 = 0x80;
pub const ATOMIC: u8 = 0xc0;

/// Operation of ALU and JMP classes.
pub const OP: u8 = 0xf0;
/// Source bit: the second operand is a register.
pub const X: u8 = 0x08;
/// Source bit clear: the second operand is the immediate.
pub const K: u8 = 0x00;

pub const ADD: u8 = 0x00;
pub const SUB: u8 = 0x10;
pub const MUL: u8 = 0x20;
pub const DIV: u8 = 0x30;
pub const OR: u8 = 0x40;
pub const AND: u8 = 0x50;
pub const LSH: u8 = 0x60;
pub const RSH: u8 = 0x70;
pub const NEG: u8 = 0x80;
pub const MOD: u8 = 0x90;
pub const XOR: u8 = 0xa0;
pub const MOV: u8 = 0xb0;
pub const ARSH: u8 = 0xc0;
pub const END: u8 = 0xd0;

pub const JA: u8 = 0x00;
pub const JEQ: u8 = 0x10;
pub const JGT: u8 = 0x20;
pub const JGE: u8 = 0x30;
pub const JSET: u8 = 0x40;
pub const JNE: u8 = 0x50;
pub const JSGT: u8 = 0x60;
pub const JSGE: u8 = 0x70;
pub const CALL: u8 = 0x80;
pub const EXIT: u8 = 0x90;
pub const JLT: u8 = 0xa0;
pub const JLE: u8 = 0xb0;
pub const JSLT: u8 = 0xc0;
pub const JSLE: u8 = 0xd0;
pub const JCOND: u8 = 0xe0;
/// Rewritten programs only.
pub const TAIL_CALL: u8 = 0xf0;

pub const FETCH: i32 = 0x01;
pub const ATOMIC_ADD: i32 = 0x00;
pub const ATOMIC_OR: i32 = 0x40;
pub const ATOMIC_AND: i32 = 0x50;
pub const ATOMIC_XOR: i32 = 0xa0;
/// Without [`FETCH`], which every encoding of it has.
pub const ATOMIC_XCHG: i32 = 0xe0;
/// Without [`FETCH`], which every encoding of it has.
pub const ATOMIC_CMPXCHG: i32 = 0xf0;
pub const LOAD_ACQ: i32 = 0x100;
pub const STORE_REL: i32 = 0x110;

/// `off` of a register move that converts between address spaces (`BPF_ADDR_SPACE_CAST`).
pub const ADDR_SPACE_CAST: i16 = 1;
/// `off` of a register move that makes a per-CPU address (`BPF_ADDR_PERCPU`).
pub const ADDR_PERCPU: i16 = -1;

/// The first slot of an `ld_imm64`.
pub const LD_IMM64: u8 = LD | IMM | DW;
