//! Exceptions: `bpf_throw`, and the function that handles what it throws.
//!
//! Owns the end of a path by throwing. Invariant: nothing is held where a program throws, at any depth, since no frame of it
//! runs on. Kernel counterpart: `bpf_find_exception_callback_insn_off`, `process_bpf_exit_full`,
//! kernel/bpf/verifier.c, 6.18.

use skep_abi::Errno;
use skep_btf::{Kind, Linkage, TypeData};

use crate::check::global::Arg;
use crate::env::{Check, Env, reject};
use crate::explore::Flow;
use crate::verified::RejectionKind;

impl Env<'_> {
    /// First slot of the program's exception callback, which a declaration tag of its main function names.
    pub(crate) fn find_exception_callback(&mut self) -> Check<Option<u32>> {
        let Some(btf) = self.spec.btf else { return Ok(None) };
        let Some(main) = self.spec.func_info.iter().find(|info| info.insn_off == 0) else { return Ok(None) };
        let mut tags = btf.decl_tags(main.type_id, -1).filter_map(|tag| tag.strip_prefix("exception_callback:"));
        let Some(name) = tags.next() else { return Ok(None) };
        let malformed = RejectionKind::Malformed;
        if tags.next().is_some() {
            let text = "multiple exception callback tags for main subprog".to_owned();
            return Err(self.reject(Errno::EEXIST, malformed, text));
        }
        let Some(func) = btf.find(name, Kind::Func) else {
            let text = format!("exception callback '{name}' could not be found in BTF");
            return Err(self.reject(Errno::ENOENT, malformed, text));
        };
        let global = btf.get(func).is_some_and(|ty| matches!(ty.data, TypeData::Func { linkage: Linkage::Global, .. }));
        if !global {
            let text = format!("exception callback '{name}' must have global linkage");
            return Err(self.reject(Errno::EINVAL, malformed, text));
        }
        match self.spec.func_info.iter().find(|info| info.type_id == func).map(|info| info.insn_off) {
            Some(0) => {
                let text = "invalid exception callback insn_off in func_info: 0".to_owned();
                Err(self.reject(Errno::EINVAL, malformed, text))
            }
            Some(start) => Ok(Some(start)),
            None => {
                let text = "exception callback type id not found in func_info".to_owned();
                Err(self.reject(Errno::EINVAL, malformed, text))
            }
        }
    }

    /// What the exception callback may take and give, as it is entered.
    pub(crate) fn enter_exception_callback(&mut self, sub: usize) -> Check {
        let signature = self.signature(sub)?;
        if signature.args != [Arg::Scalar] {
            let text = "exception cb only supports single integer argument";
            return Err(reject!(self, EINVAL, "{text}"));
        }
        self.cur.frame_mut().in_exception = true;
        Ok(())
    }

    /// `bpf_throw`: ends the program from any depth.
    pub(crate) fn check_throw(&mut self) -> Check<Flow> {
        if self.spec.target.is_some() {
            // It would have to leave the frames of the program that it extends.
            self.need("exceptions of an extension program");
        }
        if self.exception_callback.is_none() {
            // The cookie is what the program returns.
            self.check_return_code(1)?;
        }
        self.clear_caller_saved();
        self.check_resource_leak(true, true, "bpf_throw")?;
        Ok(Flow::End)
    }
}
