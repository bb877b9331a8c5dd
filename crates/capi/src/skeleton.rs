//! Skeletons: the tables that generated headers hand over.
//!
//! Owns the walk over these tables, whose structs may be longer than known here (`sz`, `*_skel_sz`) but not shorter.
//! Invariant: after a failed open nothing that the table points at is left open. Counterpart: `bpf_object__open_skeleton`
//! and its siblings, tools/lib/bpf/libbpf.c, 6.18.

use std::ffi::{c_char, c_int, c_void};

use skep::Object as Opened;
use skep_abi::Errno;

use crate::boundary::{bytes, call, given, name, status};
use crate::link::{self, Link};
use crate::map::Map;
use crate::object::{self, Object, OpenOpts, bpf_object__close};
use crate::print;
use crate::program::Program;

/// `struct bpf_map_skeleton`, without what was added at its end.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MapSkeleton {
    /// The map's name.
    pub name: *const c_char,
    /// Where the map goes.
    pub map: *mut *mut Map,
    /// Where the address of its memory goes; NULL for none.
    pub mmaped: *mut *mut c_void,
}

/// `struct bpf_map_skeleton`, since libbpf 1.5.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct LinkedMapSkeleton {
    /// What there always was.
    pub map: MapSkeleton,
    /// Where the link of a struct_ops map goes.
    pub link: *mut *mut Link,
}

/// `struct bpf_prog_skeleton`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProgSkeleton {
    /// The program's name.
    pub name: *const c_char,
    /// Where the program goes.
    pub prog: *mut *mut Program,
    /// Where its link goes.
    pub link: *mut *mut Link,
}

/// The tables of maps and programs, as they stand in both kinds of skeletons.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tables {
    /// How many maps.
    pub map_cnt: c_int,
    /// Bytes from one to the next.
    pub map_skel_sz: c_int,
    /// The maps.
    pub maps: *mut MapSkeleton,
    /// How many programs.
    pub prog_cnt: c_int,
    /// Bytes from one to the next.
    pub prog_skel_sz: c_int,
    /// The programs.
    pub progs: *mut ProgSkeleton,
}

impl Tables {
    /// # Safety
    /// The tables are what a generated header made.
    unsafe fn maps(&self) -> Result<Vec<MapSkeleton>, Errno> {
        // SAFETY: the caller's duty, passed on.
        unsafe { rows(self.maps, self.map_cnt, self.map_skel_sz) }
    }

    /// # Safety
    /// The tables are what a generated header made.
    unsafe fn programs(&self) -> Result<Vec<ProgSkeleton>, Errno> {
        // SAFETY: the caller's duty, passed on.
        unsafe { rows(self.progs, self.prog_cnt, self.prog_skel_sz) }
    }
}

/// `struct bpf_object_skeleton`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ObjectSkeleton {
    /// Bytes of this struct.
    pub sz: usize,
    /// The object's name.
    pub name: *const c_char,
    /// The object file.
    pub data: *const c_void,
    /// Its bytes.
    pub data_sz: usize,
    /// Where the object goes.
    pub obj: *mut *mut Object,
    /// Its maps and programs.
    pub tables: Tables,
}

/// `struct bpf_var_skeleton`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VarSkeleton {
    /// The variable's name.
    pub name: *const c_char,
    /// The map that holds it.
    pub map: *mut *mut Map,
    /// Where its address goes.
    pub addr: *mut *mut c_void,
}

/// `struct bpf_object_subskeleton`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ObjectSubskeleton {
    /// Bytes of this struct.
    pub sz: usize,
    /// The object, which somebody else opened.
    pub obj: *const Object,
    /// Its maps and programs.
    pub tables: Tables,
    /// How many variables.
    pub var_cnt: c_int,
    /// Bytes from one to the next.
    pub var_skel_sz: c_int,
    /// The variables.
    pub vars: *mut VarSkeleton,
}

