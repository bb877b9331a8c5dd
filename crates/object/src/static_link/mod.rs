//! Static linking: several object files become one.
//!
//! Owns the order of the steps. Sections of one name are joined, global symbols are resolved (strong over weak, the first of
//! two weak ones), types are merged with each type once, and what the compiler says of instructions moves with them. What
//! stays undefined stays so: a result can be linked further. Invariant: the same inputs in the same order give the same
//! bytes, and nothing is returned unless every step accepted. Kernel counterpart: `bpf_linker`, tools/lib/bpf/linker.c, 6.18.

mod compat;
mod error;
mod relocations;
mod sections;
mod symbols;
mod types;
mod write;

use std::sync::Arc;

use skep_btf::{Btf, BtfExt};

pub use self::error::LinkError;
use crate::code::Functions;
use crate::elf::Elf;

/// An object file to link.
#[derive(Debug, Clone, Copy)]
pub struct LinkInput<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// The most object files that are linked at once.
const MAX_INPUTS: usize = 1024;

/// Links object files into one.
///
/// # Errors
/// An input is no BPF object, or two of them contradict each other: the same symbol defined twice, a declaration that does
/// not fit its definition, another licence.
pub fn link_objects(inputs: &[LinkInput<'_>]) -> Result<Vec<u8>, LinkError> {
    if inputs.is_empty() || inputs.len() > MAX_INPUTS {
        return Err(LinkError::Inputs { have: inputs.len(), max: MAX_INPUTS });
    }
    let units = inputs.iter().map(Unit::parse).collect::<Result<Vec<_>, _>>()?;
    let mut sections = sections::merge(&units)?;
    let symbols = symbols::resolve(&units, &sections)?;
    relocations::collect(&units, &symbols, &mut sections)?;
    let types = types::merge(&units, &symbols, &sections)?;
    write::write(&sections, &symbols, types.as_ref())
}

/// An input, parsed.
struct Unit<'a> {
    name: &'a str,
    elf: Elf<'a>,
    btf: Option<Arc<Btf>>,
    ext: BtfExt,
}

impl<'a> Unit<'a> {
    fn parse(input: &LinkInput<'a>) -> Result<Self, LinkError> {
        let refused = |source| LinkError::Input { file: input.name.to_owned(), source };
        let elf = Elf::parse(input.bytes).map_err(refused)?;
        // Functions are looked at for their own sake: a damaged input is refused here and not where it was linked to.
        Functions::parse(&elf).map_err(refused)?;
        let (btf, ext) = crate::types::parse(&elf, &Functions::default()).map_err(refused)?;
        Ok(Self { name: input.name, elf, btf, ext })
    }
}
