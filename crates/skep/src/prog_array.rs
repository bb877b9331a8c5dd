//! Prog arrays of loaded objects: the targets of tail calls, changed while programs run.
//!
//! Invariant: when a change has returned, runs that start later see the new target; a run in progress sees the old or the
//! new one, and never one that is gone. Counterpart: `bpf_map_update_elem` on a `BPF_MAP_TYPE_PROG_ARRAY`, libbpf 1.x.

use std::fmt;

use skep_abi::{Errno, MapType};
use skep_runtime::map::{Map, Slot};

use crate::loaded::{Loaded, NotFound};
use crate::program::Program;

/// A prog array. Clones are handles of the same.
///
/// ```
/// use skep::{Engine, Object, Xdp, XdpAction};
///
/// let engine = Engine::new()?;
/// let object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_dispatch.bpf.o"))?;
/// let parser = engine.load(object)?;
/// let stages = parser.prog_array("stages")?;
/// assert_eq!(stages.program_id(0), Some(parser.program("parse_ipv4")?.id()));
/// assert_eq!(stages.program_id(4), None);
///
/// stages.set(4, &parser.program("drop_icmp")?)?; // ICMP is dropped from here on
/// stages.clear(4)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ProgArray(Map);

impl fmt::Debug for ProgArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProgArray").field("name", &self.0.info().name).field("len", &self.len()).finish()
    }
}

impl ProgArray {
    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.info().max_entries
    }

    /// Whether there are no slots; an array has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts a program into a slot.
    ///
    /// # Errors
    /// `E2BIG` for a slot out of range; `EINVAL` for a program of another type or context than the array is for, or an
    /// extension; `EBUSY` for a program of which an extension replaces a function. The slot keeps what it had.
    pub fn set(&self, slot: u32, program: &Program) -> Result<(), Errno> {
        self.0.update_slot(&slot.to_ne_bytes(), Slot::Program(program.to_callee()), 0)
    }

    /// Empties a slot: tail calls through it fall through.
    ///
    /// # Errors
    /// `E2BIG` for a slot out of range, `ENOENT` for one that is empty.
    pub fn clear(&self, slot: u32) -> Result<(), Errno> {
        self.0.delete(&slot.to_ne_bytes())
    }

    /// The id of the program in a slot, as [`skep_runtime::Program::id`] gives it; `None` for an empty slot.
    #[must_use]
    pub fn program_id(&self, slot: u32) -> Option<u32> {
        let id = self.0.lookup(&slot.to_ne_bytes(), 0).ok()?;
        Some(u32::from_ne_bytes(id.try_into().ok()?))
    }

    /// The slots that are filled, with the ids of their programs.
    pub fn programs(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        (0..self.len()).filter_map(|slot| Some((slot, self.program_id(slot)?)))
    }
}

impl Loaded {
    /// The prog array with this name.
    ///
    /// # Errors
    /// There is no such map, or it is of another type.
    pub fn prog_array(&self, name: &str) -> Result<ProgArray, NotFound> {
        let is_one = |map: &Map| map.info().map_type == MapType::ProgArray;
        match self.maps().find(|(known, map)| *known == name && is_one(map)) {
            Some((_, map)) => Ok(ProgArray(map.clone())),
            None => Err(NotFound {
                what: "prog array",
                name: name.to_owned(),
                known: self.maps().filter(|(_, map)| is_one(map)).map(|(known, _)| known.to_owned()).collect(),
            }),
        }
    }
}
