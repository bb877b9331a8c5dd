//! Lookups in the network stack, which does not exist here.
//!
//! Arguments are tested as the kernel tests them; then no route, no socket and no device is found. Invariant: nothing of the
//! host's network is looked at. Kernel counterpart: `bpf_xdp_fib_lookup`, `bpf_sk_lookup_tcp`, `bpf_xdp_check_mtu`,
//! net/core/filter.c, 6.18.

use skep_abi::Errno;

use super::{HelperFn, entry, low, low_signed};
use crate::frame::Run;

/// `sizeof(struct bpf_fib_lookup)`.
const PARAMS: i32 = 64;
/// Every `BPF_FIB_LOOKUP_*` flag.
const FLAGS: u32 = 0x3f;

pub(super) fn table() -> Vec<(u32, HelperFn)> {
    vec![
        (69, entry!(fib_lookup)),
        (84, entry!(no_socket)),  // sk_lookup_tcp
        (85, entry!(no_socket)),  // sk_lookup_udp
        (86, entry!(sk_release)), // only reached with a socket, and there is none
        (99, entry!(no_socket)),  // skc_lookup_tcp
        (95, entry!(no_socket)),  // sk_fullsock
        (96, entry!(no_socket)),  // tcp_sock
        (98, entry!(no_socket)),  // get_listener_sock
        (163, entry!(check_mtu)),
    ]
}

/// `-EINVAL` for wrong arguments, else `-ENODEV`: no interface of the host is known here.
unsafe fn fib_lookup(_run: Run, [_, _, len, flags, _]: [u64; 5]) -> u64 {
    if low_signed(len) < PARAMS || low(flags) & !FLAGS != 0 {
        return Errno::EINVAL.as_return();
    }
    Errno::ENODEV.as_return()
}

unsafe fn no_socket(_run: Run, _: [u64; 5]) -> u64 {
    0
}

unsafe fn sk_release(_run: Run, _: [u64; 5]) -> u64 {
    0
}

unsafe fn check_mtu(_run: Run, [_, _, _, _, flags]: [u64; 5]) -> u64 {
    if flags & !1 != 0 {
        return Errno::EINVAL.as_return();
    }
    Errno::ENODEV.as_return()
}
