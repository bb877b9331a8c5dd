//! The part of crate `skep` that generated code mentions, with maps that are two vCPUs' bytes behind a lock.
//!
//! `skep-skel` is below that crate; its own tests run generated code against this.
#![expect(missing_docs, reason = "the names are those of crate skep")]

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

use skep_object::{MapKind, ObjectSpec};

/// A handle of nothing.
#[derive(Clone, Debug)]
pub struct Program;

/// A map with types.
#[derive(Debug)]
pub struct TypedMap<K, V>(PhantomData<fn(K) -> V>);

impl<K, V> Clone for TypedMap<K, V> {
    fn clone(&self) -> Self {
        Self(PhantomData)
    }
}

/// The one value of a map.
#[derive(Clone, Debug)]
pub struct RawMap(Arc<Mutex<Vec<u8>>>);

impl RawMap {
    pub fn lookup(&self, _key: &[u8], _flags: u64) -> Result<Vec<u8>, String> {
        Ok(self.0.lock().map_err(|e| e.to_string())?.clone())
    }

    pub fn update(&self, _key: &[u8], value: &[u8], _flags: u64) -> Result<(), String> {
        value.clone_into(&mut *self.0.lock().map_err(|e| e.to_string())?);
        Ok(())
    }
}

/// An object that was parsed.
#[derive(Clone, Debug)]
pub struct Object(ObjectSpec);

impl Object {
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, skep_object::Error> {
        skep_object::parse(bytes, name).map(Self)
    }

    pub fn spec(&self) -> &ObjectSpec {
        &self.0
    }

    pub fn set_initial_value(&mut self, map: &str, bytes: &[u8]) -> Result<(), skep_object::Error> {
        self.0.set_initial_value(map, bytes)
    }
}

/// An object with its maps.
#[derive(Clone, Debug)]
pub struct Loaded(Arc<(Object, HashMap<String, RawMap>)>);

impl Loaded {
    pub fn object(&self) -> &Object {
        &self.0.0
    }

    pub fn raw_map(&self, name: &str) -> Result<RawMap, String> {
        self.0.1.get(name).cloned().ok_or_else(|| name.to_owned())
    }

    pub fn map<K, V>(&self, name: &str) -> Result<TypedMap<K, V>, String> {
        let spec = self.0.0.spec().map(name).ok_or_else(|| name.to_owned())?;
        assert_eq!((spec.key_size as usize, spec.value_size as usize), (size_of::<K>(), size_of::<V>()));
        Ok(TypedMap(PhantomData))
    }

    pub fn program(&self, name: &str) -> Result<Program, String> {
        self.0.0.spec().program(name).map(|_| Program).ok_or_else(|| name.to_owned())
    }
}

/// What loads.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    pub fn load(&self, object: Object) -> Result<Loaded, String> {
        let mut maps = HashMap::new();
        for map in &object.0.maps {
            let mut value = map.initial_value().map(|v| v.into_owned()).unwrap_or_default();
            if map.kind == MapKind::PerCpu {
                value.resize(value.len().next_multiple_of(8), 0);
                value = value.repeat(2);
            }
            maps.insert(map.name.clone(), RawMap(Arc::new(Mutex::new(value))));
        }
        Ok(Loaded(Arc::new((object, maps))))
    }
}
