//! In which order C wants to see types.
//!
//! Owns the walk that puts a definition after what it needs: complete types for members and array elements, declared
//! names behind pointers and in prototypes. Invariant: each type is walked at most twice (as a name, as a complete type)
//! with a stack of its own. Kernel counterpart: `btf_dump_order_type`, tools/lib/bpf/btf_dump.c, 6.18.

use crate::error::{Error, Result};
use crate::types::{Kind, TypeData, TypeId};

use super::c::CDump;

/// How much of a type is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Its name declared.
    Name,
    /// Its definition complete.
    Whole,
}

/// What to do next.
enum Task {
    Walk(TypeId, Need),
    Define(TypeId),
}

/// What has been done for one type.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    walked_name: bool,
    walked_whole: bool,
    /// A forward declaration or a definition was printed.
    pub(crate) declared: bool,
    pub(crate) defined: bool,
}

impl CDump<'_> {
    /// Prints what `root` needs, then `root` itself where it is something to define.
    pub(crate) fn order(&mut self, root: TypeId, need: Need) -> Result<()> {
        let mut work = vec![Task::Walk(root, need)];
        while let Some(task) = work.pop() {
            match task {
                Task::Walk(id, need) => self.walk(id, need, &mut work)?,
                Task::Define(id) => self.define(id)?,
            }
        }
        Ok(())
    }

    fn walk(&mut self, id: TypeId, need: Need, work: &mut Vec<Task>) -> Result<()> {
        if id.is_void() {
            return Ok(());
        }
        let progress = self.progress_mut(id)?;
        let walked = match need {
            Need::Name => &mut progress.walked_name,
            Need::Whole => &mut progress.walked_whole,
        };
        if std::mem::replace(walked, true) {
            return Ok(());
        }
        let btf = self.btf();
        let ty = btf.ty(id)?;
        let named = ty.name.0 != 0;
        match &ty.data {
            TypeData::Ptr(to) => work.push(Task::Walk(*to, Need::Name)),
            TypeData::Const(to) | TypeData::Volatile(to) | TypeData::Restrict(to) => work.push(Task::Walk(*to, need)),
            TypeData::TypeTag { ty: to, .. } => work.push(Task::Walk(*to, need)),
            TypeData::Array(array) => work.push(Task::Walk(array.elem, Need::Whole)),
            TypeData::FuncProto(proto) => {
                work.extend(proto.params.iter().rev().map(|p| Task::Walk(p.ty, Need::Name)));
                work.push(Task::Walk(proto.ret, Need::Name));
            }
            TypeData::Typedef(to) => {
                work.push(Task::Define(id));
                work.push(Task::Walk(*to, need));
            }
            TypeData::Struct(_) | TypeData::Union(_) if named && need == Need::Name => self.declare(id)?,
            TypeData::Struct(composite) | TypeData::Union(composite) => {
                if named {
                    work.push(Task::Define(id));
                }
                work.extend(composite.members.iter().rev().map(|m| Task::Walk(m.ty, Need::Whole)));
            }
            TypeData::Enum(_) | TypeData::Enum64(_) if named => work.push(Task::Define(id)),
            TypeData::Fwd { .. } => self.declare(id)?,
            TypeData::Var { ty: to, .. } => work.push(Task::Walk(*to, Need::Whole)),
            TypeData::DataSec(sec) => work.extend(sec.vars.iter().rev().map(|v| Task::Walk(v.ty, Need::Whole))),
            _ => {}
        }
        Ok(())
    }

    /// A forward declaration of a struct or union, once.
    fn declare(&mut self, id: TypeId) -> Result<()> {
        let canonical = self.canonical(id);
        if std::mem::replace(&mut self.progress_mut(canonical)?.declared, true) {
            return Ok(());
        }
        let keyword = match self.btf().get(id).map(|ty| &ty.data) {
            Some(TypeData::Union(_) | TypeData::Fwd { is_union: true }) => "union",
            Some(_) => "struct",
            None => return Err(Error::Internal("an id was not checked")),
        };
        let name = self.name(canonical);
        self.print(format_args!("{keyword} {name};\n\n"))
    }

    fn define(&mut self, id: TypeId) -> Result<()> {
        let progress = self.progress_mut(id)?;
        progress.declared = true;
        if std::mem::replace(&mut progress.defined, true) {
            return Ok(());
        }
        if self.is_defined_elsewhere(id) {
            return Ok(());
        }
        match self.btf().kind(id) {
            Kind::Typedef => self.define_typedef(id),
            _ => {
                let text = self.body(id, 0)?;
                self.print(format_args!("{text};\n\n"))
            }
        }
    }
}
