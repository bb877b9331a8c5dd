//! Programs that some kernels accept and others refuse: the rules that differ by version, each at its border.

use skep_testing::object_verdict::our_verdict_with;
use skep_testing::verifier_case::{Case, Outcome, parse};
use skep_verifier::{Options, Profile};

/// A program, the first profile that accepts it, and what the one before says.
struct Border {
    what: &'static str,
    source: &'static str,
    first: &'static str,
    before: &'static str,
}

const BORDERS: [Border; 29] = [
    Border {
        what: "stack that was not written, above what was",
        source: "type: xdp\n---\nr1 = 0\n*(u64 *)(r10 -16) = r1\nr0 = *(u64 *)(r10 -8)\nr0 = 1\nexit\n---\naccept",
        first: "6.1",
        before: "invalid read from stack off -8+0 size 8",
    },
    Border {
        what: "stack below all that was written",
        source: "type: xdp\n---\nr0 = *(u64 *)(r10 -8)\nr0 = 1\nexit\n---\naccept",
        first: "6.12",
        before: "invalid read from stack R10 off=-8 size=8",
    },
    Border {
        what: "memory for a helper below all that was written",
        source: "type: socket_filter\n---\nr6 = r1\ncall bpf_get_prandom_u32#7\nr4 = r0\nr4 &= 7\nr4 += 1\nr1 = r6\nr2 = 0\nr3 = r10\nr3 += -8\ncall bpf_skb_load_bytes#26\nr0 = 0\nexit\n---\naccept",
        first: "6.12",
        before: "invalid read from stack R3 off=-8 size=8",
    },
    Border {
        what: "a spilled word keeps its bounds",
        source: "type: xdp\nmap m: array 4 16 1\n---\ncall bpf_get_prandom_u32#7\nw0 &= 7\n*(u32 *)(r10 -16) = r0\n\
                 r1 = 0\n*(u32 *)(r10 -8) = r1\nr2 = r10\nr2 += -8\nr1 = map[m]\ncall bpf_map_lookup_elem#1\n\
                 if r0 == 0 goto o\nr1 = *(u32 *)(r10 -16)\nr0 += r1\nr0 = *(u8 *)(r0 +0)\no: r0 = 1\nexit\n---\naccept",
        first: "6.1",
        before: "R0 unbounded memory access, make sure to bounds check any such access",
    },
    Border {
        what: "a stored constant is remembered",
        source: "type: xdp\nmap m: array 4 16 1\n---\n*(u64 *)(r10 -16) = 3\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\n\
                 r1 = map[m]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto o\nr1 = *(u64 *)(r10 -16)\nr0 += r1\n\
                 r0 = *(u8 *)(r0 +0)\no: r0 = 1\nexit\n---\naccept",
        first: "6.1",
        before: "math between map_value pointer and register with unbounded min value is not allowed",
    },
    Border {
        what: "a helper of 6.1",
        source: "type: xdp\n---\ncall bpf_ktime_get_tai_ns#208\nr0 = 1\nexit\n---\naccept",
        first: "6.1",
        before: "bpf_ktime_get_tai_ns#208 came with Linux 6.1, and this is verified as by Linux 5.15",
    },
    Border {
        what: "fragments in XDP",
        source: "type: xdp\nflags: xdp_has_frags\n---\nr0 = 1\nexit\n---\naccept",
        first: "6.1",
        before: "load flags 0x20 came with Linux 5.18, and this is verified as by Linux 5.15",
    },
    Border {
        what: "instructions of -mcpu=v4",
        source: "type: xdp\n---\nr1 = 5\nr0 = (s8)r1\nexit\n---\naccept",
        first: "6.6",
        before: "this instruction came with Linux 6.6, and this is verified as by Linux 6.1",
    },
    Border {
        what: "programs of a type of 6.4",
        source: "type: netfilter\n---\nr0 = 1\nexit\n---\naccept",
        first: "6.6",
        before: "programs of type netfilter came with Linux 6.4, and this is verified as by Linux 6.1",
    },
    Border {
        what: "may_goto",
        source: "type: xdp\n---\nl: may_goto o\ngoto l\no: r0 = 1\nexit\n---\naccept",
        first: "6.12",
        before: "this instruction came with Linux 6.9, and this is verified as by Linux 6.6",
    },
    Border {
        what: "a sum stays linked to what it was made of",
        source: "type: xdp\nmap m: array 4 16 1\n---\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\n\
                 call bpf_map_lookup_elem#1\nif r0 == 0 goto o\nr6 = r0\ncall bpf_get_prandom_u32#7\nw7 = w0\nr8 = r7\n\
                 r8 += 4\nif r7 > 8 goto o\nr6 += r8\nr0 = *(u8 *)(r6 +0)\no: r0 = 1\nexit\n---\naccept",
        first: "6.12",
        before: "R6 unbounded memory access, make sure to bounds check any such access",
    },
    Border {
        what: "a load from the arena with its sign",
        source: "type: xdp\nmap a: arena 0 0 4 flags=400 extra=100000000000\n---\nr1 = map[a]\nr2 = 0x100000000000 ll\nr2 = addr_space_cast(r2, 0, 1)\nr0 = *(s8 *)(r2 +0)\nr0 = 1\nexit\n---\naccept",
        first: "6.18",
        before: "sign extending loads from arena are not supported yet",
    },
    Border {
        what: "a number that an interval does not have",
        source: "type: xdp\n---\ncall bpf_get_prandom_u32#7\nr0 &= 7\nif r0 == 9 goto b\nr0 = 1\nexit\nb: r0 = r9\nexit\n---\naccept",
        first: "6.6",
        before: "R9 !read_ok",
    },
    Border {
        what: "a constant before an interval",
        source: "type: xdp\n---\ncall bpf_get_prandom_u32#7\nr0 &= 7\nr1 = 9\nif r1 < r0 goto b\nr0 = 1\nexit\nb: r0 = r9\nexit\n---\n\
                 accept",
        first: "6.6",
        before: "R9 !read_ok",
    },
    Border {
        what: "a copy of the low half stays linked",
        source: "type: xdp\nmap m: array 4 16 1\n---\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto o\nr6 = r0\ncall bpf_get_prandom_u32#7\nr7 = r0\nw7 = w7\nw8 = w7\nif r7 > 8 goto o\nr6 += r8\nr0 = *(u8 *)(r6 +0)\no: r0 = 1\nexit\n---\naccept",
        first: "6.6",
        before: "R6 unbounded memory access, make sure to bounds check any such access",
    },
    Border {
        what: "a pointer that equals one that is not null",
        source: "type: socket_filter\nmap m: hash 4 8 16\n---\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\ncall bpf_map_lookup_elem#1\nr6 = r0\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto o\nif r6 != r0 goto o\nr0 = *(u64 *)(r6 +0)\no: r0 = 0\nexit\n---\naccept",
        first: "6.6",
        before: "R6 invalid mem access 'map_value_or_null'",
    },
    Border {
        what: "two intervals are compared",
        source: "type: xdp\nmap m: array 4 16 1\n---\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto o\nr6 = r0\ncall bpf_get_prandom_u32#7\nw7 = w0\ncall bpf_get_prandom_u32#7\nr0 &= 7\nif r7 > r0 goto o\nr6 += r7\nr0 = *(u8 *)(r6 +0)\no: r0 = 1\nexit\n---\naccept",
        first: "6.12",
        before: "R6 unbounded memory access, make sure to bounds check any such access",
    },
    Border {
        what: "the end of an interval is excluded",
        source: "type: xdp\nmap m: array 4 8 1\n---\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto o\nr6 = r0\ncall bpf_get_prandom_u32#7\nr0 &= 8\nif r0 == 8 goto o\nr6 += r0\nr0 = *(u8 *)(r6 +0)\no: r0 = 1\nexit\n---\naccept",
        first: "6.12",
        before: "R6 max value is outside of the allowed memory range",
    },
    Border {
        what: "part of a spilled number",
        source: "type: socket_filter\nmap a: array 4 64 4\n---\ncall bpf_get_prandom_u32#7\nr0 &= 63\n*(u64 *)(r10 -8) = r0\nr6 = *(u32 *)(r10 -8)\nr1 = 0\n*(u32 *)(r10 -16) = r1\nr2 = r10\nr2 += -16\nr1 = map[a]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto o\nr0 += r6\nr1 = *(u8 *)(r0 +0)\no: r0 = 0\nexit\n---\naccept",
        first: "6.12",
        before: "R0 unbounded memory access, make sure to bounds check any such access",
    },
    Border {
        what: "a spilled number stays linked to its register",
        source: "type: socket_filter\n---\ncall bpf_get_prandom_u32#7\n*(u64 *)(r10 -8) = r0\nif r0 > 7 goto o\nr1 = *(u64 *)(r10 -8)\nif r1 > 7 goto b\no: r0 = 0\nexit\nb: r0 = r9\nexit\n---\naccept",
        first: "6.12",
        before: "R9 !read_ok",
    },
    Border {
        what: "the number of a CPU",
        source: "type: socket_filter\n---\ncall bpf_get_smp_processor_id#8\nif r0 > 100000 goto b\nr0 = 0\nexit\nb: r0 = r9\nexit\n---\naccept",
        first: "6.12",
        before: "R9 !read_ok",
    },
    Border {
        what: "a loop that is not closed by a jump",
        source: "type: socket_filter\n---\nr0 = 0\ngoto l\nb: r0 += 1\nl: if r0 < 4 goto b\nexit\n---\naccept",
        first: "6.12",
        before: "back-edge from insn 2 to 3",
    },
    Border {
        what: "stacks that only the interpreter rounds up",
        source: "type: socket_filter\n---\nr1 = 0\n*(u64 *)(r10 -264) = r1\ncall f\nr0 = 0\nexit\nf: r1 = 0\n*(u64 *)(r10 -232) = r1\nr0 = 0\nexit\n---\naccept",
        first: "6.12",
        before: "combined stack size of 2 calls is 544. Too large",
    },
    Border {
        what: "a helper that came later for one type",
        source: "type: raw_tracepoint\n---\ncall bpf_get_attach_cookie#174\nr0 = 0\nexit\n---\naccept",
        first: "6.12",
        before: "bpf_get_attach_cookie#174 came with Linux 6.10, and this is verified as by Linux 6.6",
    },
    Border {
        what: "a map is not null",
        source: "type: socket_filter\ncaps: none\nmap m: array 4 8 1\n---\nr1 = map[m]\nif r1 == 0 goto o\nr0 = 0\nexit\no: r0 = 0\nexit\n---\naccept",
        first: "6.12",
        before: "R1 pointer comparison prohibited",
    },
    Border {
        what: "a negation",
        source: "type: socket_filter\nmap a: array 4 64 4\n---\ncall bpf_get_prandom_u32#7\nr6 = r0\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[a]\ncall bpf_map_lookup_elem#1\nif r0 == 0 goto o\nr6 &= 63\nr6 = -r6\nr6 += 63\nr0 += r6\nr1 = *(u8 *)(r0 +0)\no: r0 = 0\nexit\n---\naccept",
        first: "6.18",
        before: "math between map_value pointer and register with unbounded min value is not allowed",
    },
    Border {
        what: "speculation that goes wrong",
        source: "type: socket_filter\ncaps: none\nmap m: array 4 48 1\n---\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\ncall bpf_map_lookup_elem#1\nr1 = 1\nif r1 == 1 goto o\nr0 = *(u64 *)(r0 +0)\no: r0 = 0\nexit\n---\naccept",
        first: "6.18",
        before: "R0 invalid mem access 'map_value_or_null'",
    },
    Border {
        what: "a lookup in an array with a constant key",
        source: "type: xdp\nmap m: array 4 16 1\n---\nr1 = 0\n*(u32 *)(r10 -4) = r1\nr2 = r10\nr2 += -4\nr1 = map[m]\n\
                 call bpf_map_lookup_elem#1\nr0 = *(u8 *)(r0 +0)\nr0 = 1\nexit\n---\naccept",
        first: "6.18",
        before: "R0 invalid mem access 'map_value_or_null'",
    },
    Border {
        what: "load_acquire",
        source: "type: xdp\n---\nr1 = 0\n*(u64 *)(r10 -8) = r1\nr0 = load_acquire((u64 *)(r10 -8))\nr0 = 1\nexit\n---\naccept",
        first: "6.18",
        before: "this instruction came with Linux 6.15, and this is verified as by Linux 6.12",
    },
];

