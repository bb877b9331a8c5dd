//! The context: which of its bytes a program may read and write.
//!
//! Owns the way from a field of the layout to a register. Invariant: a pointer is loaded only from a whole field. Kernel
//! counterpart: `check_ctx_access`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Reg as R;
use skep_abi::ctx::{CtxAccess, CtxFieldKind, CtxLayout, ctx_layout_for};
use skep_abi::kfunc::kernel_type;

use crate::check::Access;
use crate::env::{Check, Env, reject, unsupported};
use crate::state::reg::{Base, Extra, Reg, RegType, flags};

impl<'a> Env<'a> {
    fn layout(&self) -> Option<&'a CtxLayout> {
        self.spec.ctx.or_else(|| ctx_layout_for(self.spec.prog_type, self.spec.attach_type))
    }

    /// Whether the program iterates over the elements of a map.
    pub(crate) fn is_map_iterator(&self) -> bool {
        self.spec.ctx.is_some_and(|ctx| ctx.btf_name == skep_abi::ctx::BPF_MAP_ELEM.btf_name)
    }

    /// Whether the engine knows this program type's context.
    pub(crate) fn has_context(&self) -> bool {
        self.layout().is_some()
    }

    /// The C structure that a global function's context argument names.
    pub(crate) fn ctx_btf_name(&self) -> Option<&'a str> {
        self.layout().map(|l| l.btf_name.as_ref())
    }

    /// Whether functions may be given the context as plain memory (system-call programs).
    pub(crate) fn ctx_is_memory(&self) -> bool {
        self.spec.prog_type == skep_abi::ProgType::Syscall
    }

    /// A load or store in the context.
    #[expect(clippy::too_many_arguments, reason = "the parts of one instruction")]
    pub(crate) fn check_ctx(
        &mut self,
        n: u8,
        reg: &Reg,
        off: i32,
        size: u8,
        access: Access,
        load: Option<R>,
        sign_extend: bool,
    ) -> Check {
        self.check_unmodified(reg, n)?;
        let at = self.insn;
        let Some(layout) = self.layout() else {
            return Err(unsupported!(self, "the context of this program type is not supported"));
        };
        let write = access == Access::Write;
        let prog_type = self.spec.prog_type;
        let allowed = |off: &u32| self.caps.bpf || !skep_abi::ctx::access_needs_bpf(prog_type, *off, write);
        let found = u32::try_from(off).ok().filter(allowed).and_then(|o| layout.find(o, u32::from(size), write));
        let kind = match found {
            Some(CtxAccess::Field(field)) => field.kind,
            Some(CtxAccess::Region) => CtxFieldKind::Scalar,
            None => {
                let message = format!("invalid bpf_context access off={off} size={size}");
                let refusal = reject!(self, EACCES, "{message}");
                self.print_line(at, "; ");
                return Err(refusal);
            }
        };
        if sign_extend && kind != CtxFieldKind::Scalar {
            return Err(reject!(self, EACCES, "invalid bpf_context access off={off} size={size}"));
        }
        let Some(dst) = load else { return Ok(()) };
        let pointer = |base: Base, extra: Extra| Reg::pointer(RegType::of(base), extra);
        let null = |mut reg: Reg| {
            reg.ty = reg.ty.with(flags::MAYBE_NULL);
            reg
        };
        let mut value = match kind {
            CtxFieldKind::Scalar => self.unknown(),
            CtxFieldKind::PacketData => pointer(Base::Packet, Extra::Range(0)),
            CtxFieldKind::PacketMeta => pointer(Base::PacketMeta, Extra::Range(0)),
            CtxFieldKind::PacketEnd => pointer(Base::PacketEnd, Extra::None),
            CtxFieldKind::Sock => pointer(Base::Socket, Extra::None),
            CtxFieldKind::SockOrNull => null(pointer(Base::Socket, Extra::None)),
            CtxFieldKind::SockCommonOrNull => null(pointer(Base::SockCommon, Extra::None)),
            CtxFieldKind::FlowKeys => pointer(Base::FlowKeys, Extra::None),
            CtxFieldKind::TpBuffer => pointer(Base::TpBuffer, Extra::None),
            CtxFieldKind::Btf(name) => {
                let extra = kernel_type(name).map_or(Extra::None, Extra::Kernel);
                Reg::pointer(RegType::of(Base::BtfId).with(flags::TRUSTED), extra)
            }
            CtxFieldKind::BufOrNull => null(pointer(Base::Buf, Extra::None)),
            CtxFieldKind::RdonlyBufOrNull => {
                null(Reg::pointer(RegType::of(Base::Buf).with(flags::RDONLY), Extra::None))
            }
        };
        if value.ty.maybe_null() {
            value.id = self.new_id();
        }
        self.set_reg(dst.number(), value);
        Ok(())
    }
}
