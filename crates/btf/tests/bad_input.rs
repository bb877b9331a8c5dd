//! Every BTF row of the project's table of bad input, and the rules behind them.
#![expect(clippy::unwrap_used, reason = "tests")]

use skep_btf::{
    Array, Btf, BtfExt, Builder, Composite, DataSec, Enum, EnumValue, Error, FuncProto, Int, Kind, Linkage, MAX_DEPTH,
    Member, Param, Rules, SecVar, StrOff, Type, TypeData, TypeId,
};

fn int(builder: &mut Builder) -> TypeId {
    builder.add("int", TypeData::Int(Int { size: 4, encoding: Int::SIGNED, offset: 0, bits: 32 })).unwrap()
}

fn member(ty: TypeId, bit_offset: u32) -> Member {
    Member { name: StrOff(0), ty, bit_offset, bitfield_size: 0 }
}

fn composite(size: u32, members: Vec<Member>) -> Composite {
    Composite { size, members, kind_flag: false }
}

/// The smallest BTF there is: one `int`.
fn minimal() -> Vec<u8> {
    let mut builder = Builder::new();
    int(&mut builder);
    builder.to_bytes().unwrap()
}

fn with(bytes: &[u8], at: usize, new: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// Builds one type after an `int` (id 1) and says why it was refused.
fn refusal(name: &str, data: impl FnOnce(TypeId) -> TypeData) -> String {
    let mut builder = Builder::new();
    let int = int(&mut builder);
    builder.add(name, data(int)).unwrap();
    let bytes = builder.to_bytes().unwrap();
    Btf::parse_with(&bytes, Rules::Kernel).unwrap_err().to_string()
}

#[track_caller]
fn assert_has(text: &str, part: &str) {
    assert!(text.contains(part), "{text:?} does not say {part:?}");
}

#[test]
fn bad_magic_is_refused() {
    let error = Btf::parse(&with(&minimal(), 0, &[1, 2])).unwrap_err();
    assert!(matches!(error, Error::Header { field: "magic", offset: 0, .. }), "{error}");
}

#[test]
fn big_endian_is_refused_by_name() {
    let error = Btf::parse(&with(&minimal(), 0, &[0xeb, 0x9f])).unwrap_err();
    assert_eq!(error, Error::BigEndian);
    assert_has(&error.to_string(), "big-endian");
}

#[test]
fn version_and_flags_are_refused() {
    assert!(matches!(Btf::parse(&with(&minimal(), 2, &[2])), Err(Error::Header { field: "version", .. })));
    let error = Btf::parse(&with(&minimal(), 3, &[1])).unwrap_err();
    assert!(matches!(error, Error::Header { field: "flags", .. }));
    assert_eq!(error.errno(), 524);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = minimal();
    for len in 0..bytes.len() {
        assert!(Btf::parse(&bytes[..len]).is_err(), "{len} of {} bytes were accepted", bytes.len());
    }
}

#[test]
fn header_lengths_that_overflow_are_refused() {
    for at in [4, 8, 12, 16, 20] {
        for value in [u32::MAX, u32::MAX - 3, 0x8000_0000, 0x7fff_fffc] {
            assert!(Btf::parse(&with(&minimal(), at, &value.to_le_bytes())).is_err(), "offset {at}, value {value:#x}");
        }
    }
}

#[test]
fn string_length_overflow_is_refused() {
    let error = Btf::parse(&with(&minimal(), 20, &u32::MAX.to_le_bytes())).unwrap_err();
    assert!(matches!(error, Error::Header { field: "str_len", .. }), "{error}");
}

#[test]
fn strings_not_terminated_are_refused() {
    let mut bytes = minimal();
    *bytes.last_mut().unwrap() = b'x';
    assert_has(&Btf::parse(&bytes).unwrap_err().to_string(), "not terminated");
}

#[test]
fn strings_not_starting_empty_are_refused() {
    let bytes = minimal();
    let start = 24 + 16;
    assert_has(&Btf::parse(&with(&bytes, start, b"x")).unwrap_err().to_string(), "not the empty one");
}

#[test]
fn name_offset_outside_the_strings_is_refused() {
    let error = Btf::parse(&with(&minimal(), 24, &1000u32.to_le_bytes())).unwrap_err();
    assert_has(&error.to_string(), "outside the strings");
}

#[test]
fn names_that_are_not_utf8_are_refused() {
    let bytes = minimal();
    let at = bytes.len() - 4;
    assert_has(&Btf::parse(&with(&bytes, at, &[0xff])).unwrap_err().to_string(), "not UTF-8");
}

#[test]
fn names_without_end_do_not_cost_time() {
    // One string of 8 MiB that 60000 types share: looking for its end each time would take minutes.
    let mut builder = Builder::new();
    let name = builder.string(&"x".repeat(8 << 20)).unwrap();
    for _ in 0..60_000 {
        builder.push(Type { name, data: TypeData::Float { size: 4 } }).unwrap();
    }
    let error = Btf::parse(&builder.to_bytes().unwrap()).unwrap_err();
    assert_has(&error.to_string(), "name is longer than");
}

#[test]
fn unknown_kind_is_refused() {
    let error = Btf::parse(&with(&minimal(), 28, &(20u32 << 24).to_le_bytes())).unwrap_err();
    assert!(matches!(error, Error::Record { id: TypeId(1), offset: 24, .. }), "{error}");
    assert!(Btf::parse(&with(&minimal(), 28, &0u32.to_le_bytes())).is_err(), "kind 0");
}

#[test]
fn reserved_bits_of_info_and_int_are_refused() {
    assert_has(&Btf::parse(&with(&minimal(), 30, &[1])).unwrap_err().to_string(), "reserved bits");
    assert_has(&Btf::parse(&with(&minimal(), 37, &[1])).unwrap_err().to_string(), "reserved bits");
}

#[test]
fn ids_out_of_range_are_refused() {
    for data in [
        TypeData::Ptr(TypeId(99)),
        TypeData::Typedef(TypeId(99)),
        TypeData::Func { proto: TypeId(99), linkage: Linkage::Global },
        TypeData::Var { ty: TypeId(99), linkage: Linkage::Global },
        TypeData::Array(Array { elem: TypeId(99), index: TypeId(1), nelems: 1 }),
        TypeData::Array(Array { elem: TypeId(1), index: TypeId(99), nelems: 1 }),
        TypeData::Struct(composite(4, vec![member(TypeId(99), 0)])),
        TypeData::FuncProto(FuncProto { ret: TypeId(99), params: vec![] }),
        TypeData::FuncProto(FuncProto { ret: TypeId(0), params: vec![Param { name: StrOff(0), ty: TypeId(99) }] }),
        TypeData::DataSec(DataSec { size: 4, vars: vec![SecVar { ty: TypeId(99), offset: 0, size: 4 }] }),
        TypeData::DeclTag { ty: TypeId(99), component: -1, attribute: false },
    ] {
        let name = match data {
            TypeData::Ptr(_) | TypeData::Array(_) | TypeData::FuncProto(_) => "",
            _ => "name",
        };
        let text = format!("{data:?}");
        assert_has(&refusal(name, |_| data), "out of range");
        assert!(!text.is_empty());
    }
}

#[test]
fn type_loops_are_refused() {
    // typedef -> typedef -> itself, pointer -> itself, array of itself, a struct in itself, through a typedef too.
    let loops: [&[(&str, TypeData)]; 5] = [
        &[("a", TypeData::Typedef(TypeId(3))), ("b", TypeData::Typedef(TypeId(2)))],
        &[("", TypeData::Ptr(TypeId(2)))],
        &[("", TypeData::Array(Array { elem: TypeId(2), index: TypeId(1), nelems: 1 }))],
        &[("s", TypeData::Struct(composite(4, vec![member(TypeId(2), 0)])))],
        &[
            ("t", TypeData::Typedef(TypeId(3))),
            ("s", TypeData::Struct(composite(4, vec![member(TypeId(2), 0)]))),
            ("", TypeData::Ptr(TypeId(2))),
        ],
    ];
    for types in loops {
        let mut builder = Builder::new();
        int(&mut builder);
        for (name, data) in types {
            builder.add(name, data.clone()).unwrap();
        }
        let error = Btf::parse(&builder.to_bytes().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Loop { .. }), "{types:?}: {error}");
        assert_eq!(error.errno(), 17);
    }
}

