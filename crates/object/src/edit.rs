//! Changes to an object before it is loaded.
//!
//! Owns every change that a user may make, with its checks. Invariant: after an error nothing has changed; after a
//! success the spec is as valid as before. Kernel counterpart: `bpf_map__set_value_size`,
//! `bpf_map__set_initial_value`, `bpf_program__set_autoload`, tools/lib/bpf/libbpf.c, 6.18.

use std::sync::Arc;

use skep_btf::{Btf, Rules, TypeData, TypeId};

use crate::data::ARENA_PAGE;
use crate::error::{Error, Result, escaped};
use crate::spec::{ExternKind, MapKind, MapSpec, ObjectSpec, ProgramSpec, VariableSpec};
use crate::types::{KCONFIG, MAX_DATA};

impl ObjectSpec {
    /// The program of this name.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&ProgramSpec> {
        self.programs.iter().find(|p| p.name == name)
    }

    /// The map of this name; an internal map answers to its section's name and to the kernel's.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<&MapSpec> {
        self.map_index(name).and_then(|index| self.maps.get(index))
    }

    /// The index of the map of this name.
    #[must_use]
    pub fn map_index(&self, name: &str) -> Option<usize> {
        let by_name = self.maps.iter().position(|m| m.name == name);
        by_name.or_else(|| self.maps.iter().position(|m| m.kind.is_internal() && m.kernel_name == name))
    }

    /// The variable of this name; a global one before a static one.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&VariableSpec> {
        let mut found = self.variables.iter().filter(|v| v.name == name);
        let first = found.clone().next();
        found.find(|v| v.linkage != skep_btf::Linkage::Static).or(first)
    }

    /// Sets the initial value of a `.rodata` variable; `bytes` has exactly its size.
    pub fn set_rodata(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let variable = self.variable(name).ok_or_else(|| not_found("variable", name))?;
        let map = self.maps.get(variable.map).ok_or(Error::Internal("a variable's map is missing"))?;
        if map.kind != MapKind::Rodata {
            let why = format!("it is in {}, not in .rodata", escaped(&map.name));
            return Err(mismatch("variable", name, why));
        }
        self.set_variable(name, bytes)
    }

    /// Sets the initial value of a variable in any data section; `bytes` has exactly its size.
    pub fn set_variable(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let variable = self.variable(name).ok_or_else(|| not_found("variable", name))?;
        if bytes.len() != variable.size as usize {
            let why = format!("{} bytes given, it has {}", bytes.len(), variable.size);
            return Err(mismatch("variable", name, why));
        }
        let (map, offset) = (variable.map, variable.offset as usize);
        self.write_image(map, offset, bytes)
    }

    /// Sets the whole initial value of an internal map; `bytes` has exactly its value's size.
    pub fn set_initial_value(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let index = self.map_index(name).ok_or_else(|| not_found("map", name))?;
        let map = self.maps.get_mut(index).ok_or(Error::Internal("a map is missing"))?;
        if !map.kind.is_internal() || map.kind == MapKind::Kconfig {
            return Err(mismatch("map", name, "it has no initial value to set"));
        }
        if bytes.len() != map.value_size as usize {
            let why = format!("{} bytes given, its value has {}", bytes.len(), map.value_size);
            return Err(mismatch("map", name, why));
        }
        map.image = bytes.to_vec();
        Ok(())
    }

    /// Gives a `.kconfig` extern its value; `bytes` has exactly its size.
    pub fn set_extern(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let found = self.externs.iter_mut().find(|e| e.name == name).ok_or_else(|| not_found("extern", name))?;
        let ExternKind::Kconfig { map, offset, size, is_set, .. } = &mut found.kind else {
            return Err(mismatch("extern", name, "it is a symbol, not a configuration value"));
        };
        if bytes.len() != *size as usize {
            return Err(mismatch("extern", name, format!("{} bytes given, it has {size}", bytes.len())));
        }
        *is_set = true;
        let (map, offset) = (*map, *offset as usize);
        self.write_image(map, offset, bytes)
    }

    fn write_image(&mut self, map: usize, offset: usize, bytes: &[u8]) -> Result<()> {
        let map = self.maps.get_mut(map).ok_or(Error::Internal("a variable's map is missing"))?;
        if map.kind.is_internal() {
            map.image.resize(map.value_size as usize, 0);
        }
        let end = offset.saturating_add(bytes.len());
        let place = map.image.get_mut(offset..end).ok_or(Error::Internal("a variable lies outside its map"))?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    /// Sets the number of entries of a map of `.maps`.
    pub fn set_max_entries(&mut self, name: &str, max_entries: u32) -> Result<()> {
        let index = self.map_index(name).ok_or_else(|| not_found("map", name))?;
        let map = self.maps.get_mut(index).ok_or(Error::Internal("a map is missing"))?;
        if map.kind.is_internal() {
            return Err(mismatch("map", name, "a data section has one entry"));
        }
        let globals = map.arena_globals().len() as u64;
        if globals > u64::from(max_entries).saturating_mul(ARENA_PAGE) {
            return Err(mismatch("map", name, format!("its global variables take {globals} bytes")));
        }
        map.max_entries = max_entries;
        Ok(())
    }

    /// Sets the size of a map's values. A data section can only change where its last variable is an array, which then
    /// takes up the difference; without BTF, or where the size does not fit the array, its types are dropped.
    pub fn set_value_size(&mut self, name: &str, size: u32) -> Result<()> {
        let index = self.map_index(name).ok_or_else(|| not_found("map", name))?;
        let btf = self.btf.clone();
        let map = self.maps.get_mut(index).ok_or(Error::Internal("a map is missing"))?;
        if !map.kind.is_internal() {
            // Types that say another size would be refused when the map is created.
            if map.value_size != size {
                map.value_type = None;
                map.key_type = None;
            }
            map.value_size = size;
            return Ok(());
        }
        if map.kind == MapKind::Kconfig {
            return Err(mismatch("map", name, "its size follows from the externs"));
        }
        if size == 0 || u64::from(size) > MAX_DATA {
            return Err(mismatch("map", name, format!("{size} bytes are not between 1 and {MAX_DATA}")));
        }
        let last_end = self.variables.iter().filter(|v| v.map == index).map(|v| v.offset).max().unwrap_or(0);
        if size <= last_end {
            return Err(mismatch("map", name, format!("its last variable starts at {last_end}")));
        }
        let resized = match (&btf, map.value_type) {
            (Some(btf), Some(sec)) => resize_section(btf, sec, size),
            _ => None,
        };
        if !map.image.is_empty() {
            map.image.resize(size as usize, 0);
        }
        map.value_size = size;
        match resized {
            Some((btf, var_size, type_id)) => {
                let last = self.variables.iter_mut().filter(|v| v.map == index).max_by_key(|v| v.offset);
                if let Some(last) = last {
                    (last.size, last.type_id) = (var_size, Some(type_id));
                }
                self.btf = Some(Arc::new(btf));
            }
            None => map.value_type = None,
        }
        Ok(())
    }

    /// Sets whether a map is created with the object. A program that can reach a use of one that is not is refused.
    pub fn set_autocreate(&mut self, name: &str, autocreate: bool) -> Result<()> {
        let index = self.map_index(name).ok_or_else(|| not_found("map", name))?;
        self.maps.get_mut(index).ok_or(Error::Internal("a map is missing"))?.autocreate = autocreate;
        Ok(())
    }

    /// Sets whether a program is loaded with the object.
    pub fn set_autoload(&mut self, name: &str, autoload: bool) -> Result<()> {
        let found = self.programs.iter_mut().find(|p| p.name == name);
        found.ok_or_else(|| not_found("program", name))?.autoload = autoload;
        Ok(())
    }

    /// Whether everything that is to be loaded can be: configuration values are known, kernel variables are not used,
    /// and the sections of the programs say what they are.
    pub fn check_loadable(&self) -> Result<()> {
        for found in &self.externs {
            let section = KCONFIG.to_owned();
            if let ExternKind::Kconfig { is_set: false, .. } = found.kind
                && !found.is_weak
            {
                let why = "no value is known; set one, or declare it __weak to have 0".into();
                return Err(Error::Extern { name: escaped(&found.name), section, why });
            }
        }
        self.programs.iter().filter(|p| p.autoload).try_for_each(ProgramSpec::check_loadable)
    }
}

