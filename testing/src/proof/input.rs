//! What a generated program is run on: a packet, and what its maps hold.
//!
//! Invariant: one program and number give one input, the same for every engine.

use std::collections::BTreeMap;

use skep_abi::{Errno, MapType};

use crate::generate::MAPS;
use crate::random::Random;

/// Lengths at which packet checks tip over.
const LENGTHS: [usize; 12] = [14, 15, 17, 22, 30, 34, 41, 54, 60, 64, 128, 1500];

/// A packet, and values for the maps in the order of [`MAPS`].
#[derive(Clone, Debug)]
pub struct Input {
    /// From the Ethernet header on.
    pub packet: Vec<u8>,
    maps: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

/// The `number`th input of a program.
#[must_use]
pub fn input(seed: u64, number: u64) -> Input {
    let mut random = Random::new(seed ^ (number + 1).wrapping_mul(0xa076_1d64_78bd_642f));
    let len = random.pick(&LENGTHS);
    let packet = bytes(&mut random, len);
    let maps = MAPS.iter().map(|def| {
        let entries = match def.map_type {
            MapType::Array | MapType::PercpuArray => def.max_entries,
            MapType::Hash => 5,
            _ => 0,
        };
        let value = |random: &mut Random| bytes(random, def.value_size as usize);
        let key = |number: u32| match def.key_size {
            8 => u64::from(number).to_le_bytes().to_vec(),
            _ => number.to_le_bytes().to_vec(),
        };
        (0..entries).map(|number| (key(number), value(&mut random))).collect()
    });
    let maps = maps.collect();
    Input { packet, maps }
}

/// Bytes in which whole words are edge values.
fn bytes(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        let word = match random.below(4) {
            0 => random.below(64),
            1 => random.word(),
            _ => random.constant(),
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// What can be compared of the maps afterwards: the plain arrays and hashes.
pub(super) type Contents = Vec<Option<Vec<u8>>>;

fn compared(map: usize) -> bool {
    matches!(MAPS[map].map_type, MapType::Array | MapType::Hash)
}

impl Input {
    /// Puts the values into the maps that `used` names, by number.
    ///
    /// # Errors
    /// The first of `update`.
    pub fn fill(
        &self,
        used: &[u32],
        cpus: usize,
        update: impl Fn(usize, &[u8], &[u8]) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        for &map in used {
            let at = map as usize;
            let copies = if MAPS[at].map_type == MapType::PercpuArray { cpus } else { 1 };
            for (key, value) in &self.maps[at] {
                update(at, key, &value.repeat(copies))?;
            }
        }
        Ok(())
    }

    /// What the maps hold now.
    pub fn contents(&self, used: &[u32], lookup: impl Fn(usize, &[u8]) -> Result<Vec<u8>, Errno>) -> Contents {
        let wanted = used.iter().map(|map| *map as usize).filter(|map| compared(*map));
        wanted
            .flat_map(|at| self.maps[at].keys().map(move |key| (at, key)))
            .map(|(at, key)| lookup(at, key).ok())
            .collect()
    }
}
