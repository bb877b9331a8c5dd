//! A loaded object: its programs and maps by name.

use std::sync::Arc;

use skep_runtime::map::Map;

use crate::engine::Engine;
use crate::object::Object;
use crate::program::Program;
use crate::typed::{MapTypeError, TypedMap};

/// A name that the object does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {what} named '{name}'; there are {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
pub struct NotFound {
    /// `program` or `map`.
    pub what: &'static str,
    /// The name asked for.
    pub name: String,
    /// The names that there are.
    pub known: Vec<String>,
}

/// A loaded object. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Loaded(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    engine: Engine,
    object: Object,
    maps: Vec<Map>,
    programs: Vec<Option<Program>>,
}

impl Loaded {
    pub(crate) fn new(engine: Engine, object: Object, maps: Vec<Map>, programs: Vec<Option<Program>>) -> Self {
        Self(Arc::new(Inner { engine, object, maps, programs }))
    }

    /// The engine that it lives in.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The object that it was made from.
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    /// The programs that were loaded, in the object's order.
    pub fn programs(&self) -> impl Iterator<Item = &Program> {
        self.0.programs.iter().flatten()
    }

    /// The program with this name.
    ///
    /// # Errors
    /// There is none, or it was not loaded.
    pub fn program(&self, name: &str) -> Result<Program, NotFound> {
        self.programs().find(|program| program.name() == name).cloned().ok_or_else(|| NotFound {
            what: "program",
            name: name.to_owned(),
            known: self.programs().map(|program| program.name().to_owned()).collect(),
        })
    }

    /// The maps with the names that the object gives them (`.bss` for a data section), in the object's order.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.0.object.maps().iter().map(|spec| spec.name.as_str()).zip(&self.0.maps)
    }

    /// The map with this name, its keys and values as bytes.
    ///
    /// # Errors
    /// There is none.
    pub fn raw_map(&self, name: &str) -> Result<Map, NotFound> {
        self.maps().find(|(known, _)| *known == name).map(|(_, map)| map.clone()).ok_or_else(|| NotFound {
            what: "map",
            name: name.to_owned(),
            known: self.maps().map(|(known, _)| known.to_owned()).collect(),
        })
    }

    /// The map with this name, with keys `K` and values `V`.
    ///
    /// # Errors
    /// There is none, or its keys or values have other sizes.
    pub fn map<K, V>(&self, name: &str) -> Result<TypedMap<K, V>, MapTypeError> {
        TypedMap::new(self.raw_map(name)?)
    }
}