/// The message with which it is refused.
fn refusal(case: &Case, profile: &Profile) -> Option<String> {
    match case.by_profile(profile) {
        Outcome::Accept => None,
        Outcome::Reject(_, message) => Some(message),
    }
}

#[test]
fn each_rule_begins_with_its_version() {
    let mut problems = String::new();
    for border in &BORDERS {
        let case = parse(border.source).unwrap_or_else(|error| panic!("{}: {error}", border.what));
        let first = Profile::NAMES.iter().position(|name| *name == border.first).unwrap();
        for (index, name) in Profile::NAMES.iter().enumerate() {
            let refusal = refusal(&case, &Profile::named(name).unwrap());
            let right = if index >= first {
                refusal.is_none()
            } else if index + 1 == first {
                refusal.as_deref() == Some(border.before)
            } else {
                refusal.is_some()
            };
            if !right {
                problems += &format!("{} by {name}: {refusal:?}\n", border.what);
            }
        }
    }
    assert!(problems.is_empty(), "{problems}");
}

/// Programs of `testing/c/functions.bpf.c`, the first profile that accepts them, and what the one before says.
const FUNCTIONS: [(&str, &str, &str); 3] = [
    ("ok_argument_that_is_not_null", "6.12", "R1 invalid mem access 'mem_or_null'"),
    ("ok_global_function_without_preemption", "6.18", "use static function instead"),
    (
        "ok_function_that_ends_with_a_lock",
        "6.12",
        "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region",
    ),
];

