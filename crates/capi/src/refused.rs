//! Attaching to a kernel, pinning, devices: what nothing here does.
//!
//! A program of this library runs in this process, when it is told to (`bpf_prog_test_run_opts`); it hangs on no event of
//! a kernel. Invariant: a call that would attach, pin or look into a kernel says so and returns `EOPNOTSUPP`; none of
//! them pretends. Counterpart: `bpf_program__attach_kprobe` and its like, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{c_char, c_int, c_void};

use skep_abi::Errno;

use crate::boundary::{call, given, status};
use crate::link::Link;
use crate::map::Map;
use crate::object::Object;
use crate::print;
use crate::program::Program;

/// # Safety
/// `program` is NULL or of an open object.
unsafe fn refuse(program: *const Program) -> Result<*mut Link, Errno> {
    // SAFETY: the caller's duty, passed on.
    let program = unsafe { given(program) }?;
    Err(nothing_to_attach_to(program))
}

/// Says that a program hangs on no event of a kernel.
pub(crate) fn nothing_to_attach_to(program: &Program) -> Errno {
    print::warn(format_args!(
        "program '{}' is not attached: nothing of this process hangs on events of a kernel; run it with \
         bpf_prog_test_run_opts",
        program.name()
    ));
    Errno::ENOTSUP
}

macro_rules! attaches {
    ($($function:ident($($argument:ident: $ty:ty),*);)+) => { $(
        /// Nothing attaches here: NULL, with `errno` `EOPNOTSUPP`.
        ///
        /// # Safety
        /// `program` is NULL or of an open object. What else there is is not looked at.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $function(program: *const Program, $($argument: $ty),*) -> *mut Link {
            // SAFETY: the caller's duty, passed on.
            call(|| unsafe { refuse(program) })
        }
    )+ };
}

attaches! {
    bpf_program__attach_perf_event(_fd: c_int);
    bpf_program__attach_perf_event_opts(_fd: c_int, _opts: *const c_void);
    bpf_program__attach_kprobe(_retprobe: bool, _function: *const c_char);
    bpf_program__attach_kprobe_opts(_function: *const c_char, _opts: *const c_void);
    bpf_program__attach_kprobe_multi_opts(_pattern: *const c_char, _opts: *const c_void);
    bpf_program__attach_ksyscall(_syscall: *const c_char, _opts: *const c_void);
    bpf_program__attach_uprobe(_retprobe: bool, _pid: libc::pid_t, _path: *const c_char, _offset: usize);
    bpf_program__attach_uprobe_opts(_pid: libc::pid_t, _path: *const c_char, _offset: usize, _opts: *const c_void);
    bpf_program__attach_uprobe_multi(_pid: libc::pid_t, _path: *const c_char, _pattern: *const c_char, _opts: *const c_void);
    bpf_program__attach_usdt(_pid: libc::pid_t, _path: *const c_char, _provider: *const c_char, _name: *const c_char, _opts: *const c_void);
    bpf_program__attach_tracepoint(_category: *const c_char, _name: *const c_char);
    bpf_program__attach_tracepoint_opts(_category: *const c_char, _name: *const c_char, _opts: *const c_void);
    bpf_program__attach_raw_tracepoint(_name: *const c_char);
    bpf_program__attach_raw_tracepoint_opts(_name: *const c_char, _opts: *mut c_void);
    bpf_program__attach_trace();
    bpf_program__attach_trace_opts(_opts: *const c_void);
    bpf_program__attach_lsm();
    bpf_program__attach_cgroup(_fd: c_int);
    bpf_program__attach_cgroup_opts(_fd: c_int, _opts: *const c_void);
    bpf_program__attach_netns(_fd: c_int);
    bpf_program__attach_sockmap(_fd: c_int);
    bpf_program__attach_xdp(_ifindex: c_int);
    bpf_program__attach_netfilter(_opts: *const c_void);
    bpf_program__attach_tcx(_ifindex: c_int, _opts: *const c_void);
    bpf_program__attach_netkit(_ifindex: c_int, _opts: *const c_void);
}

/// There are no struct_ops maps: NULL, with `errno` `EOPNOTSUPP`.
#[unsafe(no_mangle)]
pub extern "C" fn bpf_map__attach_struct_ops(_map: *const Map) -> *mut Link {
    call(|| Err(unsupported("struct_ops maps replace functions of a running kernel")))
}

