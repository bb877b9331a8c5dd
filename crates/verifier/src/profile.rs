//! What differs between kernel versions, as data.
//!
//! Owns the limits and rules of each release that can be asked for. Invariant: the verifier reads these values where they
//! decide and knows no versions; which release first had a helper, an instruction or a type is in `skep_abi::since`.

use std::borrow::Cow;

use skep_abi::since::KernelVersion;

/// Limits and rules that differ between kernel versions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent rules, each introduced by a release of its own")]
pub struct Profile {
    /// What the profile stands for, as shown to users: `6.18`.
    pub name: Cow<'static, str>,
    /// The release whose helpers, instructions and types there are.
    pub version: KernelVersion,
    /// Instructions that may be processed (`BPF_COMPLEXITY_LIMIT_INSNS`).
    pub max_processed: u32,
    /// Branches that may wait (`BPF_COMPLEXITY_LIMIT_JMP_SEQ`).
    pub max_pending: u32,
    /// Whether `ld_imm64` may take the address of per-CPU array values (7.3).
    pub percpu_direct: bool,
    /// Number of CPUs that `bpf_get_smp_processor_id` may name.
    pub nr_cpus: u32,
    /// Whether functions of programs that trace may have stacks of their own, which are not summed (6.13).
    pub private_stacks: bool,
    /// Whether saves around calls that leave registers alone are removed, and take no stack (6.12).
    pub fastcall: bool,
    /// Whether a lookup with a constant key that an array has needs no test for null (6.14).
    pub known_keys: bool,
    /// Whether `r2 = r1; r2 += 4` keeps the two linked (6.11).
    pub linked_sums: bool,
    /// Whether static functions may be called while a spin lock is held (6.9).
    pub calls_under_lock: bool,
    /// Whether loads from the arena may extend a sign (6.18).
    pub arena_signs: bool,
    /// Whether privileged programs may read stack that was not written (6.3, and the long-term 6.1).
    pub unwritten_stack: bool,
    /// Whether a constant stored on the stack is remembered (6.3, and the long-term 6.1).
    pub stored_constants: bool,
    /// Whether scalars of less than 8 bytes keep their bounds on the stack (5.16).
    pub narrow_spills: bool,
    /// Whether a scalar stays linked to its copy on the stack, of which a part may be read (6.9).
    pub follows_spills: bool,
    /// Whether privileged programs may read stack that lies below everything that was written (6.8).
    pub whole_stack: bool,
    /// Whether a comparison of two numbers of which none is a constant decides and teaches anything but equality (6.8).
    pub compares_ranges: bool,
    /// Whether a number and an interval in which it is not are known to differ (6.4).
    pub equality_by_range: bool,
    /// Whether a constant in the first operand decides a comparison (6.4).
    pub left_constants: bool,
    /// Whether a copy of the low half of a number that has no more stays linked to it (6.4).
    pub links_low_halves: bool,
    /// Whether a map itself is known not to be null.
    pub maps_not_null: bool,
    /// Whether not being equal to the end of an interval teaches anything (6.8).
    pub learns_from_unequal: bool,
    /// Whether a pointer that equals one that is not null is not null (6.2).
    pub learns_not_null: bool,
    /// Whether what a negation or a byte swap gives is known.
    pub unary_results: bool,
    /// Whether the range of `bpf_get_smp_processor_id` is known.
    pub cpu_range: bool,
    /// Whether a barrier stops speculation that goes wrong, instead of the program being refused (6.16).
    pub stops_speculation: bool,
    /// Whether tags of the arguments of global functions count (6.8).
    pub argument_tags: bool,
    /// Whether global functions may be called while preemption is disabled.
    pub globals_without_preemption: bool,
    /// Whether a loop may be closed by any instruction, not by jumps alone (6.7).
    pub loops_anywhere: bool,
    /// Of what a frame's stack counts as a multiple.
    pub stack_granularity: u32,
}

