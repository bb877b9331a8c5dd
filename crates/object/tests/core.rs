//! CO-RE: every kind of relocation of `core.bpf.c`, against its own types and against those of `core_target.bpf.c`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_btf::{
    Btf, Builder, Composite, CoreRelo, CoreReloKind, CoreTarget, Int, Member, Resolution, Rules, StrOff, TypeData,
    TypeId,
};
use skep_object::{ObjectSpec, POISON_CALL, parse};

fn open(name: &str) -> (ObjectSpec, Arc<Btf>) {
    let object = parse(&support::committed(name), name).unwrap();
    let btf = object.btf.clone().unwrap();
    (object, btf)
}

/// Each different question of the object with its answer: kind, type, access string.
fn answers(target: &Btf) -> BTreeMap<String, Result<u64, String>> {
    let (object, local) = open("core");
    let target = CoreTarget::new(target);
    let mut out = BTreeMap::new();
    for relo in &object.programs[0].core_relos {
        let question = format!("{} {} {}", relo.kind.as_str(), local.name(relo.type_id), local.str_at(relo.access));
        let answer = match target.resolve(&local, relo) {
            Resolution::Value(patch) => Ok(patch.new),
            Resolution::Poison(reason) => Err(reason),
        };
        let before = out.insert(question.clone(), answer.clone());
        assert!(before.is_none_or(|before| before == answer), "{question}");
    }
    out
}

#[test]
fn against_its_own_types_nothing_changes() {
    let (mut object, local) = open("core");
    let before = object.programs[0].insns.clone();
    let relos = object.programs[0].core_relos.clone();
    let target = CoreTarget::identity(&local);
    assert_eq!(object.programs[0].apply_core(&local, &target), []);
    let changed = before.iter().zip(&object.programs[0].insns).enumerate().filter(|(_, (a, b))| a != b);
    let changed: Vec<String> = changed
        .map(|(at, _)| {
            let relo = relos.iter().find(|r| r.insn_off as usize == at).unwrap();
            format!("{} {}", relo.kind.as_str(), local.str_at(relo.access))
        })
        .collect();
    // The compiler loads a bit-field with the widest load, we with the narrowest: both are right.
    let bits = ["byte_off", "byte_sz", "lshift_u64"];
    let expected: Vec<String> = ["0:3", "0:4"].iter().flat_map(|a| bits.map(|kind| format!("{kind} {a}"))).collect();
    assert_eq!(changed, expected);
    assert!(object.programs[0].core_relos.is_empty());
}

#[test]
fn flavours_in_the_target_are_candidates_too() {
    let (_, local) = open("core");
    // `struct outer` and `struct outer___v2` have two sizes.
    let all = answers(&local);
    let text = all["type_size outer 0"].clone().unwrap_err();
    assert!(text.contains("ambiguous"), "{text}");
    assert_eq!(all["byte_off inner 0:1"], Ok(4));
}

#[test]
fn answers_are_those_of_the_target() {
    let (_, target) = open("core_target");
    let all = answers(&target);
    let value = |question: &str| {
        all.get(question).unwrap_or_else(|| panic!("{question} is not in {:#?}", all.keys())).clone().unwrap()
    };
    // struct outer: ptr 0, in 8..104 (16 each), first 104, union 112, bit-fields 120.
    assert_eq!(value("byte_off outer 0:1:2:1"), 8 + 2 * 16 + 8);
    assert_eq!(value("byte_sz outer 0:1"), 96);
    assert_eq!(value("field_exists outer 0:2:1:1"), 1);
    assert_eq!(value("field_exists absent 0:0"), 0);
    assert_eq!(value("field_exists outer___v2 0:0"), 0);
    assert_eq!(value("byte_off outer 0:5"), 0);
    assert_eq!(value("byte_off inner 0:1"), 8);
    // flag: 4 bits at bit 960 + 9, in an unsigned int at byte 120.
    assert_eq!(value("byte_off outer 0:3"), 120);
    assert_eq!(value("lshift_u64 outer 0:3"), 64 - (9 + 4));
    assert_eq!(value("rshift_u64 outer 0:3"), 64 - 4);
    assert_eq!(value("signed outer 0:3"), 0);
    assert_eq!(value("signed outer 0:4"), 1);
    assert_eq!(value("lshift_u64 outer 0:4"), 64 - (13 + 6));
    assert_eq!(value("rshift_u64 outer 0:4"), 64 - 6);
    assert_eq!(value("type_exists inner_t 0"), 1);
    assert_eq!(value("type_exists absent 0"), 0);
    assert_eq!(value("type_size outer 0"), 128);
    assert_eq!(value("type_matches inner 0"), 1);
    assert_eq!(value("enumval_exists state 1"), 1);
    assert_eq!(value("enumval_value state 1"), 9);
    assert_eq!(value("enumval_value wide 0"), 0x77_7777_7777);
    let inner = target.find("inner", skep_btf::Kind::Struct).unwrap();
    assert_eq!(value("target_type_id inner 0"), u64::from(inner.0));
    let (_, local) = open("core");
    let inner = local.find("inner", skep_btf::Kind::Struct).unwrap();
    assert_eq!(value("local_type_id inner 0"), u64::from(inner.0));
}