pub(crate) fn unsupported(why: &str) -> Errno {
    print::warn(format_args!("not supported: {why}"));
    Errno::ENOTSUP
}

const NO_DEVICES: &str = "there are no network devices here; run programs with bpf_prog_test_run_opts";
pub(crate) const NO_HOOKS: &str = "nothing attaches here; run programs with bpf_prog_test_run_opts";
const NO_PINS: &str = "nothing is pinned here: there is no bpffs, and what was loaded ends with the process";

macro_rules! unsupported {
    ($($function:ident($($argument:ident: $ty:ty),*) = $why:expr;)+) => { $(
        /// Not supported: `-EOPNOTSUPP`.
        #[unsafe(no_mangle)]
        pub extern "C" fn $function($($argument: $ty),*) -> c_int {
            status(|| Err(unsupported($why)))
        }
    )+ };
}

unsupported! {
    bpf_xdp_attach(_ifindex: c_int, _fd: c_int, _flags: u32, _opts: *const c_void) = NO_DEVICES;
    bpf_xdp_detach(_ifindex: c_int, _flags: u32, _opts: *const c_void) = NO_DEVICES;
    bpf_xdp_query(_ifindex: c_int, _flags: c_int, _opts: *mut c_void) = NO_DEVICES;
    bpf_xdp_query_id(_ifindex: c_int, _flags: c_int, _id: *mut u32) = NO_DEVICES;
    bpf_tc_hook_create(_hook: *mut c_void) = NO_DEVICES;
    bpf_tc_hook_destroy(_hook: *mut c_void) = NO_DEVICES;
    bpf_tc_attach(_hook: *const c_void, _opts: *mut c_void) = NO_DEVICES;
    bpf_tc_detach(_hook: *const c_void, _opts: *const c_void) = NO_DEVICES;
    bpf_tc_query(_hook: *const c_void, _opts: *mut c_void) = NO_DEVICES;
    bpf_prog_attach(_fd: c_int, _target: c_int, _attach_type: u32, _flags: u32) = NO_HOOKS;
    bpf_prog_detach(_target: c_int, _attach_type: u32) = NO_HOOKS;
    bpf_prog_detach2(_fd: c_int, _target: c_int, _attach_type: u32) = NO_HOOKS;
    bpf_link_create(_fd: c_int, _target: c_int, _attach_type: u32, _opts: *const c_void) = NO_HOOKS;
    bpf_link_detach(_fd: c_int) = NO_HOOKS;
    bpf_raw_tracepoint_open(_name: *const c_char, _fd: c_int) = NO_HOOKS;
    bpf_obj_pin(_fd: c_int, _path: *const c_char) = NO_PINS;
    bpf_obj_get(_path: *const c_char) = NO_PINS;
    bpf_object__pin(_object: *mut Object, _path: *const c_char) = NO_PINS;
    bpf_object__unpin(_object: *mut Object, _path: *const c_char) = NO_PINS;
    bpf_object__pin_maps(_object: *mut Object, _path: *const c_char) = NO_PINS;
    bpf_object__unpin_maps(_object: *mut Object, _path: *const c_char) = NO_PINS;
    bpf_object__pin_programs(_object: *mut Object, _path: *const c_char) = NO_PINS;
    bpf_object__unpin_programs(_object: *mut Object, _path: *const c_char) = NO_PINS;
    bpf_map__pin(_map: *mut Map, _path: *const c_char) = NO_PINS;
    bpf_map__unpin(_map: *mut Map, _path: *const c_char) = NO_PINS;
    bpf_program__pin(_program: *mut Program, _path: *const c_char) = NO_PINS;
    bpf_program__unpin(_program: *mut Program, _path: *const c_char) = NO_PINS;
    bpf_link__pin(_link: *mut Link, _path: *const c_char) = NO_PINS;
    bpf_link__unpin(_link: *mut Link) = NO_PINS;
    bpf_link__update_program(_link: *mut Link, _program: *mut Program) = NO_HOOKS;
    bpf_link__update_map(_link: *mut Link, _map: *const Map) = NO_HOOKS;
    bpf_link__detach(_link: *mut Link) = NO_HOOKS;
}

/// No pinned link can be opened: NULL, with `errno` `EOPNOTSUPP`.
#[unsafe(no_mangle)]
pub extern "C" fn bpf_link__open(_path: *const c_char) -> *mut Link {
    call(|| Err(unsupported(NO_PINS)))
}
