//! Loading: initial values are taken, maps made, programs verified and compiled, descriptors given out.
//!
//! Invariant: what can fail after the engine accepted leaves no map or program behind that C could reach. Counterpart:
//! `bpf_object__load`, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::c_int;

use skep::{LoadError, LoadOptions, Loaded, Object as Opened};
use skep_abi::Errno;
use skep_verifier::Options;

use super::{Object, State};
use crate::boundary::{given, status};
use crate::engine::engine;
use crate::handle::Handle;
use crate::print::{self, chain};

/// Loads an object.
pub(crate) fn load(object: &Object) -> Result<(), Errno> {
    let mut state = object.core().state();
    let State::Open(opened) = &*state else {
        print::warn(format_args!("object '{}' should not be loaded twice", object.name.to_string_lossy()));
        return Err(Errno::EINVAL);
    };
    let wanted = (**opened).clone();
    *state = State::Failed(opened.clone());
    let loaded = try_load(object, wanted)?;
    print::debug(format_args!(
        "object '{}' is loaded: {} maps, {} programs",
        object.name.to_string_lossy(),
        loaded.maps().count(),
        loaded.programs().count()
    ));
    *state = State::Loaded(Box::new(loaded));
    Ok(())
}

fn try_load(object: &Object, mut wanted: Opened) -> Result<Loaded, Errno> {
    let engine = engine()?;
    let mut options = LoadOptions::default().share_data();
    let spec = wanted.spec_mut();
    for (map, spec) in object.maps().iter().zip(&mut spec.maps) {
        if let Some(image) = map.image_bytes() {
            spec.image = image;
        }
        if let Some(reused) = map.reused()? {
            options = options.reuse_map(&spec.name, &reused);
        }
        if spec.pin_by_name {
            print::info(format_args!("map '{}' is not pinned: there is no bpffs here", spec.name));
        }
    }
    write_logs(object, &wanted)?;
    let loaded = engine.load_with(wanted, &options).map_err(|error| refused(object, &error))?;
    let result = publish(object, &loaded);
    if result.is_err() {
        object.maps().iter().for_each(|map| map.descriptor().set(None));
        object.programs().iter().for_each(|program| program.descriptor().set(None));
    }
    result.map(|()| loaded)
}

/// Writes the logs of programs that ask for one whether they are refused or not.
fn write_logs(object: &Object, wanted: &Opened) -> Result<(), Errno> {
    let asks = |index: usize| object.programs().get(index).is_some_and(|program| program.log().level > 0);
    let any = wanted.programs().iter().enumerate().any(|(index, spec)| spec.autoload && asks(index));
    if !any {
        return Ok(());
    }
    let shapes = wanted.shapes().map_err(|error| refused(object, &LoadError::Spec(error)))?;
    for (index, (program, spec)) in object.programs().iter().zip(wanted.programs()).enumerate() {
        let log = program.log();
        if !spec.autoload || log.level == 0 {
            continue;
        }
        let options = Options { log_level: log.level, ..Options::default() };
        // What cannot be asked about is refused by the load itself.
        if let Ok(report) = wanted.verify(index, &shapes, &options)
            && !log.write(&report.log)
            && report.verdict.is_ok()
        {
            print::info(format_args!("program '{}': log\n{}", spec.name, report.log));
        }
    }
    Ok(())
}

/// Says why the object does not load.
fn refused(object: &Object, error: &LoadError) -> Errno {
    let name = object.name.to_string_lossy();
    let log = error.log();
    let kept = match error {
        LoadError::Rejected { program, .. } => {
            object.find_loading(program).is_some_and(|program| program.log().write(log))
        }
        _ => false,
    };
    if !log.is_empty() && !kept {
        print::warn(format_args!("-- begin of the verifier's log --\n{log}-- end of the verifier's log --"));
    }
    print::warn(format_args!("object '{name}' is not loaded: {}", chain(error)));
    error.errno()
}

/// Gives descriptors to what was made, and puts the memory of data sections in its place.
fn publish(object: &Object, loaded: &Loaded) -> Result<(), Errno> {
    let spec = loaded.object().spec();
    for (map, map_spec) in object.maps().iter().zip(&spec.maps) {
        let Ok(raw) = loaded.raw_map(&map_spec.name) else { continue };
        map.loaded(map_spec, &raw)?;
    }
    for (program, program_spec) in object.programs().iter().zip(&spec.programs) {
        if let Ok(run) = loaded.program(&program_spec.name) {
            program.loaded(&run, Handle::of_program(&run)?);
        }
    }
    Ok(())
}

impl Object {
    /// The program of this name while a load holds the object's lock.
    fn find_loading(&self, name: &str) -> Option<&crate::program::Program> {
        self.programs.iter().find(|program| program.is_named(name))
    }
}

/// Loads the object: makes its maps and verifies and compiles its programs, all of them or none.
///
/// # Safety
/// `object` is NULL or an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__load(object: *mut Object) -> c_int {
    // SAFETY: the caller's duty, passed on.
    status(|| load(unsafe { given(object) }?))
}