#[test]
fn loops_through_pointers_to_structs_are_no_loops() {
    let mut builder = Builder::new();
    let next = builder.string("next").unwrap();
    let list = Member { name: next, ty: TypeId(2), bit_offset: 0, bitfield_size: 0 };
    builder.add("list", TypeData::Struct(composite(8, vec![list]))).unwrap();
    builder.add("", TypeData::Ptr(TypeId(1))).unwrap();
    let btf = Btf::parse_with(&builder.to_bytes().unwrap(), Rules::Kernel).unwrap();
    assert_eq!(btf.size_of(TypeId(1)), Ok(8));
}

/// A chain of typedefs, the outermost first; the last one names an `int`.
fn chain(depth: u32) -> Vec<u8> {
    let mut builder = Builder::new();
    for at in 1..=depth {
        builder.add(&format!("t{at}"), TypeData::Typedef(TypeId(at + 1))).unwrap();
    }
    int(&mut builder);
    builder.to_bytes().unwrap()
}

#[test]
fn depth_over_32_is_refused() {
    let deepest = u32::try_from(MAX_DEPTH).unwrap() - 1;
    let btf = Btf::parse(&chain(deepest)).unwrap();
    assert_eq!(btf.size_of(TypeId(1)), Ok(4));
    let error = Btf::parse(&chain(deepest + 1)).unwrap_err();
    assert_eq!(error, Error::Depth { id: TypeId(1), max: 32 });
    assert_eq!(error.errno(), 7);
    assert!(Btf::parse(&chain(100_000)).is_err(), "no recursion on the depth");
}

