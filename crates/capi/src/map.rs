//! `struct bpf_map`: what C may ask and set of a map, and the memory of data sections.
//!
//! Invariant: before load a data section's initial value is in its image, and nowhere else; after load the image is the
//! map's memory (an array that may be mapped), or shows the initial values (`.percpu`), or is gone. Counterpart: `struct
//! bpf_map`, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep::RawMap;
use skep_abi::{Errno, MapType, map_flags};
use skep_object::{MapKind, MapSpec};

use crate::boundary::{bytes, call, getters, given, put, setters, status, text};
use crate::handle::{self, Handle};
use crate::image::Image;
use crate::object::{Core, Descriptor, Kept};

/// `struct bpf_map`.
#[derive(Debug)]
pub struct Map {
    core: Arc<Core>,
    index: usize,
    c_name: Kept,
    image: Mutex<Option<Image>>,
    running: Mutex<Option<RawMap>>,
    descriptor: Descriptor,
    /// A map of elsewhere that is to be used, by a descriptor of its own.
    reuse: Descriptor,
    autoattach: AtomicBool,
    pin_path: Mutex<Option<CString>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Map {
    pub(crate) fn new(core: &Arc<Core>, index: usize, image: Option<Image>) -> Result<Self, Errno> {
        Ok(Self {
            core: Arc::clone(core),
            index,
            c_name: Kept::default(),
            image: Mutex::new(image),
            running: Mutex::new(None),
            descriptor: Descriptor::default(),
            reuse: Descriptor::default(),
            autoattach: AtomicBool::new(true),
            pin_path: Mutex::new(None),
        })
    }

    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The loaded map.
    pub(crate) fn raw(&self) -> Result<RawMap, Errno> {
        lock(&self.running).clone().ok_or(Errno::ENOENT)
    }

    /// The address of its data section's memory, for skeletons; null without.
    pub(crate) fn memory(&self) -> *mut c_void {
        lock(&self.image).as_ref().map_or(std::ptr::null_mut(), Image::pointer)
    }

    pub(crate) fn is_kconfig(&self) -> Result<bool, Errno> {
        self.core.map(self.index, |spec| spec.kind == MapKind::Kconfig)
    }

    /// The initial value as it is now. Called with the object's lock held.
    pub(crate) fn image_bytes(&self) -> Option<Vec<u8>> {
        lock(&self.image).as_ref().map(Image::bytes)
    }

    /// The map that is to be used instead of a new one.
    pub(crate) fn reused(&self) -> Result<Option<RawMap>, Errno> {
        self.reuse.number().map(handle::map).transpose()
    }

    /// Takes over what was made. Called with the object's lock held.
    pub(crate) fn loaded(&self, spec: &MapSpec, map: &RawMap) -> Result<(), Errno> {
        let handle = match self.reuse.number() {
            Some(number) => Handle::duplicate(number)?,
            None => Handle::of_map(map)?,
        };
        let mut image = lock(&self.image);
        if let Some(memory) = image.as_mut() {
            match (spec.kind, handle.file()) {
                (MapKind::PerCpu, _) => memory.protect()?,
                (kind, Some(file)) if spec.map_flags & map_flags::BPF_F_MMAPABLE != 0 => {
                    memory.become_shared(file, !kind.is_read_only())?;
                }
                _ => *image = None,
            }
        }
        *lock(&self.running) = Some(map.clone());
        self.descriptor.set(Some(handle));
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut MapSpec)) -> Result<(), Errno> {
        self.core.edit_map(self.index, change)
    }

    /// A number of the loaded map, or else of its description.
    fn number<T>(&self, running: impl FnOnce(&RawMap) -> T, spec: impl FnOnce(&MapSpec) -> T) -> Result<T, Errno> {
        // Never this lock around the object's: a load takes them the other way round.
        let map = lock(&self.running).clone();
        match map {
            Some(map) => Ok(running(&map)),
            None => self.core.map(self.index, spec),
        }
    }
}

