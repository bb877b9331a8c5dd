//! Programs that some kernels accept and others refuse: the rules that differ by version, each at its border.

use skep_testing::verifier_case::parse;
use skep_verifier::Profile;

/// A program, the first profile that accepts it, and what the one before says.
struct Border {
    what: &'static str,
    source: &'static str,
    first: &'static str,
    before: &'static str,
}

const BORDERS: [Border; 13] = [
    Border {
        what: "stack that was not written",
        source: "type: xdp\n---\nr0 = *(u64 *)(r10 -8)\nr0 = 1\nexit\n---\naccept",
        first: "6.1",
        before: "invalid read from stack off -8+0 size 8",
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
        what: "a number becomes a pointer into the arena",
        source: "type: xdp\nmap a: arena 0 0 4 flags=400 extra=100000000000\n---\nr1 = map[a]\nr2 = 0x100000000000 ll\nr2 = addr_space_cast(r2, 0, 1)\nr3 = 8\nr3 += r2\nr0 = 1\nexit\n---\naccept",
        first: "6.18",
        before: "R3 pointer arithmetic on arena prohibited",
    },
    Border {
        what: "a load from the arena with its sign",
        source: "type: xdp\nmap a: arena 0 0 4 flags=400 extra=100000000000\n---\nr1 = map[a]\nr2 = 0x100000000000 ll\nr2 = addr_space_cast(r2, 0, 1)\nr0 = *(s8 *)(r2 +0)\nr0 = 1\nexit\n---\naccept",
        first: "6.18",
        before: "sign extending loads from arena are not supported yet",
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

#[test]
fn each_rule_begins_with_its_version() {
    let mut problems = String::new();
    for border in &BORDERS {
        let case = parse(border.source).unwrap_or_else(|error| panic!("{}: {error}", border.what));
        let first = Profile::NAMES.iter().position(|name| *name == border.first).unwrap();
        for (index, name) in Profile::NAMES.iter().enumerate() {
            let refusal = case.refusal_by(&Profile::named(name).unwrap());
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

#[test]
fn code_that_no_path_reaches_may_be_newer() {
    let source =
        "type: xdp\n---\nr1 = 0\nif r1 == 0 goto o\ncall bpf_ktime_get_tai_ns#208\no: r0 = 1\nexit\n---\naccept";
    assert_eq!(parse(source).unwrap().refusal_by(&Profile::linux_5_15()), None);
}
