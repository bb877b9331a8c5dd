//! A loaded object: its programs and maps by name.

use std::sync::{Arc, Mutex};

use skep_runtime::map::Map;
use skep_runtime::map::prog_array::{ProgArray, TailCallee};

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
    maps: Vec<Option<Map>>,
    programs: Vec<Option<Seat>>,
}

/// A program of the object.
#[derive(Debug)]
struct Seat {
    program: skep_runtime::Program,
    /// The object that its current version came from, once it has been replaced.
    behind: Mutex<Option<Loaded>>,
}

impl Loaded {
    pub(crate) fn new(
        engine: Engine,
        object: Object,
        maps: Vec<Option<Map>>,
        programs: Vec<Option<skep_runtime::Program>>,
    ) -> Self {
        let seat = |program| Seat { program, behind: Mutex::new(None) };
        let programs = programs.into_iter().map(|program| program.map(seat)).collect();
        Self(Arc::new(Inner { engine, object, maps, programs }))
    }

    /// Where the object behind a replaced program is kept.
    pub(crate) fn behind(&self, index: usize) -> Option<&Mutex<Option<Loaded>>> {
        self.0.programs.get(index)?.as_ref().map(|seat| &seat.behind)
    }

    /// Puts a program into all slots of the object's prog arrays that hold the program with this number.
    pub(crate) fn replace_in_arrays(&self, old: u32, new: &Arc<dyn TailCallee>) {
        for array in self.0.maps.iter().flatten().filter_map(|map| map.downcast::<ProgArray>()) {
            array.replace(old, new);
        }
    }

    /// The engine that it lives in.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The object that it was made from, as it was loaded: its initial values can be read and no longer set.
    ///
    /// ```compile_fail,E0596
    /// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/percpu_counters.bpf.o");
    /// let loaded = skep::Engine::new()?.load(skep::Object::open(path)?)?;
    /// loaded.object().set_initial_value(".percpu", &[0; 48])?; // borrowed as shared
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    /// The programs that were loaded, in the object's order.
    pub fn programs(&self) -> impl Iterator<Item = Program> {
        let seats = self.0.programs.iter().enumerate();
        seats.filter_map(|(index, seat)| Some(Program::new(seat.as_ref()?.program.clone(), self.clone(), index)))
    }

    /// The program with this name.
    ///
    /// # Errors
    /// There is none, or it was not loaded.
    pub fn program(&self, name: &str) -> Result<Program, NotFound> {
        self.programs().find(|program| program.name() == name).ok_or_else(|| NotFound {
            what: "program",
            name: name.to_owned(),
            known: self.programs().map(|program| program.name().to_owned()).collect(),
        })
    }

    /// The maps that were created with the names that the object gives them (`.bss` for a data section), in the object's
    /// order.
    pub fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        let named = self.0.object.maps().iter().zip(&self.0.maps);
        named.filter_map(|(spec, map)| Some((spec.name.as_str(), map.as_ref()?)))
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