getters! {
    /// Its name: of a data section, the section's with the object's name before it, as the kernel shows it.
    bpf_map__name(map: *const Map) -> *const c_char = map.c_name.pointer(|| {
        map.core.map(map.index, |spec| {
            let stands_alone = spec.kind == MapKind::User
                || spec.kind == MapKind::PerCpu
                || spec.name.get(1..).is_some_and(|rest| rest.contains('.'));
            if stands_alone { spec.name.clone() } else { spec.kernel_name.clone() }
        })
    });
    /// Its descriptor; -1 before it is loaded.
    bpf_map__fd(map: *const Map) -> c_int = Ok(map.descriptor.number().unwrap_or(-1));
    /// Its type.
    bpf_map__type(map: *const Map) -> u32 = map.core.map(map.index, |spec| spec.map_type);
    /// Bytes of a key.
    bpf_map__key_size(map: *const Map) -> u32 = map.core.map(map.index, |spec| spec.key_size);
    /// Bytes of a value, of one CPU.
    bpf_map__value_size(map: *const Map) -> u32 = map.core.map(map.index, |spec| spec.value_size);
    /// The most entries that it can hold.
    bpf_map__max_entries(map: *const Map) -> u32 = map.number(|map| map.info().max_entries, |spec| spec.max_entries);
    /// Its flags.
    bpf_map__map_flags(map: *const Map) -> u32 = map.core.map(map.index, |spec| spec.map_flags);
    /// The NUMA node to allocate from.
    bpf_map__numa_node(map: *const Map) -> u32 = map.core.map(map.index, |spec| spec.numa_node);
    /// What else its type wants to know.
    bpf_map__map_extra(map: *const Map) -> u64 = map.core.map(map.index, |spec| spec.map_extra);
    /// The type of a key in the object's BTF; 0 for none.
    bpf_map__btf_key_type_id(map: *const Map) -> u32 = map.core.map(map.index, |spec| spec.key_type.map_or(0, |id| id.0));
    /// The type of a value in the object's BTF; 0 for none.
    bpf_map__btf_value_type_id(map: *const Map) -> u32 = map.core.map(map.index, |spec| spec.value_type.map_or(0, |id| id.0));
    /// Maps are not made for devices; 0.
    bpf_map__ifindex(map: *const Map) -> u32 = { let _ = map; Ok(0) };
    /// Whether it is of a data section.
    bpf_map__is_internal(map: *const Map) -> bool = map.core.map(map.index, |spec| spec.kind.is_internal());
    /// Whether it is created with the object.
    bpf_map__autocreate(map: *const Map) -> bool = map.core.map(map.index, |spec| spec.autocreate);
    /// Whether a skeleton attaches it, which is for struct_ops maps.
    bpf_map__autoattach(map: *const Map) -> bool = Ok(map.autoattach.load(Ordering::Relaxed));
    /// Maps are not pinned here; false.
    bpf_map__is_pinned(map: *const Map) -> bool = { let _ = map; Ok(false) };
    /// The path that was set; NULL without.
    bpf_map__pin_path(map: *const Map) -> *const c_char =
        Ok(lock(&map.pin_path).as_ref().map_or(std::ptr::null(), |path| path.as_ptr()));
    /// As `bpf_map__pin_path`.
    bpf_map__get_pin_path(map: *const Map) -> *const c_char =
        Ok(lock(&map.pin_path).as_ref().map_or(std::ptr::null(), |path| path.as_ptr()));
}