/// The rows of a table whose rows are `stride` bytes long.
///
/// # Safety
/// `first` is NULL or has `count` rows, each beginning with a `T`, which is valid for any bytes.
unsafe fn rows<T: Copy>(first: *const T, count: c_int, stride: c_int) -> Result<Vec<T>, Errno> {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    let stride = usize::try_from(stride).map_err(|_| Errno::EINVAL)?;
    if count == 0 {
        return Ok(Vec::new());
    }
    if first.is_null() || stride < size_of::<T>() {
        print::warn(format_args!("the skeleton's table has rows of {stride} bytes, {} are needed", size_of::<T>()));
        return Err(Errno::EINVAL);
    }
    let row = |index: usize| first.wrapping_byte_add(index.wrapping_mul(stride));
    // SAFETY: a row of the table (caller), and any bytes are valid.
    Ok((0..count).map(|index| unsafe { row(index).read_unaligned() }).collect())
}

/// A skeleton or subskeleton, of which at least the known part is there.
///
/// # Safety
/// `skeleton` is NULL or begins with its size; `T` is such a struct, `repr(C)`.
unsafe fn read<T>(skeleton: *const T) -> Result<T, Errno> {
    // SAFETY: the caller's duty; it is aligned as `calloc` does it.
    let size = *unsafe { given(skeleton.cast::<usize>()) }?;
    if size < size_of::<T>() {
        print::warn(format_args!("a skeleton of {size} bytes, {} are needed", size_of::<T>()));
        return Err(Errno::EINVAL);
    }
    // SAFETY: at least as long (caller); what follows the known part is pointers and numbers that are not looked at.
    Ok(unsafe { skeleton.read() })
}

/// Frees what a generated header allocated.
///
/// # Safety
/// Each came from `calloc`, or is NULL, and is not used any more.
unsafe fn free<const N: usize>(memory: [*mut c_void; N]) {
    for memory in memory {
        // SAFETY: the caller's duty, passed on.
        unsafe { libc::free(memory) };
    }
}

/// Writes where a table says, if it does.
///
/// # Safety
/// `place` is NULL or writable.
unsafe fn fill<T>(place: *mut *mut T, value: *mut T) {
    if !place.is_null() {
        // SAFETY: the caller's duty.
        unsafe { place.write(value) };
    }
}

/// Fills in the maps and programs.
///
/// # Safety
/// The rows' pointers are NULL or as their types say.
unsafe fn populate(object: &Object, maps: &[MapSkeleton], programs: &[ProgSkeleton]) -> Result<(), Errno> {
    for row in maps {
        // SAFETY: the caller's duty, passed on.
        let wanted = unsafe { name(row.name) }?;
        let Ok(map) = object.find_map(wanted) else {
            print::warn(format_args!("the skeleton's map '{wanted}' is not in the object"));
            return Err(Errno::ESRCH);
        };
        // SAFETY: the caller's duty, passed on.
        unsafe { fill(row.map, std::ptr::from_ref(map).cast_mut()) };
        // The values of `.kconfig` are known at load.
        if !map.is_kconfig()? {
            // SAFETY: the caller's duty, passed on.
            unsafe { fill(row.mmaped, map.memory()) };
        }
    }
    for row in programs {
        // SAFETY: the caller's duty, passed on.
        let wanted = unsafe { name(row.name) }?;
        let Ok(program) = object.find_program(wanted) else {
            print::warn(format_args!("the skeleton's program '{wanted}' is not in the object"));
            return Err(Errno::ESRCH);
        };
        // SAFETY: the caller's duty, passed on.
        unsafe { fill(row.prog, std::ptr::from_ref(program).cast_mut()) };
    }
    Ok(())
}

