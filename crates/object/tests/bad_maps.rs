//! The map rows of the project's table of bad input that a definition can break by itself. Sizes, numbers of entries,
//! types and flags are kept as they are: where a map is created they get the kernel's errno.
#![expect(clippy::unwrap_used, reason = "tests")]

mod support;

use skep_btf::{
    Array, Builder, Composite, DataSec, Enum, EnumValue, FuncProto, Int, Linkage, Member, SecVar, TypeData, TypeId,
};
use skep_object::{ObjectSpec, Result, parse};
use support::{Elf, GLOBAL_OBJECT, PROGBITS, RETURN_0};

/// Types of map definitions in the making.
struct Defs {
    btf: Builder,
    int: TypeId,
    vars: Vec<SecVar>,
    symbols: Vec<(String, u32, u32)>,
}

impl Defs {
    fn new() -> Self {
        let mut btf = Builder::new();
        let int = btf.add("int", TypeData::Int(Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 })).unwrap();
        Self { btf, int, vars: Vec::new(), symbols: Vec::new() }
    }

    fn ptr(&mut self, to: TypeId) -> TypeId {
        self.btf.add("", TypeData::Ptr(to)).unwrap()
    }

    /// `__uint(…, n)`.
    fn uint(&mut self, n: u32) -> TypeId {
        let array = TypeData::Array(Array { elem: self.int, index: self.int, nelems: n });
        let array = self.btf.add("", array).unwrap();
        self.ptr(array)
    }

    /// `__array(values, to)`, with a length for what is wrong.
    fn values(&mut self, to: TypeId, nelems: u32) -> TypeId {
        let elem = self.ptr(to);
        self.btf.add("", TypeData::Array(Array { elem, index: self.int, nelems })).unwrap()
    }

    fn def(&mut self, fields: &[(&str, TypeId)]) -> TypeId {
        let mut members = Vec::new();
        for (at, &(name, ty)) in fields.iter().enumerate() {
            let name = self.btf.string(name).unwrap();
            members.push(Member { name, ty, bit_offset: u32::try_from(at).unwrap() * 64, bitfield_size: 0 });
        }
        // Room for a `values` array that has a length, which a right one has not.
        let size = u32::try_from(fields.len()).unwrap() * 8 + 64;
        self.btf.add("", TypeData::Struct(Composite { size, members, kind_flag: false })).unwrap()
    }

    fn map(&mut self, name: &str, ty: TypeId, offset: u32, size: u32) {
        let var = self.btf.add(name, TypeData::Var { ty, linkage: Linkage::Global }).unwrap();
        self.vars.push(SecVar { ty: var, offset: 0, size });
        self.symbols.push((name.into(), offset, size));
    }

    fn elf(mut self, section_size: usize) -> Elf {
        self.btf.add(".maps", TypeData::DataSec(DataSec { size: 0, vars: self.vars })).unwrap();
        let mut elf = Elf::new();
        elf.program("xdp", "prog", &RETURN_0);
        elf.section(".BTF", PROGBITS, 0, &self.btf.to_bytes().unwrap());
        let index = elf.section(".maps", PROGBITS, 3, &vec![0; section_size]);
        for (name, offset, size) in &self.symbols {
            elf.symbol(name, GLOBAL_OBJECT, index, u64::from(*offset), u64::from(*size));
        }
        elf
    }
}