setters! {
    /// Sets its type; `-EBUSY` after load.
    bpf_map__set_type(map: *mut Map, map_type: u32) = {
        MapType::from_u32(map_type).ok_or(Errno::EINVAL)?;
        map.change(|spec| spec.map_type = map_type)
    };
    /// Sets the size of a key; `-EBUSY` after load.
    bpf_map__set_key_size(map: *mut Map, size: u32) = map.change(|spec| {
        if spec.key_size != size {
            spec.key_type = None;
        }
        spec.key_size = size;
    });
    /// Sets the size of a value. A data section can grow or shrink where its last variable is an array; its memory moves.
    /// `-EBUSY` after load.
    bpf_map__set_value_size(map: *mut Map, size: u32) = {
        map.core.edit(|spec| {
            let name = spec.maps.get(map.index).ok_or(Errno::EINVAL)?.name.clone();
            spec.set_value_size(&name, size).map_err(|error| Errno(error.errno()))
        })?;
        match &mut *lock(&map.image) {
            Some(image) => image.resize(usize::try_from(size).map_err(|_| Errno::E2BIG)?),
            None => Ok(()),
        }
    };
    /// Sets the most entries that it can hold; `-EBUSY` after load.
    bpf_map__set_max_entries(map: *mut Map, entries: u32) = map.change(|spec| spec.max_entries = entries);
    /// Sets its flags; `-EBUSY` after load.
    bpf_map__set_map_flags(map: *mut Map, flags: u32) = map.change(|spec| spec.map_flags = flags);
    /// Sets the NUMA node; `-EBUSY` after load.
    bpf_map__set_numa_node(map: *mut Map, node: u32) = map.change(|spec| spec.numa_node = node);
    /// Sets what else its type wants to know; `-EBUSY` after load.
    bpf_map__set_map_extra(map: *mut Map, extra: u64) = map.change(|spec| spec.map_extra = extra);
    /// Maps are not made for devices: `-EBUSY` after load, otherwise nothing.
    bpf_map__set_ifindex(map: *mut Map, ifindex: u32) = {
        let _ = ifindex;
        map.change(|_| ())
    };
    /// Sets whether it is created with the object; `-EBUSY` after load. Programs that can reach a use of a map that is not
    /// created are refused.
    bpf_map__set_autocreate(map: *mut Map, autocreate: bool) = map.change(|spec| spec.autocreate = autocreate);
    /// Sets whether a skeleton attaches it.
    bpf_map__set_autoattach(map: *mut Map, autoattach: bool) = {
        map.autoattach.store(autoattach, Ordering::Relaxed);
        Ok(())
    };
}

/// Remembers a path, or with NULL none. Maps are not pinned here.
///
/// # Safety
/// `map` is NULL or of an open object; `path` is NULL or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map__set_pin_path(map: *mut Map, path: *const c_char) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let map = unsafe { given(map.cast_const()) }?;
        // SAFETY: the caller's duty, passed on.
        let path = if path.is_null() { None } else { Some(unsafe { text(path) }?) };
        *lock(&map.pin_path) = path.map(CStr::to_owned);
        Ok(())
    })
}

/// Uses the map of `fd` instead of making one; its sizes, entries and flags become this map's. `-EBUSY` after load.
///
/// # Safety
/// `map` is NULL or of an open object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map__reuse_fd(map: *mut Map, fd: c_int) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let map = unsafe { given(map.cast_const()) }?;
        let reused = handle::map(fd)?;
        let duplicate = Handle::duplicate(fd)?;
        let info = reused.info();
        map.change(|spec| {
            spec.map_type = info.map_type as u32;
            spec.key_size = info.key_size;
            spec.value_size = info.value_size;
            spec.max_entries = info.max_entries;
            spec.map_flags = info.flags | info.user_flags;
            spec.map_extra = info.map_extra;
            spec.autocreate = true;
        })?;
        map.reuse.set(Some(duplicate));
        Ok(())
    })
}

/// Sets the whole initial value of a data section. `-EBUSY` after load; `-EINVAL` for another size, for a map that is of no
/// data section, and for `.kconfig`.
///
/// # Safety
/// `map` is NULL or of an open object; `data` is NULL or readable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map__set_initial_value(map: *mut Map, data: *const c_void, size: usize) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let map = unsafe { given(map.cast_const()) }?;
        map.change(|_| ())?;
        let is_kconfig = map.is_kconfig()?;
        let image = lock(&map.image);
        let image = image.as_ref().ok_or(Errno::EINVAL)?;
        if is_kconfig || size != image.size() || data.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's duty, passed on.
        image.write(unsafe { bytes(data, size) }?)
    })
}

/// The memory of a data section and its size: the initial value before load, what programs use after it. NULL for other
/// maps, and after load for sections that are not to be mapped.
///
/// # Safety
/// `map` is NULL or of an open object; `size` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_map__initial_value(map: *const Map, size: *mut usize) -> *mut c_void {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let map = unsafe { given(map) }?;
        let image = lock(&map.image);
        let Some(image) = image.as_ref() else { return Ok(std::ptr::null_mut()) };
        // SAFETY: the caller's duty, passed on.
        unsafe { put(size, image.size()) };
        Ok(image.pointer())
    })
}
