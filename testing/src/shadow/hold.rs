//! Whether a concrete value is one of those that an abstract one stands for.
//!
//! Invariant: what is not checked is held to be right, never the reverse: a miss is always an error of the verifier (or of
//! the interpreter). Kernel counterpart: none; the meaning of a register's state is that of `struct bpf_reg_state`, 6.18.

use std::cell::OnceCell;
use std::fmt;

use skep_abi::ctx::{CtxAccess, ctx_layout_for};
use skep_abi::{AttachType, ProgType};
use skep_runtime::interp::Moment;
use skep_runtime::map::{Map, MapAccessInfo};
use skep_verifier::state::frame::Frame;
use skep_verifier::state::reg::{AT_PKT_END, BEYOND_PKT_END, Base, Extra, Reg, flags};
use skep_verifier::state::stack::{ByteKind, SLOT};

/// Which parts of a state must hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Mode {
    /// Everything: the state is that of the path itself.
    Strict,
    /// What is still read: the path was found within the state in every scalar.
    Within,
    /// Pointers that are still read: the path was found within the state as far as it mattered.
    Loose,
}

/// Where the run-time object keeps the packet's addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketWords {
    meta: Option<u64>,
    data: u64,
    end: u64,
}

impl PacketWords {
    pub(super) fn of(prog_type: ProgType) -> Option<Self> {
        let layout = ctx_layout_for(prog_type, AttachType::default())?;
        let word = |at| match layout.find(at, 4, false)? {
            CtxAccess::Field(field) => field.rt.filter(|(_, bytes)| *bytes == 8).map(|(off, _)| u64::from(off)),
            _ => None,
        };
        let (meta, data, end) = if prog_type == ProgType::Xdp { (8, 0, 4) } else { (140, 76, 80) };
        Some(Self { meta: word(meta), data: word(data)?, end: word(end)? })
    }
}

/// The packet of a moment.
#[derive(Clone, Copy)]
struct Packet {
    meta: u64,
    data: u64,
    end: u64,
}

/// A moment of a run with what is needed to understand its addresses.
pub(super) struct Scene<'s, 'm, 'a> {
    pub(super) moment: &'s Moment<'m, 'a>,
    /// The program's maps, in the verifier's numbers.
    pub(super) maps: &'s [Map],
    pub(super) words: Option<PacketWords>,
    /// Frame pointers and registers of the functions on the call chain, of those above as they were at their call.
    pub(super) frames: &'s [(u64, [u64; 12])],
    packet: OnceCell<Option<Packet>>,
}

/// What is not as the state says.
#[derive(Clone, Debug)]
pub(super) enum Miss {
    Register { frame: usize, number: usize, reg: Box<Reg>, value: u64 },
    Slot { frame: usize, offset: i64, what: String, value: u64 },
    Identity { id: u32, values: (u64, u64) },
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Register { frame, number, reg, value } => {
                write!(f, "r{number} of frame {frame} is {value:#x} and not within {}", Shown(reg))
            }
            Self::Slot { frame, offset, what, value } => {
                write!(f, "the stack of frame {frame} at fp{offset} is {value:#x} and not within {what}")
            }
            Self::Identity { id, values: (a, b) } => write!(f, "two values of id {id} are {a:#x} and {b:#x}"),
        }
    }
}

/// A register's state in a line.
struct Shown<'r>(&'r Reg);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reg { ty, off, id, bounds: b, extra, precise, .. } = self.0;
        let precise = if *precise { "precise " } else { "" };
        write!(
            f,
            "{precise}{:?} (flags {:#x}, off {off}, id {id}, {extra:?}) u64 {:#x}..={:#x}",
            ty.base, ty.flags, b.u64.min, b.u64.max
        )?;
        write!(
            f,
            " s64 {}..={} u32 {:#x}..={:#x} s32 {}..={}",
            b.s64.min, b.s64.max, b.u32.min, b.u32.max, b.s32.min, b.s32.max
        )?;
        write!(f, " bits {:?}", b.var_off)
    }
}

impl<'s, 'm, 'a> Scene<'s, 'm, 'a> {
    pub(super) fn new(
        moment: &'s Moment<'m, 'a>,
        maps: &'s [Map],
        words: Option<PacketWords>,
        frames: &'s [(u64, [u64; 12])],
    ) -> Self {
        Self { moment, maps, words, frames, packet: OnceCell::new() }
    }

    fn packet(&self) -> Option<Packet> {
        *self.packet.get_or_init(|| {
            let words = self.words?;
            let at = |off: u64| self.moment.word(self.moment.ctx() + off);
            let data = at(words.data)?;
            Some(Packet { meta: words.meta.and_then(at).unwrap_or(data), data, end: at(words.end)? })
        })
    }

