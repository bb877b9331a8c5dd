//! Which helpers take which types of map.
//!
//! Owns the pairs. Invariant: a map of a special type reaches only the helpers made for it, and they get no other. Kernel
//! counterpart: `check_map_func_compatibility`, kernel/bpf/verifier.c, 6.18.

use skep_abi::{AttachType, MapType as M, ProgType};

use crate::check::arg::CallMeta;
use crate::env::{Check, Env, reject};

/// Types whose maps go to these helpers only.
const BY_MAP: &[(&[M], &[i32])] = &[
    (&[M::ProgArray], &[12]),
    (&[M::PerfEventArray], &[22, 25, 111, 55, 121]),
    (&[M::Ringbuf], &[130, 131, 134, 198, 199, 200]),
    (&[M::UserRingbuf], &[209]),
    (&[M::StackTrace], &[27]),
    (&[M::CgroupArray], &[33, 37]),
    (&[M::CgroupStorage, M::PercpuCgroupStorage], &[81]),
    (&[M::Devmap, M::DevmapHash], &[51, 1]),
    (&[M::Cpumap], &[51]),
    (&[M::Xskmap], &[51, 1]),
    (&[M::ArrayOfMaps, M::HashOfMaps], &[1]),
    (&[M::Sockmap], &[52, 53, 60, 82, 1]),
    (&[M::Sockhash], &[72, 70, 71, 82, 1]),
    (&[M::ReuseportSockarray], &[82]),
    (&[M::Queue, M::Stack], &[89, 88, 87]),
    (&[M::SkStorage], &[107, 108, 194]),
    (&[M::InodeStorage], &[145, 146, 194]),
    (&[M::TaskStorage], &[156, 157, 194]),
    (&[M::CgrpStorage], &[210, 211, 194]),
    (&[M::BloomFilter], &[89, 87]),
];

/// Helpers that take these types of map only.
const BY_HELPER: &[(&[i32], &[M])] = &[
    (&[12], &[M::ProgArray]),
    (&[22, 25, 55, 111, 121], &[M::PerfEventArray]),
    (&[130, 131, 134, 198, 199, 200], &[M::Ringbuf]),
    (&[209], &[M::UserRingbuf]),
    (&[27], &[M::StackTrace]),
    (&[37, 33], &[M::CgroupArray]),
    (&[51], &[M::Devmap, M::DevmapHash, M::Cpumap, M::Xskmap]),
    (&[52, 60, 53], &[M::Sockmap]),
    (&[72, 71, 70], &[M::Sockhash]),
    (&[81], &[M::CgroupStorage, M::PercpuCgroupStorage]),
    (&[82], &[M::ReuseportSockarray, M::Sockmap, M::Sockhash]),
    (&[88], &[M::Queue, M::Stack]),
    (&[89, 87], &[M::Queue, M::Stack, M::BloomFilter]),
    (&[195], &[M::PercpuArray, M::PercpuHash, M::LruPercpuHash]),
    (&[107, 108], &[M::SkStorage]),
    (&[145, 146], &[M::InodeStorage]),
    (&[156, 157], &[M::TaskStorage]),
    (&[210, 211], &[M::CgrpStorage]),
];

/// Lookup, update and delete helpers.
const MAP_UPDATE: i32 = 2;
const MAP_DELETE: i32 = 3;

impl Env<'_> {
    /// The helper and its map fit.
    pub(crate) fn check_map_helper(&mut self, meta: &CallMeta) -> Check {
        let Some(shape) = meta.map.and_then(|m| self.map_of(&m)) else { return Ok(()) };
        let (map, id) = (shape.map_type, meta.id);
        let only = BY_MAP.iter().find(|(maps, _)| maps.contains(&map));
        let map_ok = only.is_none_or(|(_, ids)| ids.contains(&id)) || self.may_update_sockmap(map, id);
        let helper = BY_HELPER.iter().find(|(ids, _)| ids.contains(&id));
        let helper_ok = helper.is_none_or(|(_, maps)| maps.contains(&map));
        if map_ok && helper_ok {
            return Ok(());
        }
        let label = Self::helper_label(id);
        Err(reject!(self, EINVAL, "cannot pass map_type {} into func {label}", map as u32))
    }

    /// Programs that may change a socket map's entries.
    fn may_update_sockmap(&self, map: M, id: i32) -> bool {
        if !matches!(map, M::Sockmap | M::Sockhash) || !matches!(id, MAP_UPDATE | MAP_DELETE) {
            return false;
        }
        match self.spec.prog_type {
            ProgType::Tracing => self.spec.attach_type == AttachType::TraceIter,
            ProgType::SockOps => id == MAP_DELETE,
            ProgType::SocketFilter
            | ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::Xdp
            | ProgType::SkReuseport
            | ProgType::FlowDissector
            | ProgType::SkLookup => true,
            _ => false,
        }
    }
}
