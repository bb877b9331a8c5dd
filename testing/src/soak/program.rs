//! The programs of the soaks: each notes its number in the packet and tail-calls on.
//!
//! Byte 0 of the packet counts the notes; from byte 8 on they are 4 bytes each; from byte 176 on there is a byte per hop
//! that says where a call with a variable index goes. A program reads its number from a map of its own, which is gone with
//! it: one that is entered too late reads something else, or ends the process. Invariant: a number says everything about its
//! program.

use std::fmt::Write as _;

use skep::{Object, XdpBuff};
use skep_object::{MapKind, ObjectSpec};

use crate::random::Random;
use crate::tail_calls::{self, ParseError};

/// Slots of each array. The index of a call is a number below 32, so that some are out of range.
pub(super) const SLOTS: u32 = 28;
/// Bytes of the packet.
pub(super) const BYTES: usize = 256;
/// Most programs of a run: the first and 33 tail calls.
pub(super) const MOST: usize = 34;
/// What a program returns whose notes do not fit.
pub(super) const LOST: u64 = 0x7fff_ffff;

const NOTES: usize = 8;
const SCRIPT: usize = 176;
/// Stands for the program's number in the text.
const NUMBER: i32 = 1_000_000_007;
/// Kinds of calls: a constant slot of the first array, a variable one, a variable one of either array.
const KINDS: u32 = SLOTS + 2;

/// The kind of a program with this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Poked(u32),
    Cached,
    Dynamic,
}

/// How the program with this number calls on.
pub(super) fn call_of(number: u32) -> Call {
    match number % KINDS {
        slot if slot < SLOTS => Call::Poked(slot),
        SLOTS => Call::Cached,
        _ => Call::Dynamic,
    }
}

/// The array and the slot that the program's call aims at; none: out of range.
pub(super) fn aim(number: u32, script: u8) -> Option<(usize, u32)> {
    let index = u32::from(script & 31);
    let (array, index) = match call_of(number) {
        Call::Poked(slot) => (0, slot),
        Call::Cached => (0, index),
        Call::Dynamic => (usize::from(script & 32 != 0), index),
    };
    (index < SLOTS).then_some((array, index))
}

/// The program's text, up to its call and behind it.
pub(super) fn text(name: &str, call: &str) -> String {
    format!(
        "prog {name}
r6 = r1
r7 = *(u32 *)(r1 +0)
r8 = *(u32 *)(r1 +4)
r2 = r7
r2 += {BYTES}
if r2 > r8 goto out
r3 = *(u8 *)(r7 +0)
if r3 > 39 goto out
r4 = r3
r4 += 1
*(u8 *)(r7 +0) = r4
r4 = r3
r4 <<= 2
r4 += r7
r5 = r4
r5 += 12
if r5 > r8 goto out
r2 = map_value[out]+0
r2 = *(u64 *)(r2 +0)
*(u32 *)(r4 +{NOTES}) = r2
r4 = r7
r4 += r3
r5 = r4
r5 += {}
if r5 > r8 goto out
r9 = *(u8 *)(r4 +{SCRIPT})
r1 = r6
{call}
r0 = {NUMBER}
exit
out:
r0 = {LOST}
exit
",
        SCRIPT + 1
    )
}

/// One object per kind of call, to be numbered.
pub(super) struct Templates(Vec<ObjectSpec>);

impl Templates {
    pub(super) fn new() -> Result<Self, ParseError> {
        let kinds = (0..KINDS).map(|kind| {
            let call = match call_of(kind) {
                Call::Poked(slot) => format!("r2 = map[t]\nr3 = {slot}\ncall bpf_tail_call"),
                Call::Cached => "r3 = r9\nr3 &= 31\nr2 = map[t]\ncall bpf_tail_call".to_owned(),
                Call::Dynamic => {
                    "r3 = r9\nr3 &= 31\nr9 &= 32\nr2 = map[t]\nif r9 == 0 goto pc+2\nr2 = map[u]\ncall bpf_tail_call"
                        .to_owned()
                }
            };
            let mut all = String::new();
            // Writing to a string cannot fail.
            let _ = write!(all, "array t {SLOTS}\narray u {SLOTS}\n{}", text("p", &call));
            tail_calls::parse(&all).map(|case| case.object)
        });
        Ok(Self(kinds.collect::<Result<_, _>>()?))
    }

    /// An object with the program of this number, `p`, and the two arrays, `t` and `u`.
    pub(super) fn object(&self, number: u32) -> Object {
        let kind = usize::try_from(number % KINDS).unwrap_or(0);
        let mut spec = self.0[kind].clone();
        set_number(&mut spec, number);
        Object::from_spec("soak", spec)
    }
}

/// Numbers all programs of an object.
pub(super) fn set_number(spec: &mut ObjectSpec, number: u32) {
    for map in spec.maps.iter_mut().filter(|map| map.name == "out") {
        map.kind = MapKind::Data;
        map.image = u64::from(number).to_le_bytes().to_vec();
    }
    for insn in spec.programs.iter_mut().flat_map(|program| &mut program.insns) {
        if insn.imm == NUMBER {
            insn.imm = number.cast_signed();
        }
    }
}

/// A number for the `serial`th program, of a kind drawn by lot.
pub(super) fn number(serial: u32, random: &mut Random) -> u32 {
    serial * KINDS + u32::try_from(random.below(u64::from(KINDS))).unwrap_or(0)
}

/// A packet without notes and with a random script.
pub(super) fn fresh(random: &mut Random) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for byte in &mut bytes[SCRIPT..] {
        *byte = random.word().to_le_bytes()[3];
    }
    bytes
}

/// The notes of a run, and the script that it followed.
pub(super) fn notes(packet: &XdpBuff) -> (Vec<u32>, &[u8]) {
    let bytes = packet.packet();
    let count = usize::from(bytes[0]).min(40);
    let words = bytes[NOTES..].chunks_exact(4).take(count);
    (words.map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect(), &bytes[SCRIPT..])
}
