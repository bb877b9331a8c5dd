//! An object file before load: what it holds, and what may still be changed.
//!
//! Owns the reading of the file and the values that a user sets before load. Invariant: an [`Object`] is plain data, so
//! that it can be cloned, changed and loaded any number of times. Counterpart: `struct bpf_object` between
//! `bpf_object__open` and `bpf_object__load`, libbpf 1.x.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_btf::Btf;
use skep_object::{MapSpec, ObjectSpec, ProgramSpec, VariableSpec};
use zerocopy::{Immutable, IntoBytes};

use crate::extension::Target;

/// Largest object file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Why an object cannot be opened or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is a directory, a FIFO or a device.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is longer than any object.
    #[error("{} has {length} bytes, more than the {MAX_FILE} that are read", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
    /// Its contents are not a BPF object, or what was asked for does not fit it.
    #[error("{name}")]
    Object {
        /// The file or the name that the bytes came with.
        name: String,
        /// What is wrong, with section and offset.
        source: skep_object::Error,
    },
}

/// An opened object file.
///
/// ```
/// let object = skep::Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_firewall.bpf.o"))?;
/// let object = object.set_rodata("drop_fragments", 0u8)?;
/// let names: Vec<&str> = object.programs().iter().map(|p| p.name.as_str()).collect();
/// assert_eq!(names, ["firewall"]);
/// # Ok::<(), skep::ObjectError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Object {
    shown: String,
    spec: ObjectSpec,
    target: Option<Arc<Btf>>,
    /// What its extension programs replace, by program.
    replaces: Vec<(String, Target)>,
}

