//! Skeletons from a build script.
//!
//! Owns the only IO of this crate: reading an object (or having clang make one) and writing its skeleton. Invariant: a
//! file is written only if its text changed, so that builds do not run again for nothing. Kernel counterpart: none.
//!
//! ```no_run
//! // build.rs
//! fn main() -> Result<(), skep_skel::BuildError> {
//!     skep_skel::Builder::from_source("src/firewall.bpf.c").build("firewall")
//! }
//! // main.rs: include!(concat!(env!("OUT_DIR"), "/firewall.skel.rs"));
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rust::rust_skeleton;

/// Why a build script fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A file cannot be read or written.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The compiler cannot be run.
    #[error("cannot run {compiler}; install it or name another with Builder::clang")]
    NoCompiler {
        /// Its name.
        compiler: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The compiler refused the source.
    #[error("{compiler} refuses {}:\n{messages}", path.display())]
    Compile {
        /// Its name.
        compiler: String,
        /// The source.
        path: PathBuf,
        /// What it said.
        messages: String,
    },
    /// No skeleton can be made of the object.
    #[error("{}", path.display())]
    Skeleton {
        /// The object.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<crate::Error>,
    },
    /// Not in a build script.
    #[error("OUT_DIR is not set; call build from a build script, or write_to elsewhere")]
    NoOutDir,
}

/// Makes a Rust skeleton of an object or of its C source.
#[derive(Debug, Clone)]
pub struct Builder {
    path: PathBuf,
    is_source: bool,
    clang: String,
    args: Vec<String>,
}

impl Builder {
    /// From a compiled object.
    pub fn from_object(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), is_source: false, clang: String::new(), args: Vec::new() }
    }

    /// From a C source, which is compiled with `clang -O2 -g -target bpf`.
    pub fn from_source(path: impl Into<PathBuf>) -> Self {
        let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
        Self { path: path.into(), is_source: true, clang, args: Vec::new() }
    }

    /// Compiles with another clang than `$CLANG` or `clang`.
    #[must_use]
    pub fn clang(mut self, clang: impl Into<String>) -> Self {
        self.clang = clang.into();
        self
    }

    /// Adds arguments for clang, such as `-I` and a folder.
    #[must_use]
    pub fn clang_args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Writes `$OUT_DIR/NAME.skel.rs` with the module `NAME`, and tells cargo what it depends on.
    ///
    /// # Errors
    /// The source does not compile, the object is refused, or a file cannot be read or written.
    pub fn build(&self, name: &str) -> Result<(), BuildError> {
        let out = std::env::var_os("OUT_DIR").map(PathBuf::from).ok_or(BuildError::NoOutDir)?;
        self.write_to(name, &out)?;
        println!("cargo::rerun-if-changed={}", self.path.display());
        println!("cargo::rerun-if-env-changed=CLANG");
        Ok(())
    }

    /// Writes `NAME.skel.rs` into a folder, and `NAME.bpf.o` beside it if it was compiled; the skeleton's path.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub fn write_to(&self, name: &str, folder: &Path) -> Result<PathBuf, BuildError> {
        let object = if self.is_source { self.compile(name, folder)? } else { self.path.clone() };
        let elf = std::fs::read(&object).map_err(|source| BuildError::Io { path: object.clone(), source })?;
        let refused = |source: crate::Error| BuildError::Skeleton { path: object.clone(), source: source.into() };
        let spec = skep_object::parse(&elf, name).map_err(|source| refused(source.into()))?;
        let text = rust_skeleton(&spec, &elf, name).map_err(refused)?;
        let path = folder.join(format!("{name}.skel.rs"));
        if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(path);
        }
        std::fs::write(&path, text).map_err(|source| BuildError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    fn compile(&self, name: &str, folder: &Path) -> Result<PathBuf, BuildError> {
        let object = folder.join(format!("{name}.bpf.o"));
        let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
        let out = Command::new(&self.clang)
            .args(["-O2", "-g", "-target", "bpf", &include])
            .args(&self.args)
            .arg("-c")
            .arg(&self.path)
            .arg("-o")
            .arg(&object)
            .output()
            .map_err(|source| BuildError::NoCompiler { compiler: self.clang.clone(), source })?;
        if !out.status.success() {
            return Err(BuildError::Compile {
                compiler: self.clang.clone(),
                path: self.path.clone(),
                messages: String::from_utf8_lossy(&out.stderr).into_owned(),
            });
        }
        Ok(object)
    }
}
