//! Helpers whose prototype depends on the program type: the same number, another function in the kernel.

use super::kinds::*;
use crate::types::{AttachType, ProgType};

protos! { TRACING =
    bpf_get_socket_cookie 46 [] (SOCK_OR_NULL) -> INT;
    bpf_sk_storage_get 107 [] (MAP, btf_or_null("sock_common"), VALUE_OR_NULL, ANY) -> R_VALUE_OR_NULL;
    bpf_sk_storage_delete 108 [] (MAP, btf_or_null("sock_common")) -> INT;
    bpf_xdp_get_buff_len 188 [] (btf("xdp_buff")) -> INT;
}

protos! { LSM =
    bpf_get_socket_cookie 46 [] (SOCK_OR_NULL) -> INT;
}

protos! { CURRENT =
    bpf_get_cgroup_classid 17 [] () -> INT;
}

protos! { CGROUP_SOCK =
    bpf_get_cgroup_classid 17 [] () -> INT;
    bpf_sk_storage_get 107 [] (MAP, CTX, VALUE_OR_NULL, ANY) -> R_VALUE_OR_NULL;
}

protos! { SK_LOOKUP =
    bpf_sk_assign 124 [] (CTX, SOCKET_OR_NULL, ANY) -> INT;
}

protos! { SOCKOPT =
    bpf_setsockopt 49 [] (SOCK, ANY, ANY, MEM, SIZE) -> INT;
    bpf_getsockopt 57 [] (SOCK, ANY, ANY, MEM_UNINIT, SIZE) -> INT;
    bpf_get_cgroup_classid 17 [] () -> INT;
}

protos! { PERF_EVENT =
    bpf_get_stackid 27 [] (CTX, MAP, ANY) -> INT;
}

protos! { RAW =
    bpf_get_smp_processor_id 8 [] () -> INT;
}

/// Whether the kernel has a function for the processor's number that it calls, where elsewhere it makes code of the call.
const fn calls_for_processor(prog: ProgType) -> bool {
    use ProgType as P;
    matches!(
        prog,
        P::SocketFilter
            | P::CgroupSkb
            | P::CgroupSock
            | P::SockOps
            | P::SkSkb
            | P::CgroupDevice
            | P::SkMsg
            | P::CgroupSockAddr
            | P::SkReuseport
            | P::FlowDissector
            | P::CgroupSysctl
            | P::CgroupSockopt
            | P::SkLookup
            | P::Netfilter
    )
}

/// The prototype that this program type has instead of the common one.
pub(super) fn find(prog: ProgType, attach: AttachType, id: u32) -> Option<&'static HelperProto> {
    let table = match prog {
        _ if id == 8 && calls_for_processor(prog) => RAW,
        ProgType::Tracing => match attach {
            AttachType::TraceIter if matches!(id, 49 | 57) => SOCKOPT,
            _ => TRACING,
        },
        ProgType::Lsm if matches!(id, 49 | 57) => SOCKOPT,
        ProgType::Lsm => LSM,
        ProgType::StructOps if matches!(id, 49 | 57) => SOCKOPT,
        ProgType::CgroupSockopt => SOCKOPT,
        ProgType::CgroupSock => CGROUP_SOCK,
        ProgType::CgroupSockAddr | ProgType::CgroupDevice | ProgType::CgroupSysctl => CURRENT,
        ProgType::SkLookup => SK_LOOKUP,
        ProgType::PerfEvent => PERF_EVENT,
        _ => return None,
    };
    table.iter().find(|proto| proto.id == id)
}
