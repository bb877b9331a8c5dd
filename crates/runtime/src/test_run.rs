//! `test_run`: a program over one input, as the kernel's BPF_PROG_TEST_RUN does it.
//!
//! Owns the conversion of raw attributes to contexts and back. Invariant: sizes are checked, refused and reported in the
//! kernel's order, so the same attributes give the same errno. Kernel counterpart: net/bpf/test_run.c, 6.18. Three
//! differences: any device index is accepted (there are no devices), a vCPU may be named for every program type, and
//! there are no live frames.

use std::time::Instant;

use skep_abi::{Errno, ProgType};
use skep_sync::CpuId;
use thiserror::Error;

use crate::ctx::{Context, CtxType, RawTp, Redirect, SkBuff, Skb, Syscall, UserContext, Xdp, XdpAction, XdpBuff};
use crate::program::{Program, RunError};

/// `sizeof(struct xdp_md)` and `sizeof(struct __sk_buff)`.
const XDP_MD: usize = 24;
const SK_BUFF: usize = 192;
/// The longest packet in a socket buffer: a page without the room that the kernel keeps.
const SKB_MAX: usize = 4096 - 64 - 320;
const ETH_HLEN: usize = 14;

/// Why a test run failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TestRunError {
    /// The input is refused, with the kernel's errno.
    #[error("the input is refused: {0}")]
    Refused(Errno),
    /// The run did not happen, or ended early.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl TestRunError {
    /// As `bpf(BPF_PROG_TEST_RUN)` fails.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused(errno) => *errno,
            Self::Run(RunError::Enter(_)) => Errno::ENXIO,
            Self::Run(_) => Errno::EFAULT,
        }
    }
}

impl From<Errno> for TestRunError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// How often and where to run.
#[derive(Clone, Copy, Default, Debug)]
pub struct TestOptions {
    /// Runs on the same buffer, one after the other; 0 is 1.
    pub repeat: u32,
    /// The vCPU to run on; `None` for any.
    pub cpu: Option<CpuId>,
}

/// Raw attributes (`union bpf_attr.test`).
#[derive(Clone, Copy, Default, Debug)]
pub struct TestRunAttr<'a> {
    /// Packet.
    pub data_in: &'a [u8],
    /// Room for the packet afterwards; `None` for no interest.
    pub data_size_out: Option<usize>,
    /// Context struct, as far as the caller knows it.
    pub ctx_in: Option<&'a [u8]>,
    /// Room for the context afterwards; `None` for no interest.
    pub ctx_size_out: Option<usize>,
    /// How often and where.
    pub options: TestOptions,
    /// Flags; only `BPF_F_TEST_RUN_ON_CPU` (1), for raw tracepoints.
    pub flags: u32,
}

/// What a raw test run returns.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct TestRunResult {
    /// r0, low half.
    pub retval: u32,
    /// Packet afterwards (metadata included), as far as there was room.
    pub data_out: Vec<u8>,
    /// Length of the packet afterwards.
    pub data_size: usize,
    /// Context afterwards.
    pub ctx_out: Vec<u8>,
    /// Mean duration of one run in nanoseconds.
    pub duration_ns: u32,
}

/// Something that a program can be tested with.
pub trait TestInput {
    /// What a test run gives back.
    type Output;

    /// Runs `program` on it.
    ///
    /// # Errors
    /// The input is refused, or the run fails.
    fn test(self, program: &Program, options: &TestOptions) -> Result<Self::Output, TestRunError>;
}

/// Outcome of a test run at XDP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XdpOutput {
    /// r0, low half.
    pub retval: u32,
    /// The packet afterwards, without metadata.
    pub packet: Vec<u8>,
    /// The metadata afterwards.
    pub meta: Vec<u8>,
    /// Where the program sent the packet.
    pub redirect: Option<Redirect>,
    /// Mean duration of one run in nanoseconds.
    pub duration_ns: u32,
}

impl XdpOutput {
    /// What the program decided.
    #[must_use]
    pub fn action(&self) -> XdpAction {
        XdpAction::from(self.retval)
    }
}