impl Object {
    /// Reads and parses a file. The object's name is the file's, up to its first dot.
    ///
    /// # Errors
    /// The file cannot be read, is not a regular file, or is not a BPF object.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ObjectError> {
        let path = path.as_ref();
        Self::open_as(path, &path.to_string_lossy())
    }

    /// As [`Object::open`], with a name in the place of the file's.
    ///
    /// # Errors
    /// As for [`Object::open`].
    pub fn open_as(path: impl AsRef<Path>, name: &str) -> Result<Self, ObjectError> {
        let path = path.as_ref();
        let io = |source| ObjectError::Io { path: path.to_path_buf(), source };
        let meta = std::fs::metadata(path).map_err(io)?;
        if !meta.is_file() {
            return Err(ObjectError::NotAFile(path.to_path_buf()));
        }
        if meta.len() > MAX_FILE {
            return Err(ObjectError::TooLong { path: path.to_path_buf(), length: meta.len() });
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path).map_err(io)?.take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
        Self::from_bytes(name, &bytes)
    }

    /// Parses the bytes of an object file; `name` is a file name, used in messages and for the object's name.
    ///
    /// # Errors
    /// The bytes are not a BPF object.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, ObjectError> {
        match skep_object::parse(bytes, name) {
            Ok(spec) => Ok(Self::from_spec(name, spec)),
            Err(source) => Err(ObjectError::Object { name: name.to_owned(), source }),
        }
    }

    /// An object that was put together rather than read; `shown` stands for its file in messages.
    #[must_use]
    pub fn from_spec(shown: impl Into<String>, spec: ObjectSpec) -> Self {
        Self { shown: shown.into(), spec, target: None, replaces: Vec::new() }
    }

    /// The file, as it was named when opened.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.shown
    }

    /// The parsed object.
    #[must_use]
    pub fn spec(&self) -> &ObjectSpec {
        &self.spec
    }

    /// The parsed object, to change it.
    pub fn spec_mut(&mut self) -> &mut ObjectSpec {
        &mut self.spec
    }

    /// Its programs.
    #[must_use]
    pub fn programs(&self) -> &[ProgramSpec] {
        &self.spec.programs
    }

    /// Its maps, those of its data sections included.
    #[must_use]
    pub fn maps(&self) -> &[MapSpec] {
        &self.spec.maps
    }

    /// Its global variables.
    #[must_use]
    pub fn variables(&self) -> &[VariableSpec] {
        &self.spec.variables
    }

    /// Its types; `None` for an object compiled without `-g`.
    #[must_use]
    pub fn btf(&self) -> Option<&Btf> {
        self.spec.btf.as_deref()
    }

    /// The types that CO-RE relocations are resolved against; the object's own unless set.
    #[must_use]
    pub fn target_btf(&self) -> Option<&Btf> {
        self.target.as_deref()
    }

    /// Resolves CO-RE relocations against these types, e.g. those of the kernel that a program is written for.
    #[must_use]
    pub fn with_target_btf(mut self, target: Arc<Btf>) -> Self {
        self.target = Some(target);
        self
    }

    /// What an extension program of the object replaces.
    pub(crate) fn replaces(&self, program: &str) -> Option<&Target> {
        self.replaces.iter().find(|(name, _)| name == program).map(|(_, target)| target)
    }

    pub(crate) fn add_target(&mut self, program: &str, target: Target) {
        self.replaces.retain(|(name, _)| name != program);
        self.replaces.push((program.to_owned(), target));
    }

    /// Leaves out extension programs of which nobody said what they replace.
    pub(crate) fn leave_out_untargeted(&mut self) {
        let replaces = &self.replaces;
        for program in &mut self.spec.programs {
            let is_extension = program.sec.as_ref().is_some_and(|sec| sec.prog_type == skep_abi::ProgType::Ext);
            if is_extension {
                program.autoload = replaces.iter().any(|(name, _)| *name == program.name);
            }
        }
    }

    /// Whether its licence lets programs call GPL-only helpers.
    #[must_use]
    pub fn is_gpl_compatible(&self) -> bool {
        const COMPATIBLE: [&str; 6] =
            ["GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"];
        COMPATIBLE.contains(&self.spec.license.as_str())
    }

    /// Sets the initial value of a variable of `.rodata` (or of `.data`, `.bss`, `.percpu`) and returns the object.
    ///
    /// # Errors
    /// There is no such variable, or it has another size.
    pub fn set_rodata<T: IntoBytes + Immutable>(mut self, name: &str, value: T) -> Result<Self, ObjectError> {
        self.set_variable(name, value.as_bytes())?;
        Ok(self)
    }

    /// Sets the bytes that a variable has at load.
    ///
    /// # Errors
    /// There is no such variable, or `bytes` has not exactly its size.
    pub fn set_variable(&mut self, name: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let result = self.spec.set_variable(name, bytes);
        self.checked(result)
    }

    /// The initial value of a data section's map, of its whole size; `None` for other maps. Of `.percpu` sections, every
    /// vCPU begins with it.
    #[must_use]
    pub fn initial_value(&self, map: &str) -> Option<Cow<'_, [u8]>> {
        self.spec.map(map)?.initial_value()
    }

    /// Sets the whole initial value of a data section's map.
    ///
    /// # Errors
    /// There is no such map, it is not of a data section, or `bytes` has not exactly its size.
    pub fn set_initial_value(&mut self, map: &str, bytes: &[u8]) -> Result<(), ObjectError> {
        let result = self.spec.set_initial_value(map, bytes);
        self.checked(result)
    }

    /// Sets how many entries a map has.
    ///
    /// # Errors
    /// There is no such map, or it is of a data section.
    pub fn set_max_entries(&mut self, map: &str, entries: u32) -> Result<(), ObjectError> {
        let result = self.spec.set_max_entries(map, entries);
        self.checked(result)
    }

    /// Says whether a map is created with the object. A program that can reach a use of one that is not is refused.
    ///
    /// # Errors
    /// There is no such map.
    pub fn set_autocreate(&mut self, map: &str, create: bool) -> Result<(), ObjectError> {
        let result = self.spec.set_autocreate(map, create);
        self.checked(result)
    }

    /// Says whether a program is loaded with the object.
    ///
    /// # Errors
    /// There is no such program.
    pub fn set_autoload(&mut self, program: &str, load: bool) -> Result<(), ObjectError> {
        let result = self.spec.set_autoload(program, load);
        self.checked(result)
    }

    fn checked(&self, result: skep_object::Result<()>) -> Result<(), ObjectError> {
        result.map_err(|source| ObjectError::Object { name: self.shown.clone(), source })
    }
}