/// One map with these fields.
fn one(fields: impl FnOnce(&mut Defs) -> Vec<(&'static str, TypeId)>) -> Result<ObjectSpec> {
    let mut defs = Defs::new();
    let fields = fields(&mut defs);
    let size = u32::try_from(fields.len()).unwrap() * 8;
    let ty = defs.def(&fields);
    defs.map("m", ty, 0, size);
    parse(&defs.elf(size as usize).build(), "x")
}

#[track_caller]
fn refused(result: Result<ObjectSpec>, parts: &[&str]) {
    let text = result.unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn sizes_and_numbers_are_kept_to_be_judged_at_creation() {
    for (key, value, entries, kind, flags) in
        [(0, 0, 0, 1, 0), (4, u32::MAX, u32::MAX, 2, 0), (4, 4, 1, 999, 0), (4, 4, 1, 1, 0xffff_ffff), (4, 4, 1, 11, 1)]
    {
        let object = one(|d| {
            vec![
                ("type", d.uint(kind)),
                ("key_size", d.uint(key)),
                ("value_size", d.uint(value)),
                ("max_entries", d.uint(entries)),
                ("map_flags", d.uint(flags)),
            ]
        })
        .unwrap();
        let m = &object.maps[0];
        assert_eq!(
            (m.key_size, m.value_size, m.max_entries, m.map_type, m.map_flags),
            (key, value, entries, kind, flags)
        );
    }
}

#[test]
fn type_must_be_said() {
    refused(one(|d| vec![("key_size", d.uint(4))]), &["map 'm'", "type isn't specified"]);
}

#[test]
fn unknown_fields_are_refused() {
    refused(one(|d| vec![("type", d.uint(1)), ("colour", d.uint(1))]), &["map 'm'", "unknown field 'colour'"]);
}

#[test]
fn fields_of_another_form_are_refused() {
    refused(one(|d| vec![("type", d.int)]), &["field 'type' is not written with __uint()"]);
    refused(one(|d| vec![("type", d.uint(1)), ("key", d.int)]), &["field 'key' is not written with __type()"]);
    refused(one(|d| vec![("type", d.uint(1)), ("key", d.ptr(TypeId::VOID))]), &["field 'key'", "no size"]);
    let values = |name: &'static str| vec![EnumValue { name: skep_btf::StrOff(0), value: name.len() as u64 }; 2];
    let two = one(|d| {
        let a = d.btf.string("a").unwrap();
        let values = values("xx").into_iter().map(|v| EnumValue { name: a, ..v }).collect();
        let e = d.btf.add("", TypeData::Enum(Enum { size: 4, signed: false, values })).unwrap();
        vec![("type", d.uint(1)), ("map_extra", e)]
    });
    refused(two, &["field 'map_extra' is not written with __ulong()"]);
}

#[test]
fn two_sizes_that_differ_are_refused() {
    refused(
        one(|d| vec![("type", d.uint(1)), ("key_size", d.uint(8)), ("key", d.ptr(d.int))]),
        &["field 'key' says 4 bytes, another field says 8"],
    );
    refused(
        one(|d| vec![("type", d.uint(1)), ("value", d.ptr(d.int)), ("value_size", d.uint(8))]),
        &["field 'value_size' says 8 bytes, another field says 4"],
    );
}

#[test]
fn pinning_of_another_kind_is_refused() {
    refused(one(|d| vec![("type", d.uint(1)), ("pinning", d.uint(2))]), &["invalid pinning value 2"]);
}

#[test]
fn definitions_that_are_no_struct_are_refused() {
    let mut defs = Defs::new();
    let int = defs.int;
    defs.map("m", int, 0, 4);
    refused(parse(&defs.elf(8).build(), "x"), &["map 'm'", "not a struct"]);
}

#[test]
fn definitions_outside_the_section_are_refused() {
    let mut defs = Defs::new();
    let kind = defs.uint(1);
    let ty = defs.def(&[("type", kind)]);
    defs.map("m", ty, 8, 8);
    refused(parse(&defs.elf(8).build(), "x"), &["section .maps", "ends outside the section"]);
}

#[test]
fn overlapping_definitions_are_refused() {
    let mut defs = Defs::new();
    let kind = defs.uint(1);
    let ty = defs.def(&[("type", kind)]);
    defs.map("a", ty, 0, 8);
    defs.map("b", ty, 4, 8);
    refused(parse(&defs.elf(16).build(), "x"), &["map 'b'", "overlaps"]);
}

#[test]
fn maps_without_btf_are_refused() {
    let mut elf = Elf::new();
    elf.program("xdp", "prog", &RETURN_0);
    elf.section(".maps", PROGBITS, 3, &[0; 8]);
    refused(parse(&elf.build(), "x"), &["section .maps", "need BTF"]);
}

#[test]
fn values_of_maps_that_hold_none_are_refused() {
    let hash = |d: &mut Defs| {
        let inner = d.uint(2);
        let inner = d.def(&[("type", inner)]);
        vec![("type", d.uint(1)), ("values", d.values(inner, 0))]
    };
    refused(one(hash), &["'values' is only for prog arrays and maps of maps"]);
    let sized = |d: &mut Defs| {
        let inner = d.uint(2);
        let inner = d.def(&[("type", inner)]);
        vec![("type", d.uint(12)), ("values", d.values(inner, 3))]
    };
    refused(one(sized), &["not a zero-sized array"]);
    let not_last = |d: &mut Defs| {
        let inner = d.uint(2);
        let inner = d.def(&[("type", inner)]);
        vec![("type", d.uint(12)), ("values", d.values(inner, 0)), ("max_entries", d.uint(1))]
    };
    refused(one(not_last), &["'values' must be the last member"]);
    refused(one(|d| vec![("type", d.uint(3)), ("values", d.values(d.int, 0))]), &["holds no functions"]);
}

#[test]
fn maps_in_maps_in_maps_are_refused() {
    let nested = |d: &mut Defs| {
        let innermost = d.uint(2);
        let innermost = d.def(&[("type", innermost)]);
        let values = d.values(innermost, 0);
        let kind = d.uint(12);
        let inner = d.def(&[("type", kind), ("values", values)]);
        vec![("type", d.uint(12)), ("values", d.values(inner, 0))]
    };
    refused(one(nested), &["map 'm.inner'", "not inside an inner map"]);
    let pinned = |d: &mut Defs| {
        let (kind, pin) = (d.uint(2), d.uint(1));
        let inner = d.def(&[("type", kind), ("pinning", pin)]);
        vec![("type", d.uint(12)), ("values", d.values(inner, 0))]
    };
    refused(one(pinned), &["an inner map cannot be pinned"]);
}

/// A prog array whose slots get relocations at these offsets, of the symbol `target`.
fn slots(offsets: &[u64], target: &str) -> Result<ObjectSpec> {
    let mut defs = Defs::new();
    let int = defs.int;
    let proto = defs.btf.add("", TypeData::FuncProto(FuncProto { ret: int, params: vec![] })).unwrap();
    let (kind, values) = (defs.uint(3), defs.values(proto, 0));
    let ty = defs.def(&[("type", kind), ("values", values)]);
    defs.map("m", ty, 0, 64);
    let mut elf = defs.elf(64);
    let section = u16::try_from(elf.sections.len()).unwrap();
    let symbol = elf.symbols.iter().position(|s| s.name == target).unwrap() + 1;
    let list: Vec<_> = offsets.iter().map(|&o| (o, u32::try_from(symbol).unwrap(), 2)).collect();
    elf.relocations(section, &list);
    parse(&elf.build(), "x")
}

#[test]
fn slots_are_checked() {
    let object = slots(&[8, 24], "prog").unwrap();
    assert_eq!(object.maps[0].initial_slots.iter().map(|s| s.slot).collect::<Vec<_>>(), [0, 2]);
    refused(slots(&[0], "prog"), &["section .maps", "offset 0x0", "no 'values' there"]);
    refused(slots(&[12], "prog"), &["offset 0xc", "whole slot"]);
    refused(slots(&[64], "prog"), &["outside the section"]);
    refused(slots(&[8, 8], "prog"), &["a slot is filled twice"]);
    refused(slots(&[8], "m"), &["m is no program"]);
}
