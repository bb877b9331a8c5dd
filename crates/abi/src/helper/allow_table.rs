//! Which helpers each program type may call, probed from Linux 6.18.
//!
//! Rewritten by `BLESS=1 cargo test -p skep-testing --test helper_oracle`; helpers that the probed kernel was
//! built without are missing.

use super::allow::Row;
use crate::types::{AttachType as A, ProgType as P};

/// What every program type may call.
#[rustfmt::skip]
pub(super) static COMMON: &[u32] = &[1, 2, 3, 5, 6, 7, 8, 12, 14, 15, 16, 17, 22, 35, 37, 42, 55, 80, 87, 88, 89, 93, 94, 105, 106, 109, 112, 113, 114, 115, 117, 118, 120, 123, 125, 130, 131, 132, 133, 134, 141, 148, 149, 153, 154, 156, 157, 158, 164, 165, 169, 170, 171, 172, 175, 176, 177, 180, 181, 182, 191, 194, 195, 197, 198, 199, 200, 201, 202, 203, 208, 209, 210, 211];

/// What one program type may call beyond [`COMMON`]; without attach types, for all of them.
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    Row { prog: P::SocketFilter, attach: &[], ids: &[25, 26, 46, 47, 68, 122, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::Kprobe, attach: &[], ids: &[4, 25, 27, 45, 67, 173, 174] },
    Row { prog: P::SchedCls, attach: &[], ids: &[9, 10, 11, 13, 18, 19, 20, 21, 23, 24, 25, 26, 28, 29, 30, 31, 32, 33, 34, 38, 39, 40, 41, 43, 46, 47, 48, 50, 66, 68, 69, 79, 83, 84, 85, 86, 95, 96, 97, 98, 99, 100, 107, 108, 110, 122, 124, 135, 136, 137, 138, 139, 140, 151, 152, 155, 160, 163, 178, 192, 196, 204, 205, 206, 207] },
    Row { prog: P::SchedAct, attach: &[], ids: &[9, 10, 11, 13, 18, 19, 20, 21, 23, 24, 25, 26, 28, 29, 30, 31, 32, 33, 34, 38, 39, 40, 41, 43, 46, 47, 48, 50, 66, 68, 69, 79, 83, 84, 85, 86, 95, 96, 97, 98, 99, 100, 107, 108, 110, 122, 124, 135, 136, 137, 138, 139, 140, 151, 152, 155, 160, 163, 178, 192, 196, 204, 205, 206, 207] },
    Row { prog: P::Tracepoint, attach: &[], ids: &[4, 25, 27, 45, 67, 173, 174] },
    Row { prog: P::Xdp, attach: &[], ids: &[23, 25, 28, 44, 51, 54, 65, 69, 84, 85, 86, 99, 100, 110, 136, 137, 138, 139, 140, 160, 163, 178, 188, 189, 190, 196, 204, 205, 206, 207] },
    Row { prog: P::PerfEvent, attach: &[], ids: &[4, 25, 27, 45, 56, 67, 119, 173, 174] },
    Row { prog: P::CgroupSkb, attach: &[], ids: &[25, 26, 46, 47, 68, 79, 81, 83, 84, 85, 86, 95, 96, 97, 98, 99, 107, 108, 122, 128, 129, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::CgroupSock, attach: &[], ids: &[25, 46, 81, 107, 122, 160, 186, 187] },
    Row { prog: P::LwtIn, attach: &[], ids: &[24, 25, 26, 28, 33, 34, 39, 73, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::LwtOut, attach: &[], ids: &[24, 25, 26, 28, 33, 34, 39, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::LwtXmit, attach: &[], ids: &[9, 10, 11, 13, 20, 21, 23, 24, 25, 26, 28, 29, 30, 33, 34, 38, 39, 40, 41, 43, 73, 135, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::SockOps, attach: &[], ids: &[25, 46, 49, 53, 57, 59, 70, 81, 96, 107, 108, 122, 136, 137, 138, 139, 140, 142, 143, 144, 160, 178, 196] },
    Row { prog: P::SkSkb, attach: &[], ids: &[9, 25, 26, 38, 39, 43, 46, 47, 50, 52, 72, 84, 85, 86, 99, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::CgroupDevice, attach: &[], ids: &[25, 81, 186, 187] },
    Row { prog: P::SkMsg, attach: &[], ids: &[25, 60, 61, 62, 63, 71, 90, 91, 107, 108, 122, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::RawTracepoint, attach: &[], ids: &[4, 25, 27, 45, 67, 173, 174] },
    Row { prog: P::CgroupSockAddr, attach: &[A::CgroupInet4Bind, A::CgroupInet6Bind, A::CgroupUnixConnect, A::CgroupUdp4Sendmsg, A::CgroupUdp6Sendmsg, A::CgroupUnixSendmsg], ids: &[25, 46, 49, 57, 81, 84, 85, 86, 99, 107, 108, 122, 136, 137, 138, 139, 140, 160, 178, 186, 187, 196] },
    Row { prog: P::CgroupSockAddr, attach: &[A::CgroupInet4Connect, A::CgroupInet6Connect], ids: &[25, 46, 49, 57, 64, 81, 84, 85, 86, 99, 107, 108, 122, 136, 137, 138, 139, 140, 160, 178, 186, 187, 196] },
    Row { prog: P::CgroupSockAddr, attach: &[A::CgroupUdp4Recvmsg, A::CgroupUdp6Recvmsg, A::CgroupUnixRecvmsg, A::CgroupInet4Getpeername, A::CgroupInet6Getpeername, A::CgroupUnixGetpeername, A::CgroupInet4Getsockname, A::CgroupInet6Getsockname, A::CgroupUnixGetsockname], ids: &[25, 46, 49, 57, 81, 84, 85, 86, 99, 107, 108, 122, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::LwtSeg6local, attach: &[], ids: &[24, 25, 26, 28, 33, 34, 39, 74, 75, 76, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::SkReuseport, attach: &[], ids: &[26, 46, 68, 82, 160] },
    Row { prog: P::FlowDissector, attach: &[], ids: &[26, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::CgroupSysctl, attach: &[], ids: &[25, 81, 101, 102, 103, 104, 160, 186, 187] },
    Row { prog: P::RawTracepointWritable, attach: &[], ids: &[4, 25, 27, 45, 67, 173, 174] },
    Row { prog: P::CgroupSockopt, attach: &[A::CgroupGetsockopt], ids: &[25, 81, 96, 107, 108, 122, 186, 187] },
    Row { prog: P::CgroupSockopt, attach: &[A::CgroupSetsockopt], ids: &[25, 49, 57, 81, 96, 107, 108, 122, 186, 187] },
    Row { prog: P::Tracing, attach: &[A::TraceRawTp], ids: &[4, 25, 27, 45, 46, 67, 107, 108, 111, 121, 136, 137, 138, 139, 140, 147, 162, 173, 174, 178, 188, 196] },
    Row { prog: P::Tracing, attach: &[A::TraceIter], ids: &[4, 25, 27, 45, 46, 67, 107, 108, 111, 121, 126, 127, 136, 137, 138, 139, 140, 147, 150, 162, 173, 178, 188, 196] },
    Row { prog: P::StructOps, attach: &[], ids: &[49, 57, 107, 108, 116, 160] },
    Row { prog: P::SkLookup, attach: &[], ids: &[25, 86, 124, 136, 137, 138, 139, 140, 160, 178, 196] },
    Row { prog: P::Syscall, attach: &[], ids: &[4, 25, 27, 45, 46, 67, 107, 108, 111, 121, 136, 137, 138, 139, 140, 147, 162, 166, 167, 168, 173, 178, 179, 188, 196] },
    Row { prog: P::Netfilter, attach: &[], ids: &[] },
];
