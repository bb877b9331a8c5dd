//! Whether the profile's kernel has what the program uses.
//!
//! Owns the comparison of the program with `skep_abi::since`. Invariant: only what some path executes counts, as in the kernel,
//! where code that no path reaches may call what is not there.

use skep_abi::ctx::CtxAccess;
use skep_abi::since::{self, KernelVersion};
use skep_abi::{CallTarget, Errno, Insn, MapType};

use crate::env::{Check, Env};
use crate::state::reg::Base;
use crate::verified::RejectionKind;

impl Env<'_> {
    /// Refuses what came after the profile's release: the load itself, before anything else.
    pub(crate) fn check_release(&mut self) -> Check {
        let spec = self.spec;
        self.since(since::prog_type(spec.prog_type), || format!("programs of type {}", spec.prog_type))?;
        if since::checks_attach_type(spec.prog_type) {
            self.since(since::attach_type(spec.attach_type), || format!("attach type {}", spec.attach_type))?;
        }
        self.since(since::prog_flags(spec.flags.0), || format!("load flags {:#x}", spec.flags.0))
    }

    /// The same for everything that some path has executed.
    pub(crate) fn check_release_of_insns(&mut self) -> Check {
        for at in 0..u32::try_from(self.code.len()).unwrap_or(u32::MAX) {
            let aux = self.aux[at as usize];
            let Some(insn) = self.insn_at(at).filter(|_| aux.processed > 0) else { continue };
            self.insn = at;
            self.since(since::insn(insn), || "this instruction".to_owned())?;
            match insn {
                Insn::Call { target: CallTarget::Helper(id) } => {
                    let own = |id| self.spec.helpers.is_some_and(|t| t.get(id).is_some());
                    let id = u32::try_from(id).unwrap_or(u32::MAX);
                    if !own(id) {
                        let since = since::helper(id).max(since::helper_in(self.spec.prog_type, id));
                        self.since(since, || Self::helper_label(id.cast_signed()))?;
                    }
                }
                Insn::Call { target: CallTarget::Kfunc { id, .. } } => {
                    let name = self.kfunc_name(id).unwrap_or("?").to_owned();
                    self.since(since::kfunc(&name), || format!("kernel function {name}"))?;
                }
                Insn::Load { sign_extend: true, .. }
                    if aux.ptr_type.is_some_and(|ty| ty.base == Base::Arena) && !self.options.profile.arena_signs =>
                {
                    let text = "sign extending loads from arena are not supported yet".to_owned();
                    return Err(self.reject(Errno::ENOTSUP, RejectionKind::Safety, text));
                }
                Insn::LdImm64 { imm, .. } => self.check_release_of_map(imm)?,
                Insn::Load { size, off, .. } | Insn::Store { size, off, .. }
                    if aux.ptr_type.is_some_and(|ty| ty.base == Base::Ctx) && self.spec.ctx.is_none() =>
                {
                    let write = matches!(insn, Insn::Store { .. });
                    self.check_release_of_field(i32::from(off), u32::from(size.bytes()), write)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_release_of_map(&mut self, imm: skep_abi::Imm64) -> Check {
        use skep_abi::Imm64 as I;
        let (I::MapFd(map) | I::MapIdx(map) | I::MapValue { fd: map, .. } | I::MapIdxValue { idx: map, .. }) = imm
        else {
            return Ok(());
        };
        let shape = usize::try_from(map).ok().and_then(|map| self.spec.maps.get(map));
        let map_type = shape.map_or(MapType::Array, |shape| shape.map_type);
        self.since(since::map_type(map_type), || format!("maps of type {map_type}"))
    }

    fn check_release_of_field(&mut self, off: i32, size: u32, write: bool) -> Check {
        let layout = skep_abi::ctx::ctx_layout_for(self.spec.prog_type, self.spec.attach_type);
        let found = layout.zip(u32::try_from(off).ok()).and_then(|(l, off)| Some((l, l.find(off, size, write)?)));
        let Some((layout, CtxAccess::Field(field))) = found else { return Ok(()) };
        let since = since::ctx_field(&layout.btf_name, field.name);
        self.since(since, || format!("field {} of struct {}", field.name, layout.btf_name))
    }

    fn since(&mut self, since: KernelVersion, what: impl FnOnce() -> String) -> Check {
        let have = self.options.profile.version;
        if since <= have {
            return Ok(());
        }
        let text = format!("{} came with Linux {since}, and this is verified as by Linux {have}", what());
        Err(self.reject(Errno::EINVAL, RejectionKind::Safety, text))
    }
}