/// Outcome of a test run on a socket buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkbOutput {
    /// r0, low half.
    pub retval: u32,
    /// The packet afterwards, from where the program's data begins.
    pub packet: Vec<u8>,
    /// `mark` afterwards.
    pub mark: u32,
    /// `priority` afterwards.
    pub priority: u32,
    /// `cb` afterwards.
    pub cb: [u32; 5],
    /// `tstamp` afterwards.
    pub tstamp: u64,
    /// Where the program sent the packet.
    pub redirect: Option<Redirect>,
    /// Copies that it sent elsewhere.
    pub clones: Vec<(Redirect, Vec<u8>)>,
    /// Mean duration of one run in nanoseconds.
    pub duration_ns: u32,
}

/// Outcome of a test run of another program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output<C> {
    /// r0, low half.
    pub retval: u32,
    /// The context afterwards.
    pub ctx: C,
    /// Mean duration of one run in nanoseconds.
    pub duration_ns: u32,
}

impl Program {
    /// Runs the program once on `input`, a description of its context.
    ///
    /// # Errors
    /// The input is refused, or the run fails.
    pub fn test_run<I: TestInput>(&self, input: I) -> Result<I::Output, TestRunError> {
        input.test(self, &TestOptions::default())
    }

    /// As [`Program::test_run`], several times on the same buffer or on a vCPU of choice.
    ///
    /// # Errors
    /// The input is refused, or the run fails.
    pub fn test_run_with<I: TestInput>(&self, input: I, options: &TestOptions) -> Result<I::Output, TestRunError> {
        input.test(self, options)
    }

    /// The raw form: bytes in, bytes out, the kernel's errnos.
    ///
    /// # Errors
    /// The input is refused, or the run fails.
    pub fn test_run_raw(&self, attr: &TestRunAttr<'_>) -> Result<TestRunResult, TestRunError> {
        match self.ctx_type() {
            CtxType::Xdp => self.raw_xdp(attr),
            CtxType::Skb if self.prog_type() == ProgType::SkSkb => Err(Errno::ENOTSUPP.into()),
            CtxType::Skb => self.raw_skb(attr),
            CtxType::RawTp => self.raw_tp(attr),
            CtxType::Syscall if self.prog_type() == ProgType::Syscall => self.raw_syscall(attr),
            CtxType::Syscall | CtxType::MapElem | CtxType::User(_) | CtxType::Function => Err(Errno::ENOTSUPP.into()),
        }
    }

    /// Runs it `repeat` times; the last r0 and the mean duration.
    fn repeat<C: Context>(&self, ctx: &mut C, options: &TestOptions) -> Result<(u32, u32), RunError> {
        let cpus = self.engine().cpus();
        let guard = match options.cpu {
            Some(cpu) => cpus.enter_on(cpu)?,
            None => cpus.enter()?,
        };
        let times = options.repeat.max(1);
        let mut r0 = 0;
        let started = Instant::now();
        for _ in 0..times {
            r0 = self.run_on(&guard, ctx)?;
        }
        let mean = started.elapsed().as_nanos() / u128::from(times);
        Ok(((r0 & 0xffff_ffff) as u32, u32::try_from(mean).unwrap_or(u32::MAX)))
    }

