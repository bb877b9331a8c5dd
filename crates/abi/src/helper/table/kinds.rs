//! The vocabulary of the prototype tables: one constant per argument and return type that occurs.

use super::super::proto::{ArgKind as A, RetKind as R, TypeFlags as F};
pub(super) use super::super::proto::{ArgType, HelperProto, ProtoFlags, RetType};

pub(super) const NONE: ArgType = ArgType::new(A::DontCare, F::NONE);
pub(super) const ANY: ArgType = ArgType::new(A::Anything, F::NONE);
pub(super) const MAP: ArgType = ArgType::new(A::ConstMapPtr, F::NONE);
pub(super) const KEY: ArgType = ArgType::new(A::PtrToMapKey, F::NONE);
pub(super) const VALUE: ArgType = ArgType::new(A::PtrToMapValue, F::NONE);
pub(super) const VALUE_OR_NULL: ArgType = ArgType::new(A::PtrToMapValue, F::MAYBE_NULL);
pub(super) const VALUE_UNINIT: ArgType = ArgType::new(A::PtrToMapValue, F::WRITE.with(F::UNINIT));
pub(super) const MEM: ArgType = ArgType::new(A::PtrToMem, F::RDONLY);
pub(super) const MEM_OR_NULL: ArgType = ArgType::new(A::PtrToMem, F::RDONLY.with(F::MAYBE_NULL));
pub(super) const MEM_WRITE: ArgType = ArgType::new(A::PtrToMem, F::WRITE);
pub(super) const MEM_WRITE_OR_NULL: ArgType = ArgType::new(A::PtrToMem, F::WRITE.with(F::MAYBE_NULL));
pub(super) const MEM_UNINIT: ArgType = ArgType::new(A::PtrToMem, F::WRITE.with(F::UNINIT));
pub(super) const SIZE: ArgType = ArgType::new(A::ConstSize, F::NONE);
pub(super) const SIZE_OR_ZERO: ArgType = ArgType::new(A::ConstSizeOrZero, F::NONE);
pub(super) const CTX: ArgType = ArgType::new(A::PtrToCtx, F::NONE);
pub(super) const CTX_OR_NULL: ArgType = ArgType::new(A::PtrToCtx, F::MAYBE_NULL);
pub(super) const SPIN_LOCK: ArgType = ArgType::new(A::PtrToSpinLock, F::NONE);
pub(super) const SOCK_COMMON: ArgType = ArgType::new(A::PtrToSockCommon, F::NONE);
pub(super) const SOCKET_OR_NULL: ArgType = ArgType::new(A::PtrToSocket, F::MAYBE_NULL);
pub(super) const SOCK: ArgType = ArgType::new(A::PtrToBtfIdSockCommon, F::NONE);
pub(super) const SOCK_OR_NULL: ArgType = ArgType::new(A::PtrToBtfIdSockCommon, F::MAYBE_NULL);
pub(super) const SOCK_RELEASE: ArgType = ArgType::new(A::PtrToBtfIdSockCommon, F::RELEASE);
pub(super) const ALLOC_SIZE: ArgType = ArgType::new(A::ConstAllocSizeOrZero, F::NONE);
pub(super) const RINGBUF_RELEASE: ArgType = ArgType::new(A::PtrToRingbufMem, F::RELEASE);
pub(super) const PERCPU: ArgType = ArgType::new(A::PtrToPercpuBtfId, F::NONE);
pub(super) const FUNC: ArgType = ArgType::new(A::PtrToFunc, F::NONE);
pub(super) const STACK_OR_NULL: ArgType = ArgType::new(A::PtrToStack, F::MAYBE_NULL);
pub(super) const CONST_STR: ArgType = ArgType::new(A::PtrToConstStr, F::NONE);
pub(super) const TIMER: ArgType = ArgType::new(A::PtrToTimer, F::NONE);
pub(super) const KPTR_DEST: ArgType = ArgType::new(A::KptrXchgDest, F::NONE);
pub(super) const KPTR_VALUE: ArgType = ArgType::new(A::PtrToBtfId, F::MAYBE_NULL.with(F::RELEASE));
pub(super) const DYNPTR: ArgType = ArgType::new(A::PtrToDynptr, F::RDONLY);
pub(super) const DYNPTR_RINGBUF_RELEASE: ArgType = ArgType::new(A::PtrToDynptr, F::DYNPTR_RINGBUF.with(F::RELEASE));
pub(super) const DYNPTR_NEW_LOCAL: ArgType =
    ArgType::new(A::PtrToDynptr, F::DYNPTR_LOCAL.with(F::UNINIT).with(F::WRITE));
pub(super) const DYNPTR_NEW_RINGBUF: ArgType =
    ArgType::new(A::PtrToDynptr, F::DYNPTR_RINGBUF.with(F::UNINIT).with(F::WRITE));

/// A kernel object of this type.
pub(super) const fn btf(name: &'static str) -> ArgType {
    ArgType { btf: Some(name), ..ArgType::new(A::PtrToBtfId, F::NONE) }
}

pub(super) const fn btf_or_null(name: &'static str) -> ArgType {
    ArgType { btf: Some(name), ..ArgType::new(A::PtrToBtfId, F::MAYBE_NULL) }
}