impl Profile {
    /// The profiles that [`Self::named`] knows.
    pub const NAMES: [&'static str; 6] = ["5.15", "6.1", "6.6", "6.12", "6.18", "7.3"];

    /// The profile of a release: `6.12`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "5.15" => Self::linux_5_15(),
            "6.1" => Self::linux_6_1(),
            "6.6" => Self::linux_6_6(),
            "6.12" => Self::linux_6_12(),
            "6.18" => Self::linux_6_18(),
            "7.3" => Self::linux_7_3(),
            _ => return None,
        })
    }

    /// Linux 5.15.
    #[must_use]
    pub fn linux_5_15() -> Self {
        Self {
            name: Cow::Borrowed("5.15"),
            version: KernelVersion(5, 15),
            unwritten_stack: false,
            stored_constants: false,
            narrow_spills: false,
            ..Self::linux_6_1()
        }
    }

    /// Linux 6.1.
    #[must_use]
    pub fn linux_6_1() -> Self {
        Self {
            name: Cow::Borrowed("6.1"),
            version: KernelVersion(6, 1),
            learns_not_null: false,
            equality_by_range: false,
            left_constants: false,
            links_low_halves: false,
            ..Self::linux_6_6()
        }
    }

    /// Linux 6.6.
    #[must_use]
    pub fn linux_6_6() -> Self {
        Self {
            name: Cow::Borrowed("6.6"),
            version: KernelVersion(6, 6),
            fastcall: false,
            linked_sums: false,
            calls_under_lock: false,
            follows_spills: false,
            whole_stack: false,
            compares_ranges: false,
            learns_from_unequal: false,
            cpu_range: false,
            maps_not_null: false,
            argument_tags: false,
            loops_anywhere: false,
            stack_granularity: 32,
            ..Self::linux_6_12()
        }
    }

    /// Linux 6.12.
    #[must_use]
    pub fn linux_6_12() -> Self {
        Self {
            name: Cow::Borrowed("6.12"),
            version: KernelVersion(6, 12),
            private_stacks: false,
            known_keys: false,
            arena_signs: false,
            unary_results: false,
            stops_speculation: false,
            globals_without_preemption: false,
            ..Self::linux_6_18()
        }
    }

    /// Linux 6.18.
    #[must_use]
    pub fn linux_6_18() -> Self {
        Self {
            name: Cow::Borrowed("6.18"),
            version: KernelVersion(6, 18),
            max_processed: 1_000_000,
            max_pending: 8192,
            percpu_direct: false,
            nr_cpus: 8192,
            private_stacks: true,
            fastcall: true,
            known_keys: true,
            linked_sums: true,
            calls_under_lock: true,
            arena_signs: true,
            unwritten_stack: true,
            stored_constants: true,
            narrow_spills: true,
            follows_spills: true,
            whole_stack: true,
            compares_ranges: true,
            learns_from_unequal: true,
            learns_not_null: true,
            equality_by_range: true,
            left_constants: true,
            links_low_halves: true,
            maps_not_null: true,
            unary_results: true,
            cpu_range: true,
            stops_speculation: true,
            argument_tags: true,
            globals_without_preemption: true,
            loops_anywhere: true,
            stack_granularity: 16,
        }
    }

    /// Linux 7.3.
    #[must_use]
    pub fn linux_7_3() -> Self {
        Self { name: Cow::Borrowed("7.3"), version: KernelVersion(7, 3), percpu_direct: true, ..Self::linux_6_18() }
    }
}

impl Default for Profile {
    /// Linux 6.18 and what `skep` itself adds: direct addresses of per-CPU data.
    fn default() -> Self {
        Self { name: Cow::Borrowed("skep"), ..Self::linux_7_3() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_a_profile_of_that_name() {
        for name in Profile::NAMES {
            let profile = Profile::named(name).unwrap();
            assert_eq!(profile.name, name);
            assert_eq!(profile.version.to_string(), name);
        }
        assert_eq!(Profile::named("6.19"), None);
    }
}