    fn raw_xdp(&self, attr: &TestRunAttr<'_>) -> Result<TestRunResult, TestRunError> {
        if attr.flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        let ctx = read_ctx(attr, XDP_MD)?;
        let mut xdp = Xdp::packet(attr.data_in);
        let mut linear = attr.data_in.len();
        if let Some(ctx) = &ctx {
            let word = |at| word(ctx, at);
            let (data, data_end) = (word(0) as usize, word(4) as usize);
            if word(8) != 0 || data_end > attr.data_in.len() || data > data_end || !data.is_multiple_of(4) || data > 216
            {
                return Err(Errno::EINVAL.into());
            }
            linear = data_end;
            if word(20) != 0 || (word(12) == 0 && word(16) != 0) {
                return Err(Errno::EINVAL.into());
            }
            xdp = xdp.meta(data).rx_queue_index(word(16));
            if word(12) != 0 {
                xdp = xdp.ingress_ifindex(word(12));
            }
        }
        if attr.data_in.len() < ETH_HLEN {
            return Err(Errno::EINVAL.into());
        }
        let mut buff = XdpBuff::with_fragments(&xdp, linear)?;
        let (retval, duration_ns) = self.repeat(&mut buff, &attr.options)?;
        let meta = buff.meta_len();
        let out = buff.meta_and_all();
        let mut result = TestRunResult { retval, duration_ns, ..TestRunResult::default() };
        let mut new_ctx = ctx.unwrap_or_default();
        if attr.ctx_size_out.is_some() {
            new_ctx.resize(XDP_MD, 0);
            let end = buff.meta_and_packet().len();
            set_word(&mut new_ctx, 0, u32::try_from(meta).unwrap_or(0));
            set_word(&mut new_ctx, 4, u32::try_from(end).unwrap_or(0));
        }
        finish(attr, &mut result, &out, &new_ctx)?;
        Ok(result)
    }

    fn raw_skb(&self, attr: &TestRunAttr<'_>) -> Result<TestRunResult, TestRunError> {
        if attr.flags != 0 || !(ETH_HLEN..=SKB_MAX).contains(&attr.data_in.len()) {
            return Err(Errno::EINVAL.into());
        }
        let ctx = read_ctx(attr, SK_BUFF)?;
        let mut skb = skb_of(attr.data_in, self.prog_type())?;
        if let Some(ctx) = &ctx {
            apply_sk_buff(ctx, &mut skb)?;
        }
        let (retval, duration_ns) = self.repeat(&mut skb, &attr.options)?;
        let mut result = TestRunResult { retval, duration_ns, ..TestRunResult::default() };
        let mut out = Vec::new();
        if !crate::ctx::has_mac_header(self.prog_type()) {
            // The kernel puts an empty header back.
            out.resize(ETH_HLEN, 0);
        }
        out.extend_from_slice(skb.packet());
        let mut new_ctx = ctx.unwrap_or_default();
        if attr.ctx_size_out.is_some() {
            new_ctx.resize(SK_BUFF, 0);
            store_sk_buff(&skb, &mut new_ctx);
        }
        finish(attr, &mut result, &out, &new_ctx)?;
        Ok(result)
    }

    fn raw_tp(&self, attr: &TestRunAttr<'_>) -> Result<TestRunResult, TestRunError> {
        let ctx = attr.ctx_in.unwrap_or_default();
        let wants_data = !attr.data_in.is_empty() || attr.data_size_out.is_some() || attr.ctx_size_out.is_some();
        let on_cpu = attr.flags & 1 != 0;
        let refused = wants_data
            || attr.options.repeat != 0
            || ctx.len() > 8 * RawTp::MAX
            || ctx.len() < self.ctx_bytes_used()
            || attr.flags & !1 != 0
            || (!on_cpu && attr.options.cpu.is_some_and(|cpu| cpu.0 != 0));
        if refused {
            return Err(Errno::EINVAL.into());
        }
        let words: Vec<u64> = ctx
            .chunks(8)
            .map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            })
            .collect();
        let options = TestOptions { cpu: attr.options.cpu.filter(|_| on_cpu), ..attr.options };
        let (retval, duration_ns) = self.repeat(&mut RawTp::args(&words), &options)?;
        Ok(TestRunResult { retval, duration_ns, ..TestRunResult::default() })
    }

    /// The context comes back in `ctx_out`, which the kernel writes over `ctx_in`.
    fn raw_syscall(&self, attr: &TestRunAttr<'_>) -> Result<TestRunResult, TestRunError> {
        let ctx = attr.ctx_in.unwrap_or_default();
        let wants_data = !attr.data_in.is_empty() || attr.data_size_out.is_some() || attr.ctx_size_out.is_some();
        if wants_data || attr.options.repeat != 0 || attr.flags != 0 {
            return Err(Errno::EINVAL.into());
        }
        if ctx.len() < self.ctx_bytes_used() || ctx.len() > Syscall::MAX {
            return Err(Errno::EINVAL.into());
        }
        let mut ctx = Syscall::bytes(ctx);
        let (retval, duration_ns) = self.repeat(&mut ctx, &attr.options)?;
        Ok(TestRunResult { retval, duration_ns, ctx_out: ctx.to_bytes(), ..TestRunResult::default() })
    }

    /// End of the last context byte that the program accesses (`max_ctx_offset`).
    fn ctx_bytes_used(&self) -> usize {
        use skep_abi::{Insn, decode_xlated};
        let xlated = self.xlated();
        let accesses = xlated.facts.iter().enumerate().filter(|(_, f)| f.mem == skep_verifier::MemKind::Ctx);
        let ends = accesses.filter_map(|(slot, _)| match decode_xlated(&xlated.insns, slot).ok()? {
            Insn::Load { size, off, .. } | Insn::Store { size, off, .. } => {
                usize::try_from(off).ok().map(|off| off + usize::from(size.bytes()))
            }
            _ => None,
        });
        ends.max().unwrap_or(0)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_ne_bytes(*word))
}