#[test]
fn answers_are_written_into_instructions() {
    let (_, target) = open("core_target");
    let (mut object, local) = open("core");
    let relos = object.programs[0].core_relos.clone();
    let before = object.programs[0].insns.clone();
    let poisoned = object.apply_core(&target);
    assert!(poisoned.is_empty(), "{poisoned:?}");
    let after = &object.programs[0].insns;
    let resolver = CoreTarget::new(&target);
    for relo in &relos {
        let at = relo.insn_off as usize;
        let Resolution::Value(patch) = resolver.resolve(&local, relo) else { panic!("{relo:?}") };
        let holds = match after[at].code & 7 {
            1..=3 => u64::from(after[at].off.cast_unsigned()),
            0 => u64::from(after[at].imm.cast_unsigned()) | u64::from(after[at + 1].imm.cast_unsigned()) << 32,
            _ => u64::from(after[at].imm.cast_unsigned()),
        };
        assert_eq!(holds, patch.new, "{relo:?}");
        assert_eq!(before[at].code, after[at].code, "{relo:?}");
    }
}

#[test]
fn without_candidates_fields_are_poisoned_and_existence_is_0() {
    let mut builder = Builder::new();
    builder.add("int", TypeData::Int(Int { size: 4, encoding: 1, offset: 0, bits: 32 })).unwrap();
    let empty = builder.finish(Rules::Kernel).unwrap();
    for (question, answer) in answers(&empty) {
        match question.split(' ').next().unwrap() {
            "field_exists" | "type_exists" | "type_size" | "type_matches" | "enumval_exists" | "target_type_id" => {
                assert_eq!(answer, Ok(0), "{question}");
            }
            "local_type_id" => assert!(answer.is_ok()),
            _ => assert!(answer.unwrap_err().contains("no type of the target has such"), "{question}"),
        }
    }
    let (mut object, _) = open("core");
    let count = object.programs[0].core_relos.len();
    let poisoned = object.apply_core(&empty);
    assert!(!poisoned.is_empty() && poisoned.len() < count);
    for (_, p) in &poisoned {
        let insn = object.programs[0].insns[p.slot as usize];
        assert_eq!((insn.code, insn.src, insn.imm), (0x85, 0, POISON_CALL));
        assert!(p.reason.starts_with("CO-RE "), "{}", p.reason);
    }
}

/// Types with one struct `s` of two `int` members, the second at `offset` bytes; as many of them as offsets.
fn structs(offsets: &[u32]) -> Btf {
    let mut b = Builder::new();
    let int = b.add("int", TypeData::Int(Int { size: 4, encoding: 1, offset: 0, bits: 32 })).unwrap();
    let (x, y) = (b.string("x").unwrap(), b.string("y").unwrap());
    for (at, &offset) in offsets.iter().enumerate() {
        let member = |name: StrOff, bit_offset| Member { name, ty: int, bit_offset, bitfield_size: 0 };
        let members = vec![member(x, 0), member(y, offset * 8)];
        let name = if at == 0 { "s".to_owned() } else { format!("s___{at}x") };
        b.add(&name, TypeData::Struct(Composite { size: offset + 4, members, kind_flag: false })).unwrap();
    }
    for access in ["0:1", "0:7", "0:1:0", "x:y", "", "0:0", "1"] {
        b.string(access).unwrap();
    }
    b.finish(Rules::Kernel).unwrap()
}

fn ask(local: &Btf, target: &Btf, kind: CoreReloKind, access: &str) -> Resolution {
    let off = local
        .strings()
        .as_bytes()
        .windows(access.len() + 2)
        .position(|w| w[0] == 0 && w[w.len() - 1] == 0 && &w[1..w.len() - 1] == access.as_bytes());
    let access = StrOff(u32::try_from(off.map_or(0, |off| off + 1)).unwrap());
    CoreTarget::new(target).resolve(local, &CoreRelo { insn_off: 0, type_id: TypeId(2), access, kind })
}

#[track_caller]
fn poisoned(resolution: Resolution, part: &str) {
    match resolution {
        Resolution::Poison(reason) => assert!(reason.contains(part), "{reason:?} does not say {part:?}"),
        Resolution::Value(patch) => panic!("{patch:?}"),
    }
}

#[test]
fn unknown_kind_is_poisoned() {
    let btf = structs(&[4]);
    poisoned(ask(&btf, &btf, CoreReloKind::Unknown(99), "0:1"), "unknown kind 99");
}

#[test]
fn access_string_out_of_range_is_poisoned() {
    let btf = structs(&[4]);
    let field = CoreReloKind::FieldByteOffset;
    poisoned(ask(&btf, &btf, field, "0:7"), "member 7 of 2 is out of range");
    poisoned(ask(&btf, &btf, field, "0:1:0"), "has no parts");
    poisoned(ask(&btf, &btf, field, "x:y"), "malformed");
    poisoned(ask(&btf, &btf, field, ""), "malformed");
    poisoned(ask(&btf, &btf, CoreReloKind::EnumvalValue, "1"), "no enumeration");
    poisoned(ask(&btf, &btf, CoreReloKind::TypeSize, "0:1"), "accessed with 0");
}

#[test]
fn ambiguous_candidates_are_poisoned() {
    let local = structs(&[4]);
    let value = |target: &Btf| ask(&local, target, CoreReloKind::FieldByteOffset, "0:1");
    assert!(matches!(value(&structs(&[8, 8])), Resolution::Value(p) if p.new == 8), "two that agree");
    poisoned(value(&structs(&[8, 12])), "ambiguous");
    assert!(
        matches!(ask(&local, &structs(&[8, 12]), CoreReloKind::FieldByteOffset, "0:0"), Resolution::Value(p) if p.new == 0)
    );
}