    /// Whether a call chain is as `frames` say; `base` is the place of the first of them on the real one.
    pub(super) fn chain(
        &self,
        frames: &[std::rc::Rc<Frame>],
        base: usize,
        mode: Mode,
        live: impl Fn(u32) -> u16,
        insn: u32,
    ) -> Result<(), Miss> {
        for (number, frame) in frames.iter().enumerate() {
            let Some((fp, regs)) = self.frames.get(base + number) else { continue };
            let at = frames.get(number + 1).map_or(insn, |inner| inner.callsite);
            let live = if mode == Mode::Strict { u16::MAX } else { live(at) };
            for (i, reg) in frame.regs.iter().enumerate() {
                let wanted = live & (1 << i) != 0 && (mode != Mode::Loose || reg.is_pointer());
                if wanted && !self.holds(reg, regs[i], base) {
                    return Err(Miss::Register { frame: number, number: i, reg: Box::new(*reg), value: regs[i] });
                }
            }
            if mode == Mode::Strict {
                self.stack(frame, number, *fp, base)?;
            }
        }
        if mode == Mode::Strict { self.identities(frames, base) } else { Ok(()) }
    }

    /// Whether a chain is as a state that it was found in says, as far as that was compared.
    pub(super) fn covered(&self, frames: &[std::rc::Rc<Frame>], base: usize) -> Result<(), Miss> {
        let compared = |reg: &Reg| reg.is_pointer() || reg.precise;
        for (number, frame) in frames.iter().enumerate() {
            let Some((fp, regs)) = self.frames.get(base + number) else { continue };
            for (i, reg) in frame.regs.iter().enumerate() {
                if compared(reg) && !self.holds(reg, regs[i], base) {
                    return Err(Miss::Register { frame: number, number: i, reg: Box::new(*reg), value: regs[i] });
                }
            }
            for (i, slot) in frame.stack.iter().enumerate() {
                let Some(value) = self.slot_value(*fp, i).filter(|_| slot.is_spilled() && compared(&slot.reg)) else {
                    continue;
                };
                if slot.bytes[0] == ByteKind::Spill && !self.holds(&slot.reg, value, base) {
                    return Err(self.slot_miss(number, i, &slot.reg, value));
                }
            }
        }
        Ok(())
    }

    fn slot_value(&self, fp: u64, slot: usize) -> Option<u64> {
        self.moment.stack_word(fp.wrapping_sub(8 * (slot as u64 + 1)))
    }

    fn slot_miss(&self, frame: usize, slot: usize, reg: &Reg, value: u64) -> Miss {
        let offset = -8 * (i64::try_from(slot).unwrap_or(0) + 1);
        Miss::Slot { frame, offset, what: Shown(reg).to_string(), value }
    }

    fn stack(&self, frame: &Frame, number: usize, fp: u64, base: usize) -> Result<(), Miss> {
        for (i, slot) in frame.stack.iter().enumerate() {
            let Some(value) = self.slot_value(fp, i) else { continue };
            let spilled = slot.bytes.iter().filter(|byte| **byte == ByteKind::Spill).count();
            // Of a spill in part, the low bytes of the register are there.
            let (reg, low) = match spilled {
                SLOT => (slot.reg, value),
                1 | 2 | 4 => {
                    let mut bounds = slot.reg.bounds;
                    bounds.truncate(u8::try_from(spilled).unwrap_or(8));
                    (Reg { bounds, ..slot.reg }, value & ((1 << (8 * spilled)) - 1))
                }
                _ => (Reg::NOT_INIT, 0),
            };
            if !self.holds(&reg, low, base) {
                return Err(self.slot_miss(number, i, &reg, low));
            }
            for (j, byte) in slot.bytes.iter().enumerate() {
                // Byte 7 of a slot is the lowest address.
                if *byte == ByteKind::Zero && value >> (8 * (SLOT - 1 - j)) & 0xff != 0 {
                    let offset = -8 * (i64::try_from(i).unwrap_or(0) + 1);
                    return Err(Miss::Slot { frame: number, offset, what: format!("{:?}", slot.bytes), value });
                }
            }
        }
        Ok(())
    }

