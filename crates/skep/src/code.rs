//! From the code generator's image to installed code.
//!
//! Owns the two translations at the generator's borders: map handles to its layout, its image to the arena's. Invariant:
//! neither adds anything; what the generator says is what runs. Kernel counterpart: `bpf_jit_binary_pack_finalize`,
//! kernel/bpf/core.c, 6.18.

use skep_jit::{Image, ImageSubprog, MapAccess, MapLayout, PatchSite};
use skep_runtime::map::{Map, MapAccessInfo};
use skep_text::{CodeArena, CodeImage, InstalledCode, Relocation, SiteSpec, TextError};

/// The machine code of a program.
#[derive(Clone, Debug)]
pub struct Code {
    installed: InstalledCode,
    image: std::sync::Arc<Image>,
}

impl Code {
    /// Puts an image into the arena.
    pub(crate) fn install(arena: &CodeArena, image: Image) -> Result<Self, TextError> {
        let relocations: Vec<Relocation> = image
            .relocations
            .iter()
            .map(|reloc| {
                Ok(Relocation {
                    at: reloc.at,
                    kind: match reloc.kind {
                        skep_jit::RelocKind::Rel32 => skep_text::RelocKind::Rel32,
                        skep_jit::RelocKind::Abs64 => skep_text::RelocKind::Abs64,
                        skep_jit::RelocKind::Branch26 => skep_text::RelocKind::Branch26,
                    },
                    target: match reloc.target {
                        skep_jit::RelocTarget::Addr(address) => skep_text::Target::Addr(address),
                        skep_jit::RelocTarget::Image(offset) => skep_text::Target::Image(offset),
                    },
                })
            })
            .collect::<Result<_, TextError>>()?;
        let sites: Vec<SiteSpec> = image.sites.iter().map(|site| SiteSpec { offset: site.offset }).collect();
        let installed = arena.install(CodeImage { bytes: &image.bytes, relocations: &relocations, sites: &sites })?;
        Ok(Self { installed, image: std::sync::Arc::new(image) })
    }

    /// The code as it is now, patched sites included.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.installed.bytes();
        bytes.truncate(self.image.bytes.len());
        bytes
    }

    /// Where it runs.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.installed.addr(0).0
    }

    /// Code offset and rewritten slot of each instruction, ascending.
    #[must_use]
    pub fn lines(&self) -> &[(u32, u32)] {
        &self.image.lines
    }

    /// The functions in it; the first is the program.
    #[must_use]
    pub fn subprogs(&self) -> &[ImageSubprog] {
        &self.image.subprogs
    }

    /// The places in it that are patched while it runs, ascending.
    #[must_use]
    pub fn sites(&self) -> &[PatchSite] {
        &self.image.sites
    }

    /// As the runtime runs it.
    pub(crate) fn parts(&self) -> skep_runtime::Code {
        let stats = self.image.sites.iter().enumerate().find_map(|(index, site)| match site.kind {
            skep_jit::SiteKind::Stats { stub } => Some((index, stub)),
            _ => None,
        });
        skep_runtime::Code {
            installed: self.installed.clone(),
            entry: self.image.entry,
            tail_entry: self.image.tail_entry,
            function_entry: self.image.function_entry,
            functions: self.image.sites.iter().enumerate().filter_map(function_site).collect(),
            stats,
        }
    }

    pub(crate) fn installed(&self) -> &InstalledCode {
        &self.installed
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }
}

/// The function that a site is the start of, and the site's index.
fn function_site((index, site): (usize, &skep_jit::PatchSite)) -> Option<(u32, usize)> {
    match site.kind {
        skep_jit::SiteKind::Function { subprog } => Some((subprog, index)),
        _ => None,
    }
}

/// How compiled code reaches a map.
pub(crate) fn map_layout(map: &Map) -> MapLayout {
    let access = match map.layout() {
        MapAccessInfo::Array { values, stride, max_entries } => MapAccess::Array { values, stride, max_entries },
        MapAccessInfo::PerCpuArray { off, stride, max_entries } => MapAccess::PerCpuArray { off, stride, max_entries },
        MapAccessInfo::ProgArray { targets, max_entries } => MapAccess::ProgArray { targets, max_entries },
        MapAccessInfo::Arena { base, start } => MapAccess::Arena { base, start },
        MapAccessInfo::Hash { lookup } => MapAccess::Hash { lookup },
        // Opaque, and whatever the code generator does not know yet.
        _ => MapAccess::Opaque,
    };
    MapLayout { object: map.object_addr(), access }
}
