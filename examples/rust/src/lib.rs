//! The skeleton of each example, made by the build script: a module with its variables, maps and programs as fields.

include!(concat!(env!("OUT_DIR"), "/percpu_counters.skel.rs"));
include!(concat!(env!("OUT_DIR"), "/request_filter.skel.rs"));
include!(concat!(env!("OUT_DIR"), "/socket_dns.skel.rs"));
include!(concat!(env!("OUT_DIR"), "/tc_flows.skel.rs"));
include!(concat!(env!("OUT_DIR"), "/xdp_dispatch.skel.rs"));
include!(concat!(env!("OUT_DIR"), "/xdp_dispatch_stages.skel.rs"));
include!(concat!(env!("OUT_DIR"), "/xdp_firewall.skel.rs"));
include!(concat!(env!("OUT_DIR"), "/xdp_load_balancer.skel.rs"));