    /// Scalars of one id differ by their constants, packet pointers of one id by their fixed offsets, and pointers that
    /// may be null of one id are null together.
    fn identities(&self, frames: &[std::rc::Rc<Frame>], base: usize) -> Result<(), Miss> {
        let mut seen: Vec<(u32, bool, u64)> = Vec::new();
        for (number, frame) in frames.iter().enumerate() {
            let Some((fp, regs)) = self.frames.get(base + number) else { continue };
            let spilled = frame.stack.iter().enumerate().filter(|(_, slot)| slot.bytes[0] == ByteKind::Spill);
            let spilled = spilled.filter_map(|(i, slot)| Some((&slot.reg, self.slot_value(*fp, i)?)));
            let all = frame.regs.iter().zip(regs.iter().copied()).chain(spilled);
            for (reg, value) in all.filter(|(reg, _)| reg.id != 0) {
                let off = i64::from(reg.off).cast_unsigned();
                let (narrow, common) = match reg.base() {
                    Base::Scalar if reg.add_const => (reg.add_const32, value.wrapping_sub(off)),
                    Base::Scalar => (false, value),
                    Base::Packet | Base::PacketMeta => (false, value.wrapping_sub(off)),
                    _ if reg.ty.maybe_null() => (false, u64::from(value == 0)),
                    _ => continue,
                };
                match seen.iter().find(|(id, ..)| *id == reg.id) {
                    None => seen.push((reg.id, narrow, common)),
                    Some((_, other_narrow, other)) => {
                        let mask = if narrow || *other_narrow { u64::from(u32::MAX) } else { u64::MAX };
                        if common & mask != other & mask {
                            return Err(Miss::Identity { id: reg.id, values: (common, *other) });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether `value` is one of those that `reg` stands for.
    fn holds(&self, reg: &Reg, value: u64, base: usize) -> bool {
        if reg.ty.maybe_null() && value == 0 {
            return true;
        }
        let start = value.wrapping_sub(i64::from(reg.off).cast_unsigned());
        match reg.base() {
            Base::Scalar => reg.bounds.contains(value),
            Base::Ctx => reg.bounds.contains(start.wrapping_sub(self.moment.ctx())),
            Base::Stack => {
                let frame = self.frames.get(base + reg.frame());
                frame.is_none_or(|(fp, _)| reg.bounds.contains(start.wrapping_sub(*fp)))
            }
            Base::ConstMap => match reg.extra {
                Extra::Map { map, inner: false, .. } => self.maps[map as usize].object_addr() == start,
                _ => value != 0,
            },
            Base::MapValue => match reg.extra {
                Extra::Map { map, inner: false, .. } => self.in_value(&self.maps[map as usize], reg, start),
                _ => value != 0,
            },
            Base::PacketEnd => self.packet().is_some_and(|packet| packet.end == value),
            Base::Packet => self.packet().is_some_and(|packet| {
                reg.bounds.contains(start.wrapping_sub(packet.data)) && in_range(reg, start, value, packet.end)
            }),
            Base::PacketMeta => self.packet().is_some_and(|packet| {
                reg.bounds.contains(start.wrapping_sub(packet.meta)) && in_range(reg, start, value, packet.data)
            }),
            Base::Mem if reg.ty.has(flags::RINGBUF) => {
                let granted = self.moment.granted(value);
                granted.is_some_and(|(first, len)| {
                    len >= u64::from(reg.mem_size()) && reg.bounds.contains(start.wrapping_sub(first))
                })
            }
            Base::NotInit | Base::Func | Base::Dynptr => true,
            _ => value != 0,
        }
    }

    /// Whether `start` less what varies is the start of a value of the map.
    fn in_value(&self, map: &Map, reg: &Reg, start: u64) -> bool {
        let (first, stride, entries) = match map.layout() {
            MapAccessInfo::Array { values, stride, max_entries } => (values, stride, max_entries),
            MapAccessInfo::PerCpuArray { off, stride, max_entries } => {
                (off.wrapping_add(self.moment.cpu_base()), stride, max_entries)
            }
            _ => {
                let size = u64::from(map.info().value_size);
                let value = reg.bounds.const_value().map(|off| (start.wrapping_sub(off), size));
                let (address, len) = value.unwrap_or((start, 1));
                // A value that varies may point before or after it, as long as nothing is accessed there.
                return value.is_none() || map.contains(address, len).is_some();
            }
        };
        (0..entries).any(|entry| {
            let element = first.wrapping_add(u64::from(stride) * u64::from(entry));
            reg.bounds.contains(start.wrapping_sub(element))
        })
    }
}

/// Whether the bytes that a packet pointer's comparison has shown are there.
fn in_range(reg: &Reg, start: u64, value: u64, end: u64) -> bool {
    match reg.range() {
        AT_PKT_END => value >= end,
        BEYOND_PKT_END => value > end,
        range => range <= 0 || start.wrapping_add(i64::from(range).cast_unsigned()) <= end,
    }
}