#[test]
fn members_outside_the_struct_are_refused() {
    assert_has(&refusal("s", |int| TypeData::Struct(composite(4, vec![member(int, 8)]))), "outside the struct");
    assert_has(&refusal("s", |int| TypeData::Struct(composite(4, vec![member(int, 64)]))), "exceeds its struct size");
    assert_has(&refusal("s", |int| TypeData::Struct(composite(3, vec![member(int, 0)]))), "outside the struct");
    assert_has(&refusal("u", |int| TypeData::Union(composite(8, vec![member(int, 8)]))), "in a union");
    let backwards = |int| TypeData::Struct(composite(8, vec![member(int, 32), member(int, 0)]));
    assert_has(&refusal("s", backwards), "before the last");
    let void = |_| TypeData::Struct(composite(8, vec![member(TypeId::VOID, 0)]));
    assert_has(&refusal("s", void), "member is void");
}

#[test]
fn bit_fields_wider_than_their_type_are_refused() {
    let wide = |ty| {
        let member = Member { name: StrOff(0), ty, bit_offset: 0, bitfield_size: 40 };
        TypeData::Struct(Composite { size: 8, members: vec![member], kind_flag: true })
    };
    assert_has(&refusal("s", wide), "bitfield of 40 bits");
}

#[test]
fn array_size_overflow_is_refused() {
    let array = |int| TypeData::Array(Array { elem: int, index: int, nelems: 0x4000_0001 });
    assert_has(&refusal("", array), "overflows");
}

#[test]
fn index_that_is_no_integer_is_refused() {
    let array = |int| TypeData::Array(Array { elem: int, index: TypeId(2), nelems: 1 });
    assert_has(&refusal("", array), "invalid index type");
}

#[test]
fn integers_that_do_not_fit_are_refused() {
    let int = |size, bits, offset, encoding| move |_| TypeData::Int(Int { size, bits, offset, encoding });
    assert_has(&refusal("i", int(4, 33, 0, 0)), "exceeds type_size");
    assert_has(&refusal("i", int(16, 100, 100, 0)), "exceeds 128");
    assert_has(&refusal("i", int(4, 32, 0, 3)), "unsupported encoding");
}

#[test]
fn names_that_c_could_not_have_are_refused_for_a_kernel() {
    let named = |name| refusal(name, TypeData::Typedef);
    assert_has(&named("has space"), "invalid name");
    assert_has(&named("1st"), "invalid name");
    assert_has(&named(""), "invalid name");
    assert_has(&named(&"x".repeat(512)), "invalid name");
    assert_has(&refusal("named", TypeData::Ptr), "invalid name");
    // What other languages write is kept until a kernel is asked.
    let mut builder = Builder::new();
    let int = int(&mut builder);
    builder.add("Option<u8>", TypeData::Typedef(int)).unwrap();
    assert!(Btf::parse(&builder.to_bytes().unwrap()).is_ok());
}

#[test]
fn enumerations_of_odd_size_or_without_names_are_refused() {
    let values = vec![EnumValue { name: StrOff(0), value: 1 }];
    let sized = |size| move |_| TypeData::Enum(Enum { size, signed: false, values: vec![] });
    assert_has(&refusal("e", sized(3)), "unexpected size");
    assert_has(&refusal("e", move |_| TypeData::Enum(Enum { size: 4, signed: false, values })), "has no name");
}

#[test]
fn enumerations_that_are_only_declared_are_a_compilers() {
    let mut builder = Builder::new();
    builder.add("e", TypeData::Enum(Enum { size: 0, signed: false, values: vec![] })).unwrap();
    let bytes = builder.to_bytes().unwrap();
    assert!(Btf::parse(&bytes).is_ok());
    assert_has(&Btf::parse_with(&bytes, Rules::Kernel).unwrap_err().to_string(), "unexpected size 0");
}