impl ProgramSpec {
    /// Whether this program's section and symbols are known.
    pub fn check_loadable(&self) -> Result<()> {
        let bad = |why: String| Error::Program { program: escaped(&self.name), section: escaped(&self.section), why };
        if self.sec.is_none() {
            return Err(bad(
                "the section's name says no program type; name it as libbpf does, e.g. SEC(\"xdp\")".into()
            ));
        }
        match self.ksyms.iter().find(|k| !k.is_weak && !k.is_func) {
            Some(ksym) => Err(bad(format!("kernel variable {} does not exist here", escaped(&ksym.name)))),
            None => Ok(()),
        }
    }
}

/// The BTF with a data section of another size, the size of its last variable, and that variable's new type.
fn resize_section(btf: &Btf, sec: TypeId, size: u32) -> Option<(Btf, u32, TypeId)> {
    let TypeData::DataSec(data) = &btf.get(sec)?.data else { return None };
    let last = *data.vars.last()?;
    let TypeData::Var { ty, linkage } = btf.get(last.ty)?.data else { return None };
    let TypeData::Array(array) = btf.get(btf.resolve(ty))?.data else { return None };
    let elem = btf.size_of(array.elem).ok().filter(|&elem| elem > 0)?;
    let var_size = size.checked_sub(last.offset)?;
    if var_size % elem != 0 {
        return None;
    }
    let mut builder = btf.clone().into_builder();
    let new_array = TypeData::Array(skep_btf::Array { nelems: var_size / elem, ..array });
    let array_id = builder.add("", new_array).ok()?;
    let name = btf.name(last.ty).to_owned();
    let var_id = builder.add(&name, TypeData::Var { ty: array_id, linkage }).ok()?;
    if let TypeData::DataSec(data) = &mut builder.get_mut(sec)?.data {
        data.size = size;
        if let Some(last) = data.vars.last_mut() {
            (last.ty, last.size) = (var_id, var_size);
        }
    }
    Some((builder.finish(Rules::Object).ok()?, var_size, array_id))
}

fn not_found(what: &'static str, name: &str) -> Error {
    Error::NotFound { what, name: escaped(name) }
}

fn mismatch(what: &'static str, name: &str, why: impl Into<String>) -> Error {
    Error::Mismatch { what, name: escaped(name), why: why.into() }
}
