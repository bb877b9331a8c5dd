//! The instruction as every tier sees it: the 8-byte slot and its decoded form.
//!
//! Programs are slices of [`RawInsn`]; positions and jump offsets count slots, and an `ld_imm64` takes two of them, as
//! in the kernel. [`decode`](crate::decode) turns slots into [`Insn`]; an encoding that RFC 9669 and Linux 6.18 do not
//! define is an error there and exists in no other form. Kernel counterpart: `struct bpf_insn`, include/uapi/linux/bpf.h.

/// One 8-byte slot of a program, fields as in the object file (little-endian register nibbles: `dst` low, `src` high).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct RawInsn {
    /// Opcode: class in bits 0-2, the rest depends on the class.
    pub code: u8,
    /// Destination register number, 0-15 as encoded.
    pub dst: u8,
    /// Source register number or pseudo kind, 0-15 as encoded.
    pub src: u8,
    /// Signed offset: bytes for memory, slots for jumps.
    pub off: i16,
    /// Immediate.
    pub imm: i32,
}

/// A register, `r0`-`r10`; `r11` (`AX`) appears in rewritten programs only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reg(u8);

impl Reg {
    /// Return value.
    pub const R0: Self = Self(0);
    /// First argument, the context at entry.
    pub const R1: Self = Self(1);
    /// Second argument.
    pub const R2: Self = Self(2);
    /// Third argument.
    pub const R3: Self = Self(3);
    /// Fourth argument.
    pub const R4: Self = Self(4);
    /// Fifth argument.
    pub const R5: Self = Self(5);
    /// Callee-saved.
    pub const R6: Self = Self(6);
    /// Callee-saved.
    pub const R7: Self = Self(7);
    /// Callee-saved.
    pub const R8: Self = Self(8);
    /// Callee-saved.
    pub const R9: Self = Self(9);
    /// Frame pointer, read-only.
    pub const R10: Self = Self(10);
    /// Scratch register of rewritten programs (`BPF_REG_AX`).
    pub const AX: Self = Self(11);

    /// The register with this number, 0-11.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number <= 11 { Some(Self(number)) } else { None }
    }

    /// Its number, 0-11.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its number as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Operand width of arithmetic and conditional jumps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Width {
    /// 32 bits; the result is zero-extended to 64.
    W32,
    /// 64 bits.
    W64,
}

/// Size of a memory access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Size {
    /// 1 byte, `BPF_B`.
    B,
    /// 2 bytes, `BPF_H`.
    H,
    /// 4 bytes, `BPF_W`.
    W,
    /// 8 bytes, `BPF_DW`.
    Dw,
}

impl Size {
    /// In bytes: 1, 2, 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::B => 1,
            Self::H => 2,
            Self::W => 4,
            Self::Dw => 8,
        }
    }
}

/// Second operand: a register, or the immediate sign-extended to the operation's width.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operand {
    /// Register (`BPF_X`).
    Reg(Reg),
    /// Immediate (`BPF_K`).
    Imm(i32),
}

/// Two-operand arithmetic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names are RFC 9669's")]
pub enum AluOp {
    Add,
    Sub,
    Mul,
    /// Unsigned; division by zero gives 0.
    Div,
    /// Signed (`off = 1`).
    Sdiv,
    Or,
    And,
    Lsh,
    Rsh,
    /// Unsigned; modulo by zero leaves `dst` (truncated in 32 bits).
    Mod,
    /// Signed (`off = 1`).
    Smod,
    Xor,
    Mov,
    Arsh,
}

/// Condition of a conditional jump.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names are RFC 9669's")]
pub enum JmpOp {
    Eq,
    Gt,
    Ge,
    /// `dst & src != 0`.
    Set,
    Ne,
    Sgt,
    Sge,
    Lt,
    Le,
    Slt,
    Sle,
}

/// Byte-order instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EndKind {
    /// `dst = leN dst` (ALU class, `BPF_TO_LE`).
    ToLe,
    /// `dst = beN dst` (ALU class, `BPF_TO_BE`).
    ToBe,
    /// `dst = bswapN dst` (ALU64 class), unconditional.
    Bswap,
}

/// Read-modify-write kind. `Xchg` and `Cmpxchg` always fetch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AtomicOp {
    /// `*(base+off) += src`.
    Add,
    /// `*(base+off) |= src`.
    Or,
    /// `*(base+off) &= src`.
    And,
    /// `*(base+off) ^= src`.
    Xor,
    /// `src = xchg(base+off, src)`.
    Xchg,
    /// `r0 = cmpxchg(base+off, r0, src)`.
    Cmpxchg,
}