fn set_word(bytes: &mut [u8], at: usize, value: u32) {
    if let Some(to) = bytes.get_mut(at..at + 4) {
        to.copy_from_slice(&value.to_ne_bytes());
    }
}

fn set_long(bytes: &mut [u8], at: usize, value: u64) {
    if let Some(to) = bytes.get_mut(at..at + 8) {
        to.copy_from_slice(&value.to_ne_bytes());
    }
}

/// The context struct, padded with zeros; `None` if the caller gives and wants none.
fn read_ctx(attr: &TestRunAttr<'_>, size: usize) -> Result<Option<Vec<u8>>, Errno> {
    if attr.ctx_in.is_none() && attr.ctx_size_out.is_none() {
        return Ok(None);
    }
    let given = attr.ctx_in.unwrap_or_default();
    if given.get(size..).is_some_and(|rest| rest.iter().any(|&byte| byte != 0)) {
        return Err(Errno::E2BIG);
    }
    let mut ctx = given[..given.len().min(size)].to_vec();
    ctx.resize(size, 0);
    Ok(Some(ctx))
}

/// Copies out what there is room for; `ENOSPC` where there is too little.
fn finish(attr: &TestRunAttr<'_>, result: &mut TestRunResult, data: &[u8], ctx: &[u8]) -> Result<(), Errno> {
    result.data_size = data.len();
    if let Some(room) = attr.data_size_out {
        if room < data.len() {
            return Err(Errno::ENOSPC);
        }
        result.data_out = data.to_vec();
    }
    if let Some(room) = attr.ctx_size_out {
        if room < ctx.len() {
            return Err(Errno::ENOSPC);
        }
        result.ctx_out = ctx.to_vec();
    }
    Ok(())
}

/// A socket buffer as the kernel's test run makes it.
fn skb_of(packet: &[u8], prog_type: ProgType) -> Result<SkBuff, Errno> {
    let mut skb = SkBuff::new(packet);
    let shortest = match u16::from_be((skb.words.protocol & 0xffff) as u16) {
        0x0800 => ETH_HLEN + 20,
        0x86dd => ETH_HLEN + 40,
        _ => ETH_HLEN,
    };
    if packet.len() < shortest {
        return Err(Errno::EINVAL);
    }
    if !crate::ctx::has_mac_header(prog_type) {
        skb.pull_mac_header();
    }
    // The length on the wire is only known when a context is given.
    skb.words.wire_len = 0;
    Ok(skb)
}