#[test]
fn functions_that_are_none_are_refused() {
    let func = |to| TypeData::Func { proto: to, linkage: Linkage::Global };
    assert_has(&refusal("f", func), "no FUNC_PROTO");
}

#[test]
fn tags_on_what_takes_none_are_refused() {
    let tag = |ty| TypeData::DeclTag { ty, component: -1, attribute: false };
    assert_has(&refusal("t", tag), "invalid type_id");
    let negative = |ty| TypeData::DeclTag { ty, component: -2, attribute: false };
    assert_has(&refusal("t", negative), "invalid component_idx");
}

#[test]
fn sections_of_a_kernel_have_sizes_and_ordered_variables() {
    let mut builder = Builder::new();
    let int = int(&mut builder);
    let var = builder.add("v", TypeData::Var { ty: int, linkage: Linkage::Global }).unwrap();
    let place = |offset| SecVar { ty: var, offset, size: 4 };
    builder.add(".data", TypeData::DataSec(DataSec { size: 8, vars: vec![place(4), place(0)] })).unwrap();
    let bytes = builder.to_bytes().unwrap();
    assert!(Btf::parse(&bytes).is_ok(), "a compiler's sections are open");
    assert_has(&Btf::parse_with(&bytes, Rules::Kernel).unwrap_err().to_string(), "variable 1");
}

#[test]
fn too_many_entries_are_refused_before_memory_is_reserved() {
    // A struct that claims 65535 members in 12 bytes.
    let info = (4u32 << 24) | 0xffff;
    let error = Btf::parse(&with(&minimal(), 28, &info.to_le_bytes())).unwrap_err();
    assert!(matches!(error, Error::Truncated { need: 786_420, .. }), "{error}");
}

#[test]
fn errors_escape_what_they_quote() {
    let text = refusal("bad\u{1b}[31m", TypeData::Typedef);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_has(&text, "\\x1b");
}

/// A `.BTF.ext` with one section of records in each part.
fn ext(rec_size: u32, count: u32, record: &[u32], part: usize) -> Vec<u8> {
    let mut body = vec![];
    let mut word = |w: u32| body.extend_from_slice(&w.to_le_bytes());
    word(rec_size);
    word(1); // the section's name
    word(count);
    record.iter().for_each(|&w| word(w));
    let mut out = vec![0x9f, 0xeb, 1, 0];
    out.extend_from_slice(&32u32.to_le_bytes());
    for at in 0..3 {
        out.extend_from_slice(&0u32.to_le_bytes());
        let len = if at == part { u32::try_from(body.len()).unwrap() } else { 0 };
        out.extend_from_slice(&len.to_le_bytes());
    }
    out.extend_from_slice(&body);
    out
}

#[test]
fn ext_records_are_parsed_and_checked() {
    let btf = Btf::parse(&minimal()).unwrap();
    let parsed = BtfExt::parse(&ext(8, 1, &[16, 1], 0), &btf).unwrap();
    assert_eq!(parsed.funcs_of("int").map(|f| (f.insn_off, f.type_id)).collect::<Vec<_>>(), [(16, TypeId(1))]);
    let parsed = BtfExt::parse(&ext(16, 1, &[8, 1, 1, (7 << 10) | 3], 1), &btf).unwrap();
    assert_eq!(parsed.lines_of("int").map(|l| (l.line_num, l.column)).collect::<Vec<_>>(), [(7, 3)]);
    let parsed = BtfExt::parse(&ext(16, 1, &[8, 1, 1, 99], 2), &btf).unwrap();
    assert_eq!(parsed.core_relos_of("int").count(), 1, "an unknown kind is kept, to be poisoned");

    let refused = |bytes: &[u8], why: &str| assert_has(&BtfExt::parse(bytes, &btf).unwrap_err().to_string(), why);
    refused(&ext(8, 1, &[15, 1], 0), "not a multiple of 8");
    refused(&ext(8, 1, &[16, 77], 0), "no type with id 77");
    refused(&ext(8, 2, &[16, 1, 16, 1], 0), "not after the one before");
    refused(&ext(8, u32::MAX, &[16, 1], 0), "ends inside");
    refused(&ext(8, 0, &[], 0), "no records");
    refused(&ext(4, 1, &[16], 0), "record size 4");
    refused(&ext(16, 1, &[8, 1000, 1, 0], 1), "outside the strings");
    refused(&ext(16, 1, &[8, 1, 1000, 0], 2), "outside the strings");
    let whole = ext(8, 1, &[16, 1], 0);
    for len in 0..whole.len() {
        assert!(BtfExt::parse(&whole[..len], &btf).is_err(), "{len} bytes were accepted");
    }
}