/// What an `ld_imm64` loads, by its `src` field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Imm64 {
    /// 0: the constant.
    Const(u64),
    /// 1, `BPF_PSEUDO_MAP_FD`: the map with this fd; in skep's own programs, the index in the program's map list.
    MapFd(i32),
    /// 2, `BPF_PSEUDO_MAP_VALUE`: address of byte `off` of the first value of that map.
    MapValue {
        /// As in [`Imm64::MapFd`].
        fd: i32,
        /// Byte offset.
        off: u32,
    },
    /// 3, `BPF_PSEUDO_BTF_ID`: address of a kernel variable.
    BtfId {
        /// Type id of the variable.
        id: i32,
        /// Module BTF fd.
        obj_fd: i32,
    },
    /// 4, `BPF_PSEUDO_FUNC`: a callback subprogram, at this slot distance from the next instruction.
    Func(i32),
    /// 5, `BPF_PSEUDO_MAP_IDX`: index into the load's fd array; otherwise as `MapFd`.
    MapIdx(i32),
    /// 6, `BPF_PSEUDO_MAP_IDX_VALUE`: index into the load's fd array; otherwise as `MapValue`.
    MapIdxValue {
        /// Index into the fd array.
        idx: i32,
        /// Byte offset.
        off: u32,
    },
}

/// Target of a call instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CallTarget {
    /// `src = 0`: helper with this id.
    Helper(i32),
    /// `src = 1`, `BPF_PSEUDO_CALL`: subprogram, at this slot distance from the next instruction.
    Subprog(i32),
    /// `src = 2`, `BPF_PSEUDO_KFUNC_CALL`.
    Kfunc {
        /// BTF id of the function; in skep's own programs, the index in the program's kfunc list.
        id: i32,
        /// Index in the load's fd array of the module BTF, 0 for vmlinux.
        obj: i16,
    },
}

/// A decoded instruction. Jump offsets count slots from the next instruction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "field names are the operands of the syntax shown at each variant")]
pub enum Insn {
    /// `r1 += r2`, `w1 s/= 3`, `r1 = r2`.
    Alu { width: Width, op: AluOp, dst: Reg, src: Operand },
    /// `r1 = (s8)r2`, `w1 = (s16)w2`; `bits` is 8, 16 or 32.
    MovSx { width: Width, bits: u8, dst: Reg, src: Reg },
    /// `r1 = -r1`.
    Neg { width: Width, dst: Reg },
    /// `r1 = be16 r1`; `bits` is 16, 32 or 64.
    End { kind: EndKind, bits: u8, dst: Reg },
    /// `r1 = addr_space_cast(r2, 0, 1)`: arena pointers (`off = 1`).
    AddrSpaceCast { dst: Reg, src: Reg, imm: i32 },
    /// `r1 = &(void __percpu *)(r2)`: `mov64_percpu_reg`, in rewritten programs only (`off = -1`).
    MovPercpu { dst: Reg, src: Reg },
    /// `r1 = 0x… ll`, two slots.
    LdImm64 { dst: Reg, imm: Imm64 },
    /// `r1 = *(u32 *)(r2 +4)`, with `sign_extend` `r1 = *(s8 *)(r2 +4)` (never for `Dw`).
    Load { size: Size, sign_extend: bool, dst: Reg, base: Reg, off: i16 },
    /// `*(u32 *)(r2 +4) = r1` or `= 7`.
    Store { size: Size, base: Reg, off: i16, src: Operand },
    /// `lock *(u64 *)(r2 +0) += r1`; size is `W` or `Dw`.
    Atomic { op: AtomicOp, fetch: bool, size: Size, base: Reg, off: i16, src: Reg },
    /// `r1 = load_acquire((u32 *)(r2 +0))`, any size.
    LoadAcquire { size: Size, dst: Reg, base: Reg, off: i16 },
    /// `store_release((u32 *)(r2 +0), r1)`, any size.
    StoreRelease { size: Size, base: Reg, off: i16, src: Reg },
    /// `r0 = *(u16 *)skb[12]`; size is `B`, `H` or `W`, the value big-endian on the wire.
    LdAbs { size: Size, imm: i32 },
    /// `r0 = *(u16 *)skb[r7 + 12]`.
    LdInd { size: Size, src: Reg, imm: i32 },
    /// `goto +3`; `long` is the JMP32 form `gotol` with its 32-bit offset.
    Ja { off: i32, long: bool },
    /// `if r1 s> 5 goto +2`.
    Jcond { width: Width, op: JmpOp, dst: Reg, src: Operand, off: i16 },
    /// `may_goto +2`.
    MayGoto { off: i16 },
    /// `call bpf_map_lookup_elem#1`, `call pc+5`, `call kernel-function`.
    Call { target: CallTarget },
    /// `tail_call`: `BPF_JMP|BPF_TAIL_CALL` (0xf0), in rewritten programs only; see [`TailCallImm`].
    TailCall { imm: TailCallImm },
    /// `exit`.
    Exit,
}

/// The `imm` of a rewritten tail call: what the verifier knows of its map and index.
///
/// Bits 0-7 the map's index in the program's used maps, bits 8-15 non-zero when the map is not known, bits 16-31 the
/// poke-table index plus 1 when map and index are constants.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TailCallImm(pub i32);
