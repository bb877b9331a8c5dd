//! What a section's name says about the programs in it.
//!
//! Owns the table of `SEC()` names. Invariant: names match as libbpf 1.x matches them: whole, or for the entries marked
//! so, up to a `/`. Kernel counterpart: `section_defs`, tools/lib/bpf/libbpf.c, 6.18.

use skep_abi::prog_flags::{BPF_F_SLEEPABLE, BPF_F_XDP_HAS_FRAGS};
use skep_abi::{AttachType, ProgType};

/// What a section's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sec {
    /// Type of its programs.
    pub prog_type: ProgType,
    /// `expected_attach_type`; the default where the type has none.
    pub attach_type: AttachType,
    /// `BPF_F_SLEEPABLE`, `BPF_F_XDP_HAS_FRAGS` or 0.
    pub prog_flags: u32,
    /// What follows the `/`: a function, a tracepoint, an iterator's target, ...
    pub target: Option<String>,
}

/// How much of the section's name an entry covers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Match {
    /// All of it.
    Whole,
    /// All of it, or up to a `/`.
    Prefix,
}

use Match::{Prefix, Whole};

/// Name, match, program type, attach type, flags.
type Entry = (&'static str, Match, u32, u32, u32);

const S: u32 = BPF_F_SLEEPABLE;
const F: u32 = BPF_F_XDP_HAS_FRAGS;

#[rustfmt::skip]
const TABLE: &[Entry] = &[
    ("socket", Whole, 1, 0, 0),
    ("sk_reuseport/migrate", Whole, 21, 40, 0),
    ("sk_reuseport", Whole, 21, 39, 0),
    ("kprobe", Prefix, 2, 0, 0),
    ("uprobe", Prefix, 2, 0, 0),
    ("uprobe.s", Prefix, 2, 0, S),
    ("kretprobe", Prefix, 2, 0, 0),
    ("uretprobe", Prefix, 2, 0, 0),
    ("uretprobe.s", Prefix, 2, 0, S),
    ("kprobe.multi", Prefix, 2, 42, 0),
    ("kretprobe.multi", Prefix, 2, 42, 0),
    ("kprobe.session", Prefix, 2, 56, 0),
    ("uprobe.multi", Prefix, 2, 48, 0),
    ("uretprobe.multi", Prefix, 2, 48, 0),
    ("uprobe.session", Prefix, 2, 57, 0),
    ("uprobe.multi.s", Prefix, 2, 48, S),
    ("uretprobe.multi.s", Prefix, 2, 48, S),
    ("uprobe.session.s", Prefix, 2, 57, S),
    ("ksyscall", Prefix, 2, 0, 0),
    ("kretsyscall", Prefix, 2, 0, 0),
    ("usdt", Prefix, 2, 0, 0),
    ("usdt.s", Prefix, 2, 0, S),
    ("tc/ingress", Whole, 3, 46, 0),
    ("tc/egress", Whole, 3, 47, 0),
    ("tcx/ingress", Whole, 3, 46, 0),
    ("tcx/egress", Whole, 3, 47, 0),
    ("tc", Whole, 3, 0, 0),
    ("classifier", Whole, 3, 0, 0),
    ("action", Whole, 4, 0, 0),
    ("netkit/primary", Whole, 3, 54, 0),
    ("netkit/peer", Whole, 3, 55, 0),
    ("tracepoint", Prefix, 5, 0, 0),
    ("tp", Prefix, 5, 0, 0),
    ("raw_tracepoint", Prefix, 17, 0, 0),
    ("raw_tp", Prefix, 17, 0, 0),
    ("raw_tracepoint.w", Prefix, 24, 0, 0),
    ("raw_tp.w", Prefix, 24, 0, 0),
    ("tp_btf", Prefix, 26, 23, 0),
    ("fentry", Prefix, 26, 24, 0),
    ("fmod_ret", Prefix, 26, 26, 0),
    ("fexit", Prefix, 26, 25, 0),
    ("fentry.s", Prefix, 26, 24, S),
    ("fmod_ret.s", Prefix, 26, 26, S),
    ("fexit.s", Prefix, 26, 25, S),
    ("freplace", Prefix, 28, 0, 0),
    ("lsm", Prefix, 29, 27, 0),
    ("lsm.s", Prefix, 29, 27, S),
    ("lsm_cgroup", Prefix, 29, 43, 0),
    ("iter", Prefix, 26, 28, 0),
    ("iter.s", Prefix, 26, 28, S),
    ("syscall", Whole, 31, 0, S),
    ("xdp.frags/devmap", Whole, 6, 33, F),
    ("xdp/devmap", Whole, 6, 33, 0),
    ("xdp.frags/cpumap", Whole, 6, 35, F),
    ("xdp/cpumap", Whole, 6, 35, 0),
    ("xdp.frags", Whole, 6, 37, F),
    ("xdp", Whole, 6, 37, 0),
    ("perf_event", Whole, 7, 0, 0),
    ("lwt_in", Whole, 10, 0, 0),
    ("lwt_out", Whole, 11, 0, 0),
    ("lwt_xmit", Whole, 12, 0, 0),
    ("lwt_seg6local", Whole, 19, 0, 0),
    ("sockops", Whole, 13, 3, 0),
    ("sk_skb/stream_parser", Whole, 14, 4, 0),
    ("sk_skb/stream_verdict", Whole, 14, 5, 0),
    ("sk_skb/verdict", Whole, 14, 38, 0),
    ("sk_skb", Whole, 14, 0, 0),
    ("sk_msg", Whole, 16, 7, 0),
    ("lirc_mode2", Whole, 20, 16, 0),
    ("flow_dissector", Whole, 22, 17, 0),
    ("cgroup_skb/ingress", Whole, 8, 0, 0),
    ("cgroup_skb/egress", Whole, 8, 1, 0),
    ("cgroup/skb", Whole, 8, 0, 0),
    ("cgroup/sock_create", Whole, 9, 2, 0),
    ("cgroup/sock_release", Whole, 9, 34, 0),
    ("cgroup/sock", Whole, 9, 2, 0),
    ("cgroup/post_bind4", Whole, 9, 12, 0),
    ("cgroup/post_bind6", Whole, 9, 13, 0),
    ("cgroup/bind4", Whole, 18, 8, 0),
    ("cgroup/bind6", Whole, 18, 9, 0),
    ("cgroup/connect4", Whole, 18, 10, 0),
    ("cgroup/connect6", Whole, 18, 11, 0),
    ("cgroup/connect_unix", Whole, 18, 49, 0),
    ("cgroup/sendmsg4", Whole, 18, 14, 0),
    ("cgroup/sendmsg6", Whole, 18, 15, 0),
    ("cgroup/sendmsg_unix", Whole, 18, 50, 0),
    ("cgroup/recvmsg4", Whole, 18, 19, 0),
    ("cgroup/recvmsg6", Whole, 18, 20, 0),
    ("cgroup/recvmsg_unix", Whole, 18, 51, 0),
    ("cgroup/getpeername4", Whole, 18, 29, 0),
    ("cgroup/getpeername6", Whole, 18, 30, 0),
    ("cgroup/getpeername_unix", Whole, 18, 52, 0),
    ("cgroup/getsockname4", Whole, 18, 31, 0),
    ("cgroup/getsockname6", Whole, 18, 32, 0),
    ("cgroup/getsockname_unix", Whole, 18, 53, 0),
    ("cgroup/sysctl", Whole, 23, 18, 0),
    ("cgroup/getsockopt", Whole, 25, 21, 0),
    ("cgroup/setsockopt", Whole, 25, 22, 0),
    ("cgroup/dev", Whole, 15, 6, 0),
    ("struct_ops", Prefix, 27, 44, 0),
    ("struct_ops.s", Prefix, 27, 44, S),
    ("sk_lookup", Whole, 30, 36, 0),
    ("netfilter", Whole, 32, 45, 0),
];

impl Sec {
    /// Parses a section's name, without a leading `?`; `None` for a name that libbpf does not know.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find_map(|&(prefix, matches, prog_type, attach_type, prog_flags)| {
            let rest = name.strip_prefix(prefix)?;
            let target = match rest.strip_prefix('/') {
                _ if rest.is_empty() => None,
                Some(target) if matches == Prefix => Some(target.to_owned()),
                _ => return None,
            };
            Some(Self {
                prog_type: ProgType::from_u32(prog_type)?,
                attach_type: AttachType::from_u32(attach_type)?,
                prog_flags,
                target,
            })
        })
    }
}