/// Opens a skeleton's object and fills in its maps, programs and the addresses of data sections.
///
/// # Safety
/// `skeleton` is NULL or what a generated header made; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__open_skeleton(skeleton: *mut ObjectSkeleton, opts: *const OpenOpts) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let table = unsafe { read(skeleton) }?;
        // SAFETY: the caller's duty, passed on.
        let elf = unsafe { bytes(table.data, table.data_sz) }?;
        if elf.is_empty() || table.obj.is_null() {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the caller's duty, passed on.
        let default = unsafe { name(table.name) }?;
        // SAFETY: the caller's duty, passed on.
        let maps = unsafe { table.tables.maps() }?;
        // SAFETY: the caller's duty, passed on.
        let programs = unsafe { table.tables.programs() }?;
        // SAFETY: the caller's duty, passed on.
        let object =
            unsafe { object::open(|name| Opened::from_bytes(name.unwrap_or(default), elf), opts, Some(default)) }?;
        // SAFETY: opened just now.
        let opened = unsafe { &*object };
        // SAFETY: the caller's duty, passed on.
        let result = unsafe { populate(opened, &maps, &programs) };
        if result.is_err() {
            // SAFETY: opened above, and the table's pointers to it are not used after a failed open.
            unsafe { bpf_object__close(object) };
        } else {
            // SAFETY: not NULL, and writable (caller).
            unsafe { table.obj.write(object) };
        }
        result
    })
}

/// The object that a skeleton opened.
///
/// # Safety
/// The table's `obj` is NULL or points at NULL or an open object.
unsafe fn opened<'a>(table: &ObjectSkeleton) -> Result<&'a Object, Errno> {
    // SAFETY: the caller's duty, passed on.
    let object = *unsafe { given(table.obj.cast_const()) }?;
    // SAFETY: the caller's duty, passed on.
    unsafe { given(object.cast_const()) }
}

/// Loads a skeleton's object. Pointers into data sections stay; those of sections that are not to be mapped become NULL.
///
/// # Safety
/// `skeleton` is NULL or was opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__load_skeleton(skeleton: *mut ObjectSkeleton) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let table = unsafe { read(skeleton) }?;
        // SAFETY: the caller's duty, passed on.
        let object = unsafe { opened(&table) }?;
        object::load(object)?;
        // SAFETY: the caller's duty, passed on.
        for row in unsafe { table.tables.maps() }? {
            // SAFETY: the caller's duty, passed on.
            let map = object.find_map(unsafe { name(row.name) }?)?;
            // SAFETY: the caller's duty, passed on.
            unsafe { fill(row.mmaped, map.memory()) };
        }
        Ok(())
    })
}

/// Attaches what a skeleton attaches by itself: extensions. A program whose section names a place in the kernel is
/// `-EOPNOTSUPP`, an iterator, whose map nobody names, `-EBADF`; programs that are attached by hand are passed over, as
/// everywhere.
///
/// # Safety
/// `skeleton` is NULL or was loaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__attach_skeleton(skeleton: *mut ObjectSkeleton) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let table = unsafe { read(skeleton) }?;
        // SAFETY: the caller's duty, passed on.
        let object = unsafe { opened(&table) }?;
        // SAFETY: the caller's duty, passed on.
        for row in unsafe { table.tables.programs() }? {
            // SAFETY: the caller's duty, passed on.
            let program = object.find_program(unsafe { name(row.name) }?)?;
            // SAFETY: NULL or a place for a link (caller).
            let is_linked = row.link.is_null() || !unsafe { row.link.read() }.is_null();
            if is_linked || !program.is_attached_by_skeleton()? {
                continue;
            }
            if let Some(link) = link::attach_by_section(program)? {
                // SAFETY: not NULL (checked), a place for a link (caller).
                unsafe { row.link.write(link) };
            }
        }
        Ok(())
    })
}

/// Takes a skeleton's links back.
///
/// # Safety
/// `skeleton` is NULL or was opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__detach_skeleton(skeleton: *mut ObjectSkeleton) {
    call(|| {
        // SAFETY: the caller's duty, passed on.
        let table = unsafe { read(skeleton) }?;
        // SAFETY: the caller's duty, passed on.
        unsafe { detach(&table) }
    });
}

