//! Helpers that an embedder adds.
//!
//! A helper is a type: its number, name and arguments are constants, so that the function behind it is one with the calling
//! convention of every helper, without state and without a table at run time. Invariant: what [`Args`] hands out is what
//! the verifier proved, since both follow from [`UserHelper::ARGS`]. Kernel counterpart: `struct bpf_func_proto`,
//! include/linux/bpf.h, 6.18; a kernel's own helpers cannot be added to at run time.

use std::borrow::Cow;
use std::marker::PhantomData;

use skep_abi::helper::{ArgKind, ArgType, HelperProto, ProtoFlags, RetKind, RetType, TypeFlags};

use super::{HelperFn, bytes, bytes_mut};
use crate::frame::Run;

/// What an argument is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arg {
    /// Nothing: this argument and those behind it are not passed.
    None,
    /// A number.
    Scalar,
    /// Memory that the helper reads; the next argument is [`Arg::Len`].
    Bytes,
    /// Initialised memory that the helper may write; the next argument is [`Arg::Len`].
    BytesMut,
    /// Length of the memory argument before it.
    Len,
}

/// A helper of an embedder. It must not panic: there is nothing to unwind to, so a panic ends the process.
///
/// ```
/// use skep_runtime::helper::{Arg, Args, UserHelper};
///
/// /// `long body_sum(const void *bytes, __u32 len, __u64 seed)`, number 1000.
/// struct BodySum;
///
/// impl UserHelper for BodySum {
///     const ID: u32 = 1000;
///     const NAME: &'static str = "body_sum";
///     const ARGS: [Arg; 5] = [Arg::Bytes, Arg::Len, Arg::Scalar, Arg::None, Arg::None];
///
///     fn call(args: &mut Args<'_, Self>) -> u64 {
///         let seed = args.scalar(2);
///         args.bytes(0).iter().fold(seed, |sum, byte| sum.wrapping_add(u64::from(*byte)))
///     }
/// }
/// ```
pub trait UserHelper: Sized + 'static {
    /// Its number, above those of the kernel: 1000 or more.
    const ID: u32;
    /// Its name, for logs and listings.
    const NAME: &'static str;
    /// What it takes in r1 to r5.
    const ARGS: [Arg; 5];

    /// Does its work; the result is a number in r0.
    fn call(args: &mut Args<'_, Self>) -> u64;
}

/// The arguments of one call.
pub struct Args<'a, H> {
    run: &'a Run,
    values: [u64; 5],
    _helper: PhantomData<H>,
}

impl<H: UserHelper> Args<'_, H> {
    /// A number, or the length of the memory before it; 0 for another kind of argument.
    #[must_use]
    pub fn scalar(&self, at: usize) -> u64 {
        match H::ARGS.get(at) {
            Some(Arg::Scalar | Arg::Len) => self.values[at],
            _ => 0,
        }
    }

    /// Memory that was passed; empty for another kind of argument.
    #[must_use]
    pub fn bytes(&self, at: usize) -> &[u8] {
        match self.memory(at) {
            // SAFETY: the prototype made of `ARGS` says that these bytes are readable for the call.
            Some((start, len)) => unsafe { bytes(self.run, start, len) },
            None => &[],
        }
    }

    /// Memory that was passed to be written; empty for another kind of argument.
    #[must_use]
    pub fn bytes_mut(&mut self, at: usize) -> &mut [u8] {
        match self.memory(at).filter(|_| H::ARGS[at] == Arg::BytesMut) {
            // SAFETY: the prototype made of `ARGS` says that these bytes are writable for the call; `&mut self` keeps the
            // other arguments away.
            Some((start, len)) => unsafe { bytes_mut(self.run, start, len) },
            None => &mut [],
        }
    }

    fn memory(&self, at: usize) -> Option<(u64, u64)> {
        let is_memory = matches!(H::ARGS.get(at), Some(Arg::Bytes | Arg::BytesMut));
        let has_length = H::ARGS.get(at + 1) == Some(&Arg::Len);
        // A length is 32 bits wide for the verifier's bounds and for every helper.
        (is_memory && has_length).then(|| (self.values[at], self.values[at + 1] & 0xffff_ffff))
    }
}

/// What the verifier and the engine need of a helper.
#[derive(Clone, Debug)]
pub struct AddedHelper {
    /// For the verifier and the interpreter.
    pub proto: HelperProto,
    /// For compiled code.
    pub function: HelperFn,
}

impl AddedHelper {
    /// The helper `H`.
    #[must_use]
    pub fn new<H: UserHelper>() -> Self {
        Self { proto: proto::<H>(), function: super::generic_entry!(call, H: UserHelper) }
    }
}

unsafe fn call<H: UserHelper>(run: Run, values: [u64; 5]) -> u64 {
    H::call(&mut Args { run: &run, values, _helper: PhantomData })
}

fn proto<H: UserHelper>() -> HelperProto {
    let args = H::ARGS.map(|arg| match arg {
        Arg::None => ArgType::new(ArgKind::DontCare, TypeFlags::NONE),
        Arg::Scalar => ArgType::new(ArgKind::Anything, TypeFlags::NONE),
        Arg::Bytes => ArgType::new(ArgKind::PtrToMem, TypeFlags::RDONLY),
        Arg::BytesMut => ArgType::new(ArgKind::PtrToMem, TypeFlags::WRITE),
        Arg::Len => ArgType::new(ArgKind::ConstSizeOrZero, TypeFlags::NONE),
    });
    HelperProto {
        id: H::ID,
        name: Cow::Borrowed(H::NAME),
        // A context's packet may be read-only, which only its reads respect.
        flags: ProtoFlags { pkt_access: !H::ARGS.contains(&Arg::BytesMut), ..ProtoFlags::default() },
        ret: RetType::new(RetKind::Integer, TypeFlags::NONE),
        args,
    }
}