/// The `N/M` of a section made for iproute2: the program belongs into slot M of the prog array whose id is N.
pub(crate) fn parse_legacy_tail(name: &str) -> Option<(u32, u32)> {
    let (map, slot) = name.split_once('/')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits(map) && digits(slot) { Some((map.parse().ok()?, slot.parse().ok()?)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_whole_or_up_to_a_slash() {
        let sec = |name| Sec::parse(name).map(|s| (s.prog_type as u32, s.attach_type as u32, s.prog_flags, s.target));
        assert_eq!(sec("xdp"), Some((6, 37, 0, None)));
        assert_eq!(sec("xdp.frags"), Some((6, 37, BPF_F_XDP_HAS_FRAGS, None)));
        assert_eq!(sec("xdp/devmap"), Some((6, 33, 0, None)));
        assert_eq!(sec("xdp/foo"), None);
        assert_eq!(sec("xdp_foo"), None);
        assert_eq!(sec("kprobe"), Some((2, 0, 0, None)));
        assert_eq!(sec("kprobe/do_unlinkat"), Some((2, 0, 0, Some("do_unlinkat".into()))));
        assert_eq!(sec("kprobe.multi/foo*"), Some((2, 42, 0, Some("foo*".into()))));
        assert_eq!(sec("iter.s/bpf_map_elem"), Some((26, 28, BPF_F_SLEEPABLE, Some("bpf_map_elem".into()))));
        assert_eq!(sec("tp/sched/sched_switch"), Some((5, 0, 0, Some("sched/sched_switch".into()))));
        assert_eq!(sec("fentryfoo"), None);
        assert_eq!(sec(""), None);
    }

    #[test]
    fn every_entry_is_found_by_its_own_name() {
        for &(name, _, prog_type, attach_type, flags) in TABLE {
            let sec = Sec::parse(name).map(|s| (s.prog_type as u32, s.attach_type as u32, s.prog_flags));
            assert_eq!(sec, Some((prog_type, attach_type, flags)), "{name}");
        }
    }

    #[test]
    fn legacy_tail_sections_are_two_numbers() {
        assert_eq!(parse_legacy_tail("2/0"), Some((2, 0)));
        assert_eq!(parse_legacy_tail("2/10"), Some((2, 10)));
        assert_eq!(parse_legacy_tail("2/"), None);
        assert_eq!(parse_legacy_tail("xdp/1"), None);
        assert_eq!(parse_legacy_tail("99999999999/0"), None);
    }
}