#[test]
fn each_rule_about_functions_begins_with_its_version() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/c/functions.bpf.o")).unwrap();
    let object = skep_object::parse(&bytes, "functions").unwrap();
    for (program, first, before) in FUNCTIONS {
        let index = object.programs.iter().position(|spec| spec.name == program).unwrap();
        let first = Profile::NAMES.iter().position(|name| *name == first).unwrap();
        for (at, name) in Profile::NAMES.iter().enumerate() {
            let options = Options { profile: Profile::named(name).unwrap(), ..Options::default() };
            let (verdict, _, _) = our_verdict_with(&object, index, &options).unwrap();
            assert_eq!(verdict.is_accepted(), at >= first, "{program} by {name}: {verdict:?}");
            if at + 1 == first {
                assert_eq!(verdict.message(), before, "{program} by {name}");
            }
        }
    }
}

#[test]
fn code_that_no_path_reaches_may_be_newer() {
    let source =
        "type: xdp\n---\nr1 = 0\nif r1 == 0 goto o\ncall bpf_ktime_get_tai_ns#208\no: r0 = 1\nexit\n---\naccept";
    assert_eq!(refusal(&parse(source).unwrap(), &Profile::linux_5_15()), None);
}

#[test]
fn an_attach_type_at_which_no_kernel_looks_may_be_newer() {
    let oldest = Profile::linux_5_15();
    let source = "type: sched_cls\nattach: tcx_ingress\n---\nr0 = 0\nexit\n---\naccept";
    assert_eq!(refusal(&parse(source).unwrap(), &oldest), None);
    let source = "type: cgroup_sock_addr\nattach: cgroup_unix_connect\n---\nr0 = 0\nexit\n---\naccept";
    let said = "attach type cgroup_unix_connect came with Linux 6.7, and this is verified as by Linux 5.15";
    assert_eq!(refusal(&parse(source).unwrap(), &oldest).as_deref(), Some(said));
}
