//! Making and changing types.
//!
//! Owns the only way to a [`Btf`] that does not start with bytes. Invariant: [`Builder::finish`] checks what was built
//! by the same rules as what was parsed. Kernel counterpart: none; libbpf's `btf__add_*` serve the same need.

use std::collections::HashMap;

use crate::MAX_TYPES;
use crate::check::Rules;
use crate::error::{Error, Result};
use crate::graph::Btf;
use crate::strings::Strings;
use crate::types::{StrOff, Type, TypeData, TypeId};

/// Types in the making.
#[derive(Debug, Clone)]
pub struct Builder {
    types: Vec<Type>,
    strings: Strings,
    /// Strings there are already, so that a name is stored once.
    offsets: HashMap<String, StrOff>,
}

impl Default for Builder {
    fn default() -> Self {
        Self { types: vec![Type::VOID], strings: Strings::default(), offsets: HashMap::new() }
    }
}

impl Builder {
    /// Nothing but `void`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn from_parts(types: Vec<Type>, strings: Strings) -> Self {
        let mut offsets = HashMap::new();
        let mut start = 0u32;
        for text in strings.as_bytes().split(|&b| b == 0) {
            if let Ok(text) = std::str::from_utf8(text) {
                offsets.entry(text.to_owned()).or_insert(StrOff(start));
            }
            start = u32::try_from(text.len()).map_or(u32::MAX, |len| start.saturating_add(len).saturating_add(1));
        }
        Self { types, strings, offsets }
    }

    /// The offset of `text`, appended if it is new.
    pub fn string(&mut self, text: &str) -> Result<StrOff> {
        if text.is_empty() {
            return Ok(StrOff(0));
        }
        if let Some(&off) = self.offsets.get(text) {
            return Ok(off);
        }
        let off = self.strings.push(text)?;
        self.offsets.insert(text.to_owned(), off);
        Ok(off)
    }

    /// Appends a type; ids in it may be of types that come later.
    pub fn add(&mut self, name: &str, data: TypeData) -> Result<TypeId> {
        let name = self.string(name)?;
        self.push(Type { name, data })
    }

    /// Appends a type whose names are offsets that [`Builder::string`] gave.
    pub fn push(&mut self, ty: Type) -> Result<TypeId> {
        if self.types.len() > MAX_TYPES {
            return Err(Error::TooLarge { what: "types", have: self.types.len(), max: MAX_TYPES });
        }
        let id = u32::try_from(self.types.len()).map_err(|_| Error::Internal("more types than the limit"))?;
        self.types.push(ty);
        Ok(TypeId(id))
    }

    /// The id that the next type gets.
    #[must_use]
    pub fn next_id(&self) -> TypeId {
        TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX))
    }

    /// The type with this id.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.types.get(id.index())
    }

    /// The type with this id, to change it; not `void`.
    pub fn get_mut(&mut self, id: TypeId) -> Option<&mut Type> {
        if id.is_void() { None } else { self.types.get_mut(id.index()) }
    }

    /// The types in order of id, without `void`.
    pub fn types(&self) -> impl Iterator<Item = (TypeId, &Type)> {
        (0u32..).map(TypeId).zip(&self.types).skip(1)
    }

    /// The strings so far.
    #[must_use]
    pub fn strings(&self) -> &Strings {
        &self.strings
    }

    /// The types so far as a `.BTF` section, unchecked: for tests that need what no compiler writes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        crate::write::write(self.types.get(1..).unwrap_or_default(), &self.strings)
    }

    /// Checks the types and freezes them.
    pub fn finish(self, rules: Rules) -> Result<Btf> {
        Btf::from_parts(self.types, self.strings, rules)
    }
}
