//! The tables of `skep_abi::since` beside what a kernel's own types name: helpers, types of programs, attachments and maps, fields
//! of contexts, kernel functions.
//!
//! Invariant: each table is asked about everything that it could have a row for. Kernel counterpart: the enumerations of
//! include/uapi/linux/bpf.h and the functions in `/sys/kernel/btf/vmlinux`, each release.

use std::collections::BTreeSet;

use skep_abi::ctx::ctx_layout_for;
use skep_abi::helper::helper_name;
use skep_abi::kfunc::KFUNCS;
use skep_abi::since::{self, KernelVersion};
use skep_abi::{AttachType, MapType, ProgType};
use skep_btf::{Btf, Kind};
use skep_verifier::Profile;

/// Facts about which the tables and the kernel's types differ: what it is about, and who says what.
///
/// # Errors
/// The types lack one of the enumerations, or there is no such profile.
pub fn differences(profile: &str, kernel: &Btf) -> Result<Vec<(String, String)>, String> {
    let version = Profile::named(profile).ok_or_else(|| format!("no profile {profile}"))?.version;
    let mut found = Found { version, list: Vec::new() };
    let helpers = numbers(kernel, "bpf_func_id")?;
    for id in 1u32.. {
        let Some(name) = id.try_into().ok().and_then(helper_name) else { break };
        found.compare(&format!("helper {name}"), since::helper(id), helpers.contains(&u64::from(id)));
    }
    let types = numbers(kernel, "bpf_prog_type")?;
    for ty in ProgType::ALL {
        found.compare(&format!("program type {ty}"), since::prog_type(*ty), types.contains(&(*ty as u64)));
    }
    let types = numbers(kernel, "bpf_attach_type")?;
    for ty in AttachType::ALL {
        found.compare(&format!("attach type {ty}"), since::attach_type(*ty), types.contains(&(*ty as u64)));
    }
    let types = numbers(kernel, "bpf_map_type")?;
    for ty in MapType::ALL {
        found.compare(&format!("map type {ty}"), since::map_type(*ty), types.contains(&(*ty as u64)));
    }
    let mut structures = BTreeSet::new();
    for prog in ProgType::ALL {
        for attach in AttachType::ALL {
            let Some(layout) = ctx_layout_for(*prog, *attach) else { continue };
            let Some(structure) = kernel.find(&layout.btf_name, Kind::Struct) else { continue };
            for field in layout.fields.iter() {
                let what = format!("field {}.{}", layout.btf_name, field.name);
                if structures.insert(what.clone()) {
                    // Elements of an array and registers of a process are members of a member.
                    let member = field.name.split('[').next().unwrap_or_default();
                    let there = ["regs", member].iter().any(|name| kernel.find_member(structure, name).is_some());
                    found.compare(&what, since::ctx_field(&layout.btf_name, field.name), there);
                }
            }
        }
    }
    for proto in KFUNCS {
        let there = kernel.find(proto.name, Kind::Func).is_some();
        found.compare(&format!("kernel function {}", proto.name), since::kfunc(proto.name), there);
    }
    Ok(found.list)
}

struct Found {
    version: KernelVersion,
    list: Vec<(String, String)>,
}

impl Found {
    fn compare(&mut self, what: &str, since: KernelVersion, there: bool) {
        if (since <= self.version) != there {
            let kernel = if there { "has it" } else { "does not have it" };
            self.list.push((what.to_owned(), format!("dated {since}, and this kernel {kernel}")));
        }
    }
}

/// The values of an enumeration, but for those that only count or end it.
fn numbers(kernel: &Btf, name: &str) -> Result<BTreeSet<u64>, String> {
    let id = kernel.find(name, Kind::Enum).ok_or_else(|| format!("the kernel's types lack enum {name}"))?;
    let values = kernel.get(id).and_then(|ty| ty.as_enum()).ok_or_else(|| format!("{name} is no enumeration"))?;
    let named = values.values.iter().map(|value| (kernel.str_at(value.name), value.value));
    Ok(named.filter(|(name, _)| !name.starts_with("__")).map(|(_, value)| value).collect())
}
