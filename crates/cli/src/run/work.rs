//! The runs themselves: threads, batches, counts.
//!
//! Each thread takes batches of neighbouring packets until none is left. The program runs once over each packet for its
//! result; with `--repeat`, further rounds count for time alone.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use skep::{Program, RawTp, SkBuff, Skb, Syscall, Xdp, XdpBuff};
use skep_abi::ProgType;

use super::packets::Packets;
use crate::args::RunArgs;
use crate::capture::Packet;

/// Packets between two timestamps.
const BATCH: usize = 64;

/// What one return value counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    /// How many packets.
    pub(crate) packets: u64,
    /// How many bytes they had before the run.
    pub(crate) bytes: u64,
}

/// The result of all runs.
#[derive(Default)]
pub(crate) struct Outcome {
    /// By return value.
    pub(crate) actions: BTreeMap<u32, Count>,
    /// Each packet as the program left it in the first round.
    pub(crate) packets: Vec<Vec<u8>>,
    /// Runs of the program.
    pub(crate) runs: u64,
    /// Time inside the program, of all threads.
    pub(crate) time: Duration,
}

/// A context that can be filled with one packet after the other.
enum Buffer {
    Xdp(XdpBuff),
    Skb(Box<SkBuff>),
    RawTp(RawTp),
    Syscall(Syscall),
}

impl Buffer {
    fn new(program: &Program, packet: &Packet, args: &RunArgs, are_packets: bool) -> Result<Self> {
        let prog_type = program.prog_type();
        let data = &packet.data;
        Ok(match prog_type {
            ProgType::Xdp if are_packets => Self::Xdp(Xdp::packet(data).ingress_ifindex(args.ifindex).build()?),
            ProgType::RawTracepoint | ProgType::RawTracepointWritable if !are_packets => {
                let words: Vec<u64> =
                    data.chunks_exact(8).filter_map(|w| w.try_into().ok().map(u64::from_le_bytes)).collect();
                if !data.len().is_multiple_of(8) || words.len() > 12 {
                    bail!("--ctx of a raw tracepoint is up to 12 words of 8 bytes, not {} bytes", data.len());
                }
                Self::RawTp(RawTp::args(&words))
            }
            ProgType::Syscall if !are_packets => Self::Syscall(Syscall::bytes(data)),
            ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::SocketFilter
            | ProgType::CgroupSkb
            | ProgType::LwtIn
            | ProgType::LwtOut
            | ProgType::LwtXmit
                if are_packets =>
            {
                Self::Skb(Box::new(Skb::packet(data).ifindex(args.ifindex).build(prog_type)?))
            }
            _ if are_packets => bail!("a program of type {prog_type} does not run over packets; give --ctx FILE"),
            _ => bail!("a program of type {prog_type} cannot be run with --ctx"),
        })
    }

    fn run(&mut self, program: &Program) -> Result<u32> {
        let r0 = match self {
            Self::Xdp(xdp) => program.run(xdp)?,
            Self::Skb(skb) => program.run(skb.as_mut())?,
            Self::RawTp(args) => program.run(args)?,
            Self::Syscall(ctx) => program.run(ctx)?,
        };
        // The kernel's test runs give the low half too.
        Ok(u32::try_from(r0 & 0xffff_ffff)?)
    }

    /// The packet as it is now.
    fn packet(&self) -> &[u8] {
        match self {
            Self::Xdp(xdp) => xdp.packet(),
            Self::Skb(skb) => skb.frame(),
            Self::RawTp(_) | Self::Syscall(_) => &[],
        }
    }
}

/// Runs the program over all packets.
pub(crate) fn run(program: &Program, packets: &Packets, args: &RunArgs) -> Result<Outcome> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Outcome { packets: vec![Vec::new(); packets.list.len()], ..Outcome::default() });
    let batches = packets.list.len().div_ceil(BATCH);
    let rounds = usize::try_from(args.repeat).unwrap_or(usize::MAX);
    let total = batches.checked_mul(rounds).context("--repeat is too large")?;
    let worker = || -> Result<()> {
        let mut mine = Outcome::default();
        let mut after = Vec::new();
        loop {
            let ticket = next.fetch_add(1, Ordering::Relaxed);
            if ticket >= total {
                break;
            }
            let first = ticket % batches * BATCH;
            let batch = &packets.list[first..packets.list.len().min(first + BATCH)];
            let left = mine.batch(program, batch, args, packets.are_packets, ticket < batches)?;
            after.extend(left.into_iter().enumerate().map(|(i, packet)| (first + i, packet)));
        }
        let mut all = all.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        all.merge(mine);
        for (index, packet) in after {
            all.packets[index] = packet;
        }
        Ok(())
    };
    if args.threads == 1 {
        worker()?;
    } else {
        std::thread::scope(|scope| -> Result<()> {
            let handles: Vec<_> = (0..args.threads).map(|_| scope.spawn(worker)).collect();
            for handle in handles {
                match handle.join() {
                    Ok(result) => result?,
                    Err(_) => bail!("a thread panicked"),
                }
            }
            Ok(())
        })?;
    }
    Ok(all.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

impl Outcome {
    /// One batch; the packets as they are afterwards, where `first_round` asks for them.
    fn batch(
        &mut self,
        program: &Program,
        batch: &[Packet],
        args: &RunArgs,
        are_packets: bool,
        first_round: bool,
    ) -> Result<Vec<Vec<u8>>> {
        let mut buffers =
            batch.iter().map(|p| Buffer::new(program, p, args, are_packets)).collect::<Result<Vec<_>>>()?;
        let mut values = Vec::with_capacity(batch.len());
        let start = Instant::now();
        for buffer in &mut buffers {
            values.push(buffer.run(program)?);
        }
        self.time += start.elapsed();
        self.runs += u64::try_from(batch.len())?;
        if !first_round {
            return Ok(Vec::new());
        }
        for (packet, value) in batch.iter().zip(values) {
            let count = self.actions.entry(value).or_default();
            count.packets += 1;
            count.bytes += u64::try_from(packet.data.len())?;
        }
        let keep = args.write.is_some();
        Ok(if keep { buffers.iter().map(|b| b.packet().to_vec()).collect() } else { Vec::new() })
    }

    fn merge(&mut self, other: Self) {
        for (value, count) in other.actions {
            let mine = self.actions.entry(value).or_default();
            mine.packets += count.packets;
            mine.bytes += count.bytes;
        }
        self.runs += other.runs;
        self.time += other.time;
    }
}