#[test]
fn every_kind_survives_a_round_trip() {
    let mut b = Builder::new();
    let int = int(&mut b);
    let name = b.string("m").unwrap();
    let ptr = b.add("", TypeData::Ptr(int)).unwrap();
    b.add("", TypeData::Array(Array { elem: int, index: int, nelems: 3 })).unwrap();
    let bit = Member { name, ty: int, bit_offset: 5, bitfield_size: 7 };
    let composite = Composite { size: 8, members: vec![bit], kind_flag: true };
    let st = b.add("s", TypeData::Struct(composite)).unwrap();
    b.add("u", TypeData::Union(Composite { size: 8, members: vec![member(int, 0)], kind_flag: false })).unwrap();
    let value = |value: i64| EnumValue { name, value: value.cast_unsigned() };
    b.add("e", TypeData::Enum(Enum { size: 4, signed: true, values: vec![value(-2), value(5)] })).unwrap();
    b.add("w", TypeData::Enum64(Enum { size: 8, signed: false, values: vec![value(i64::MIN)] })).unwrap();
    b.add("f", TypeData::Fwd { is_union: true }).unwrap();
    let t = b.add("t", TypeData::Typedef(st)).unwrap();
    b.add("", TypeData::Volatile(t)).unwrap();
    b.add("", TypeData::Const(t)).unwrap();
    b.add("", TypeData::Restrict(ptr)).unwrap();
    let params = vec![Param { name, ty: int }, Param { name: StrOff(0), ty: TypeId::VOID }];
    let proto = b.add("", TypeData::FuncProto(FuncProto { ret: int, params })).unwrap();
    b.add("fn", TypeData::Func { proto, linkage: Linkage::Global }).unwrap();
    let var = b.add("v", TypeData::Var { ty: int, linkage: Linkage::Static }).unwrap();
    let vars = vec![SecVar { ty: var, offset: 4, size: 4 }];
    b.add(".data", TypeData::DataSec(DataSec { size: 8, vars })).unwrap();
    b.add("fl", TypeData::Float { size: 8 }).unwrap();
    b.add("dt", TypeData::DeclTag { ty: st, component: 0, attribute: false }).unwrap();
    b.add("tt", TypeData::TypeTag { ty: int, attribute: true }).unwrap();
    let kinds: std::collections::HashSet<Kind> = b.types().map(|(_, ty)| ty.kind()).collect();
    assert_eq!(kinds.len(), 19);
    let bytes = b.to_bytes().unwrap();
    let btf = Btf::parse_with(&bytes, Rules::Kernel).unwrap();
    assert_eq!(btf.to_bytes().unwrap(), bytes);
    assert!(b.types().eq(btf.types()));
}

#[test]
fn questions_have_answers() {
    let mut b = Builder::new();
    let int = int(&mut b);
    let (x, y) = (b.string("x").unwrap(), b.string("y").unwrap());
    let anon = composite(8, vec![Member { name: y, ty: int, bit_offset: 32, bitfield_size: 0 }]);
    let anon = b.add("", TypeData::Struct(anon)).unwrap();
    let outer = composite(16, vec![Member { name: x, ty: int, bit_offset: 0, bitfield_size: 0 }, member(anon, 64)]);
    let outer = b.add("outer", TypeData::Struct(outer)).unwrap();
    let t = b.add("t", TypeData::Typedef(outer)).unwrap();
    let c = b.add("", TypeData::Const(t)).unwrap();
    let array = b.add("", TypeData::Array(Array { elem: c, index: int, nelems: 3 })).unwrap();
    let ptr = b.add("", TypeData::Ptr(c)).unwrap();
    let btf = b.finish(Rules::Kernel).unwrap();
    assert_eq!(btf.size_of(array), Ok(48));
    assert_eq!(btf.align_of(array), Ok(4));
    assert_eq!(btf.resolve(c), outer);
    assert_eq!(btf.skip_qualifiers(c), t);
    assert_eq!(btf.pointee(ptr), Some(c));
    assert_eq!(btf.element_of(array), outer);
    assert_eq!(btf.find("outer", Kind::Struct), Some(outer));
    assert_eq!(btf.find("outer", Kind::Union), None);
    assert_eq!(btf.find_member(c, "y").map(|m| m.bit_offset), Some(96));
    assert_eq!(btf.find_member(c, "z"), None);
    assert_eq!(btf.size_of(TypeId::VOID), Err(Error::NoSize { id: TypeId::VOID, kind: Kind::Void }));
    assert!(matches!(btf.size_of(TypeId(99)), Err(Error::NoSuchType { .. })));
}
