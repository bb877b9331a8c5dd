//! The map commands of bpf(2).
//!
//! Invariant: everything that a map refuses is refused by the map itself; here are descriptors, sizes and copies. Kernel
//! counterpart: `map_create`, `map_update_elem`, `map_freeze`, kernel/bpf/syscall.c, 6.18.

use skep_abi::update_flags::{BPF_F_ALL_CPUS, BPF_F_CPU};
use skep_abi::{Errno, MapType};
use skep_btf::TypeId;
use skep_runtime::map::{Map, MapBtf, MapInfo, MapSpec, Record, Slot};
use skep_runtime::syscall::UserMemory;

use super::attr::Attr;
use super::read;
use super::table::Handle;
use crate::engine::Engine;

/// Where the last member ends that a command knows.
pub(super) const CREATE_END: usize = 80;
pub(super) const ELEM_END: usize = 32;
pub(super) const KEY_END: usize = 16;
pub(super) const NEXT_KEY_END: usize = 24;
pub(super) const FREEZE_END: usize = 4;

impl Engine {
    pub(super) fn map_create(&self, attr: &Attr) -> Result<u32, Errno> {
        let (key_type, value_type) = (attr.u32(52), attr.u32(56));
        // Devices, struct_ops and tokens are the kernel's alone.
        if attr.u32(44) != 0 || attr.u32(60) != 0 || attr.u32(72) != 0 || attr.u32(76) != 0 {
            return Err(Errno::EINVAL);
        }
        let mut record = Vec::new();
        let btf = if key_type != 0 || value_type != 0 {
            let btf = self.fds().btf(attr.u32(48))?;
            if value_type == 0 || btf.get(TypeId(value_type)).is_none() || btf.get(TypeId(key_type)).is_none() {
                return Err(Errno::EINVAL);
            }
            let size = |id| btf.size_of(TypeId(id)).map_err(|_| Errno::EINVAL);
            if (key_type != 0 && size(key_type)? != attr.u32(4)) || size(value_type)? != attr.u32(8) {
                return Err(Errno::EINVAL);
            }
            record = skep_verifier::value_record(&btf, TypeId(value_type)).map_err(|_| Errno::EINVAL)?;
            Some(MapBtf { btf, key_type, value_type })
        } else {
            None
        };
        let map_type = MapType::from_u32(attr.u32(0)).ok_or(Errno::EINVAL)?;
        let inner = match map_type {
            MapType::ArrayOfMaps | MapType::HashOfMaps => Some(self.fds().map(attr.u32(20))?.0),
            _ if attr.u32(20) != 0 => return Err(Errno::EINVAL),
            _ => None,
        };
        let value_size = attr.u32(8);
        let special = record.iter().filter_map(crate::maps::special).collect();
        let spec = MapSpec {
            name: attr.name(28)?,
            map_type: Some(map_type),
            key_size: attr.u32(4),
            value_size,
            max_entries: attr.u32(12),
            flags: attr.u32(16),
            map_extra: attr.u64(64),
            inner,
            record: Record::new(special, value_size)?,
            btf,
            shared: self.shares_data(),
        };
        let map = Map::create(&spec, self.cpus())?;
        self.fds().insert(Handle::Map(map, record.into()))
    }

    pub(super) fn map_lookup(&self, memory: &dyn UserMemory, attr: &Attr) -> Result<u32, Errno> {
        let map = self.fds().map(attr.u32(0))?.0;
        let flags = attr.u64(24);
        let key = key(memory, &map, attr.u64(8))?;
        let mut value = Vec::new();
        if map.info().map_type == MapType::BloomFilter {
            value = read(memory, attr.u64(16), u64::from(map.info().value_size))?;
        }
        map.lookup_into(&key, &mut value, flags)?;
        memory.write(attr.u64(16), &value)?;
        Ok(0)
    }

    pub(super) fn map_update(&self, memory: &dyn UserMemory, attr: &Attr) -> Result<u32, Errno> {
        let map = self.fds().map(attr.u32(0))?.0;
        let flags = attr.u64(24);
        let key = key(memory, &map, attr.u64(8))?;
        let value = read(memory, attr.u64(16), value_size(map.info(), flags))?;
        match map.info().map_type {
            MapType::ProgArray => {
                let program = self.fds().program(fd(&value)?)?;
                map.update_slot(&key, Slot::Program(program.to_callee()), flags)?;
            }
            MapType::ArrayOfMaps | MapType::HashOfMaps => {
                let inner = self.fds().map(fd(&value)?)?.0;
                map.update_slot(&key, Slot::Map(inner), flags)?;
            }
            _ => map.update(&key, &value, flags)?,
        }
        Ok(0)
    }

    pub(super) fn map_delete(&self, memory: &dyn UserMemory, attr: &Attr) -> Result<u32, Errno> {
        let map = self.fds().map(attr.u32(0))?.0;
        map.delete(&key(memory, &map, attr.u64(8))?)?;
        Ok(0)
    }

    pub(super) fn map_next_key(&self, memory: &dyn UserMemory, attr: &Attr) -> Result<u32, Errno> {
        let map = self.fds().map(attr.u32(0))?.0;
        let address = attr.u64(8);
        let key = if address == 0 { None } else { Some(key(memory, &map, address)?) };
        memory.write(attr.u64(16), &map.next_key(key.as_deref())?)?;
        Ok(0)
    }

    pub(super) fn map_freeze(&self, attr: &Attr) -> Result<u32, Errno> {
        self.fds().map(attr.u32(0))?.0.freeze()?;
        Ok(0)
    }
}

fn key(memory: &dyn UserMemory, map: &Map, address: u64) -> Result<Vec<u8>, Errno> {
    let size = map.info().key_size;
    if size == 0 && address != 0 {
        return Err(Errno::EINVAL);
    }
    read(memory, address, u64::from(size))
}

/// Bytes that an update reads.
fn value_size(info: &MapInfo, flags: u64) -> u64 {
    if flags & (BPF_F_CPU | BPF_F_ALL_CPUS) != 0 { u64::from(info.value_size) } else { info.user_value_size() as u64 }
}

fn fd(value: &[u8]) -> Result<u32, Errno> {
    value.try_into().map(u32::from_ne_bytes).map_err(|_| Errno::EINVAL)
}