/// Readable memory of this many bytes.
pub(super) const fn fixed(size: u32) -> ArgType {
    ArgType { size, ..ArgType::new(A::PtrToMem, F::FIXED_SIZE.with(F::RDONLY)) }
}

/// Initialised memory of this many bytes, aligned to them, that the helper writes.
pub(super) const fn fixed_write(size: u32) -> ArgType {
    ArgType { size, ..ArgType::new(A::PtrToMem, F::FIXED_SIZE.with(F::WRITE).with(F::ALIGNED)) }
}

/// Memory of this many bytes, aligned to them, that the helper initialises.
pub(super) const fn fixed_uninit(size: u32) -> ArgType {
    ArgType { size, ..ArgType::new(A::PtrToMem, F::FIXED_SIZE.with(F::WRITE).with(F::ALIGNED).with(F::UNINIT)) }
}

pub(super) const INT: RetType = RetType::new(R::Integer, F::NONE);
pub(super) const VOID: RetType = RetType::new(R::Void, F::NONE);
pub(super) const R_VALUE: RetType = RetType::new(R::PtrToMapValue, F::NONE);
pub(super) const R_VALUE_OR_NULL: RetType = RetType::new(R::PtrToMapValue, F::MAYBE_NULL);
pub(super) const R_SOCKET_OR_NULL: RetType = RetType::new(R::PtrToSocket, F::MAYBE_NULL);
pub(super) const R_TCP_SOCK_OR_NULL: RetType = RetType::new(R::PtrToTcpSock, F::MAYBE_NULL);
pub(super) const R_SOCK_COMMON_OR_NULL: RetType = RetType::new(R::PtrToSockCommon, F::MAYBE_NULL);
pub(super) const R_DYNPTR_MEM_OR_NULL: RetType = RetType::new(R::PtrToMem, F::MAYBE_NULL);
pub(super) const R_RINGBUF_MEM_OR_NULL: RetType = RetType::new(R::PtrToMem, F::MAYBE_NULL.with(F::RINGBUF));
pub(super) const R_PERCPU: RetType = RetType::new(R::PtrToMemOrBtfId, F::RDONLY);
pub(super) const R_PERCPU_OR_NULL: RetType = RetType::new(R::PtrToMemOrBtfId, F::RDONLY.with(F::MAYBE_NULL));
/// What was in the exchanged pointer; its type is the field's.
pub(super) const R_KPTR_OR_NULL: RetType = RetType::new(R::PtrToBtfId, F::MAYBE_NULL);

pub(super) const fn r_btf(name: &'static str) -> RetType {
    RetType { btf: Some(name), ..RetType::new(R::PtrToBtfId, F::NONE) }
}

pub(super) const fn r_btf_or_null(name: &'static str) -> RetType {
    RetType { btf: Some(name), ..RetType::new(R::PtrToBtfId, F::MAYBE_NULL) }
}

pub(super) const fn r_btf_trusted(name: &'static str) -> RetType {
    RetType { btf: Some(name), ..RetType::new(R::PtrToBtfId, F::TRUSTED) }
}

/// May be called by programs with a GPL-compatible licence only.
pub(super) const GPL: ProtoFlags = ProtoFlags { gpl_only: true, ..ProtoFlags::NONE };
/// Takes packet memory for its memory arguments.
pub(super) const PKT: ProtoFlags = ProtoFlags { pkt_access: true, ..ProtoFlags::NONE };
/// May sleep.
pub(super) const SLEEPS: ProtoFlags = ProtoFlags { might_sleep: true, ..ProtoFlags::NONE };
/// Leaves r1-r5 alone when it is inlined.
pub(super) const FASTCALL: ProtoFlags = ProtoFlags { allow_fastcall: true, ..ProtoFlags::NONE };
/// Moves or changes the packet, so that packet pointers are lost.
pub(super) const CHANGES_PKT: ProtoFlags = ProtoFlags { changes_pkt: true, ..ProtoFlags::NONE };

/// Fills up to five arguments.
pub(super) const fn args(given: &[ArgType]) -> [ArgType; 5] {
    let mut all = [NONE; 5];
    let mut i = 0;
    while i < given.len() {
        all[i] = given[i];
        i += 1;
    }
    all
}

pub(super) const fn flags(given: &[ProtoFlags]) -> ProtoFlags {
    let mut all = ProtoFlags::NONE;
    let mut i = 0;
    while i < given.len() {
        all = all.with(given[i]);
        i += 1;
    }
    all
}

/// `NAME ID [FLAGS] (ARGUMENTS) -> RETURN;` rows.
macro_rules! protos {
    ($(#[$doc:meta])* $table:ident = $($name:ident $id:literal [$($flag:ident)*] ($($arg:expr),*) -> $ret:expr;)*) => {
        $(#[$doc])*
        pub(crate) static $table: &[HelperProto] = &[$(HelperProto {
            id: $id,
            name: std::borrow::Cow::Borrowed(stringify!($name)),
            flags: flags(&[$($flag),*]),
            ret: $ret,
            args: args(&[$($arg),*]),
        },)*];
    };
}
pub(super) use protos;