/// `convert___skb_to_skb`: takes the fields that may be given, refuses everything else.
fn apply_sk_buff(ctx: &[u8], skb: &mut SkBuff) -> Result<(), Errno> {
    const ALLOWED: [(usize, usize); 9] =
        [(8, 12), (32, 44), (48, 68), (152, 160), (160, 164), (164, 168), (176, 180), (184, 188), (188, 192)];
    let other = |at: &usize| !ALLOWED.iter().any(|(from, to)| (*from..*to).contains(at));
    if (0..SK_BUFF).filter(other).any(|at| ctx[at] != 0) {
        return Err(Errno::EINVAL);
    }
    let words = &mut skb.words;
    words.mark = word(ctx, 8);
    words.priority = word(ctx, 32);
    words.ingress_ifindex = word(ctx, 36);
    words.ifindex = word(ctx, 40).max(1);
    for (at, to) in words.cb.iter_mut().enumerate() {
        *to = word(ctx, 48 + 4 * at);
    }
    words.tstamp = long(ctx, 152);
    words.wire_len = match word(ctx, 160) {
        0 => words.len,
        wire if wire < words.len || wire > 65536 => return Err(Errno::EINVAL),
        wire => wire,
    };
    if word(ctx, 164) > 65535 {
        return Err(Errno::EINVAL);
    }
    words.gso_segs = word(ctx, 164);
    words.gso_size = word(ctx, 176);
    words.hwtstamp = long(ctx, 184);
    Ok(())
}

/// `convert_skb_to___skb`.
fn store_sk_buff(skb: &SkBuff, ctx: &mut [u8]) {
    let words = &skb.words;
    set_word(ctx, 8, words.mark);
    set_word(ctx, 32, words.priority);
    set_word(ctx, 36, words.ingress_ifindex);
    set_word(ctx, 40, words.ifindex);
    for (at, value) in words.cb.iter().enumerate() {
        set_word(ctx, 48 + 4 * at, *value);
    }
    set_long(ctx, 152, words.tstamp);
    set_word(ctx, 160, words.wire_len);
    set_word(ctx, 164, words.gso_segs);
    set_long(ctx, 184, words.hwtstamp);
}

impl TestInput for Xdp {
    type Output = XdpOutput;

    fn test(self, program: &Program, options: &TestOptions) -> Result<XdpOutput, TestRunError> {
        if self.packet.len() < ETH_HLEN + self.meta_len {
            return Err(Errno::EINVAL.into());
        }
        let mut buff = XdpBuff::with_fragments(&self, usize::MAX)?;
        let (retval, duration_ns) = program.repeat(&mut buff, options)?;
        let mut meta = buff.meta_and_all();
        let packet = meta.split_off(buff.meta_len());
        Ok(XdpOutput { retval, packet, meta, redirect: buff.redirect(), duration_ns })
    }
}

impl TestInput for Skb {
    type Output = SkbOutput;

    fn test(self, program: &Program, options: &TestOptions) -> Result<SkbOutput, TestRunError> {
        if self.packet.len() > SKB_MAX {
            return Err(Errno::EINVAL.into());
        }
        let mut skb = self.build(program.prog_type())?;
        let (retval, duration_ns) = program.repeat(&mut skb, options)?;
        Ok(SkbOutput {
            retval,
            packet: skb.packet().to_vec(),
            mark: skb.mark(),
            priority: skb.priority(),
            cb: skb.cb(),
            tstamp: skb.words.tstamp,
            redirect: skb.redirect(),
            clones: std::mem::take(&mut skb.clones),
            duration_ns,
        })
    }
}

/// Runs on the context itself and gives it back.
fn plain<C: Context>(mut ctx: C, program: &Program, options: &TestOptions) -> Result<Output<C>, TestRunError> {
    let (retval, duration_ns) = program.repeat(&mut ctx, options)?;
    Ok(Output { retval, ctx, duration_ns })
}

impl TestInput for RawTp {
    type Output = Output<Self>;

    fn test(self, program: &Program, options: &TestOptions) -> Result<Output<Self>, TestRunError> {
        plain(self, program, options)
    }
}

impl TestInput for Syscall {
    type Output = Output<Self>;

    fn test(self, program: &Program, options: &TestOptions) -> Result<Output<Self>, TestRunError> {
        plain(self, program, options)
    }
}

/// A context of the embedder's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User<T>(pub T);

impl<T: UserContext> TestInput for User<T> {
    type Output = Output<T>;

    fn test(self, program: &Program, options: &TestOptions) -> Result<Output<T>, TestRunError> {
        plain(self.0, program, options)
    }
}
