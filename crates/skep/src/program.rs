//! A loaded program, with what is known about its code.

use std::ops::Deref;

use crate::code::Code;

/// A handle of a loaded program. Clones are handles of the same program.
///
/// It is the runtime's [`Program`](skep_runtime::Program), to run and to ask, plus the listing of its code.
#[derive(Clone, Debug)]
pub struct Program {
    inner: skep_runtime::Program,
    code: Option<Code>,
}

impl Program {
    pub(crate) fn new(inner: skep_runtime::Program, code: Option<Code>) -> Self {
        Self { inner, code }
    }

    /// Its machine code with lines and functions; `None` when it is interpreted.
    #[must_use]
    pub fn listing(&self) -> Option<&Code> {
        self.code.as_ref()
    }
}

impl Deref for Program {
    type Target = skep_runtime::Program;

    fn deref(&self) -> &skep_runtime::Program {
        &self.inner
    }
}