/// # Safety
/// The table's pointers are NULL or as their types say.
unsafe fn detach(table: &ObjectSkeleton) -> Result<(), Errno> {
    // SAFETY: the caller's duty, passed on.
    for row in unsafe { table.tables.programs() }? {
        if !row.link.is_null() {
            // SAFETY: the caller's duty, passed on.
            let held = unsafe { row.link.replace(std::ptr::null_mut()) };
            // SAFETY: a link of a call of this library, or NULL.
            unsafe { link::bpf_link__destroy(held) };
        }
    }
    Ok(())
}

/// Detaches, closes the object, and frees the tables and the skeleton; NULL is nothing to do.
///
/// # Safety
/// `skeleton` is NULL or was made by a generated header: it and its tables came from `calloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__destroy_skeleton(skeleton: *mut ObjectSkeleton) {
    call(|| {
        if skeleton.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's duty, passed on.
        let table = unsafe { read(skeleton) }?;
        // A table that the header could not make is NULL.
        if !table.tables.progs.is_null() {
            // SAFETY: the caller's duty, passed on.
            unsafe { detach(&table) }?;
        }
        if !table.obj.is_null() {
            // SAFETY: not NULL, and what is there is NULL or an open object (caller).
            let object = unsafe { table.obj.replace(std::ptr::null_mut()) };
            // SAFETY: as above.
            unsafe { bpf_object__close(object) };
        }
        // SAFETY: from `calloc`, and nobody uses them any more (caller).
        unsafe { free([table.tables.maps.cast(), table.tables.progs.cast(), skeleton.cast()]) };
        Ok(())
    });
}

/// Fills in the maps, programs and variables of a subskeleton, which looks into an object that somebody else opened.
///
/// # Safety
/// `skeleton` is NULL or what a generated header made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__open_subskeleton(skeleton: *mut ObjectSubskeleton) -> c_int {
    status(|| {
        // SAFETY: the caller's duty, passed on.
        let table = unsafe { read(skeleton) }?;
        // SAFETY: the caller's duty, passed on.
        let object = unsafe { given(table.obj) }?;
        // SAFETY: the caller's duty, passed on.
        let maps = unsafe { table.tables.maps() }?;
        // SAFETY: the caller's duty, passed on.
        let programs = unsafe { table.tables.programs() }?;
        // SAFETY: the caller's duty, passed on.
        let variables = unsafe { rows(table.vars, table.var_cnt, table.var_skel_sz) }?;
        // SAFETY: the caller's duty, passed on.
        unsafe { populate(object, &maps, &programs) }?;
        for row in variables {
            // SAFETY: the caller's duty, passed on.
            let wanted = unsafe { name(row.name) }?;
            // SAFETY: the caller's duty, passed on.
            let holder = *unsafe { given(row.map.cast_const()) }?;
            let Some((map, offset)) = object.variable(wanted, holder) else {
                print::warn(format_args!("the subskeleton's variable '{wanted}' is not in the object"));
                return Err(Errno::EINVAL);
            };
            let memory = map.memory();
            let address = if memory.is_null() { memory } else { memory.wrapping_byte_add(offset) };
            // SAFETY: the caller's duty, passed on.
            unsafe { fill(row.addr, address) };
        }
        Ok(())
    })
}

/// Frees a subskeleton and its tables; the object stays. NULL is nothing to do.
///
/// # Safety
/// `skeleton` is NULL or was made by a generated header: it and its tables came from `calloc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bpf_object__destroy_subskeleton(skeleton: *mut ObjectSubskeleton) {
    call(|| {
        if skeleton.is_null() {
            return Ok(());
        }
        // SAFETY: the caller's duty, passed on.
        let table = unsafe { read(skeleton) }?;
        // SAFETY: from `calloc`, and nobody uses them any more (caller).
        unsafe { free([table.tables.maps.cast(), table.vars.cast(), table.tables.progs.cast(), skeleton.cast()]) };
        Ok(())
    });
}
