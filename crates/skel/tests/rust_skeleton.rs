//! Rust skeletons of committed objects: the text is what is committed in `generated` (`BLESS=1` writes it), and it
//! compiles into structs with C's layout. What it does with an engine is tested where the engine is, in crate `skep`.

// The generated code finds here, under the name of the engine's crate, as much of it as it mentions.
extern crate self as skep;

pub use stand_in::{Engine, Loaded, Object, Program, RawMap, TypedMap};
pub use zerocopy;

mod stand_in;

include!("generated/data.inc");
include!("generated/names.inc");
include!("generated/types.inc");
include!("generated/maps.inc");
include!("generated/nobtf.inc");
include!("generated/sections.inc");
include!("generated/externs.inc");
include!("generated/collide.inc");

use std::mem::{align_of, offset_of, size_of};

#[test]
fn the_text_is_what_is_committed() {
    for name in ["data", "names", "types", "maps", "nobtf", "sections", "externs", "collide"] {
        let root = env!("CARGO_MANIFEST_DIR");
        let elf = std::fs::read(format!("{root}/../object/tests/c/{name}.bpf.o")).unwrap();
        let object = skep_object::parse(&elf, name).unwrap();
        let text = skep_skel::rust_skeleton(&object, &elf, &skep_skel::object_ident(&format!("{name}.bpf.o"))).unwrap();
        let path = format!("{root}/tests/generated/{name}.inc");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(std::fs::read_to_string(&path).unwrap() == text, "{name}: run with BLESS=1 and look at the difference");
    }
}

#[test]
fn the_subskeleton_is_what_is_committed() {
    let root = env!("CARGO_MANIFEST_DIR");
    let elf = std::fs::read(format!("{root}/../object/tests/c/link/lib.bpf.o")).unwrap();
    let text = skep_skel::rust_subskeleton(&skep_object::parse(&elf, "lib").unwrap(), "lib_bpf").unwrap();
    let path = format!("{root}/tests/generated/lib_sub.inc");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap() == text, "run with BLESS=1 and look at the difference");
    assert!(!text.contains("lib_hits"), "variables of .percpu are left out");
}

#[test]
fn sections_have_the_layout_of_c() {
    use data_bpf::{Bss, Data, Percpu, PercpuLooooooooong, Rodata};
    assert_eq!((offset_of!(Rodata, port), offset_of!(Rodata, config), offset_of!(Rodata, level)), (0, 8, 28));
    assert_eq!((offset_of!(Data, counter), offset_of!(Data, current)), (0, 8));
    assert_eq!((offset_of!(Percpu, hits), offset_of!(Percpu, tag), offset_of!(Percpu, per_cpu_config)), (0, 4, 8));
    assert_eq!((offset_of!(Bss, zeroed), offset_of!(Bss, table)), (8, 16));
    assert_eq!(size_of::<PercpuLooooooooong>(), 32);
    assert_eq!((size_of::<data_bpf::types::config>(), align_of::<data_bpf::types::config>()), (16, 8));
}

#[test]
fn types_have_the_layout_of_c() {
    use types_bpf::types::{aligned, bits, everything, packed, packed_bits};
    assert_eq!((size_of::<packed>(), offset_of!(packed, wide), offset_of!(packed, half)), (11, 1, 9));
    assert_eq!((size_of::<aligned>(), offset_of!(aligned, i), offset_of!(aligned, tail)), (64, 32, 36));
    assert_eq!(size_of::<packed_bits>(), 6);
    assert_eq!((size_of::<bits>(), offset_of!(bits, plain)), (24, 18));
    let btf = {
        let elf = std::fs::read(format!("{}/../object/tests/c/types.bpf.o", env!("CARGO_MANIFEST_DIR"))).unwrap();
        skep_object::parse(&elf, "types").unwrap().btf.unwrap()
    };
    let id = btf.find("everything", skep_btf::Kind::Struct).unwrap();
    let place = |name| btf.find_member(id, name).unwrap().bit_offset as usize / 8;
    assert_eq!(size_of::<everything>(), btf.size_of(id).unwrap() as usize);
    assert_eq!(offset_of!(everything, aligned), place("aligned"));
    assert_eq!(offset_of!(everything, large), place("large"));
    assert_eq!(offset_of!(everything, matrix), place("matrix"));
    assert_eq!(offset_of!(everything, huge), place("huge"));
    assert_eq!(offset_of!(everything, flexible), place("flexible"));
}

#[test]
fn bit_fields_and_unions_are_methods() {
    use zerocopy::FromZeros;
    let mut bits = types_bpf::types::bits::new_zeroed();
    bits.set_a(5);
    bits.set_b(0x3fff_ffff);
    bits.set_d(-1);
    assert_eq!((bits.a(), bits.b(), bits.c(), bits.d()), (5, 0x3fff_ffff, 0, -1));
    bits.set_b(1);
    assert_eq!((bits.a(), bits.b(), bits.d()), (5, 1, -1));
    let mut union = names_bpf::types::data_impl_anon0::new_zeroed();
    union.set_crate_(0x0403_0201);
    assert_eq!(union.bytes(), [1, 2, 3, 4, 0, 0, 0, 0]);
}

#[test]
fn initial_values_are_those_of_the_object() {
    let mut open = data_bpf::Open::new().unwrap();
    assert_eq!((open.rodata.port, open.rodata.config.limit, open.rodata.enabled.get()), (443, 1000, true));
    assert_eq!(open.rodata.level, data_bpf::types::level::HIGH);
    assert_eq!((open.data.counter, open.percpu.hits, open.percpu.tag), (5, 11, b'x'.cast_signed()));
    assert_eq!(open.percpu_looooooooong.histogram, [1, 2, 3, 4, 0, 0, 0, 0]);
    open.rodata.port = 80;
    open.percpu.per_cpu_config.port = 8081;
    let skeleton = open.load(&Engine).unwrap();
    let value = |map: &str| skeleton.loaded().object().spec().map(map).unwrap().image.clone();
    assert_eq!(value(".rodata")[..2], 80u16.to_le_bytes());
    assert_eq!(value(".percpu")[8..10], 8081u16.to_le_bytes());
    // The static variable between the others keeps its value.
    assert_eq!(value(".data").windows(4).filter(|w| *w == 9u32.to_le_bytes()).count(), 1);
    assert_eq!(skeleton.rodata().port, 80);
    assert_eq!(skeleton.data().unwrap().counter, 5);
    let percpu = skeleton.percpu().unwrap();
    assert_eq!(percpu.iter().map(|p| p.hits).collect::<Vec<_>>(), [11, 11]);
    assert_eq!(skeleton.percpu_sum(|p| p.hits).unwrap(), 22);
    assert_eq!((skeleton.percpu_initial().hits, skeleton.percpu_initial().per_cpu_config.port), (11, 8081));
    let mut data = skeleton.data().unwrap();
    data.counter = 6;
    skeleton.set_data(&data).unwrap();
    assert_eq!(skeleton.data().unwrap().counter, 6);
}

#[test]
fn names_that_would_be_the_same_are_told_apart() {
    let skeleton = collide_bpf::Open::new().unwrap().load(&Engine).unwrap();
    // The section `.percpu.sum` has its name; the sum over `.percpu` makes way.
    assert_eq!(skeleton.percpu_sum().unwrap().iter().map(|s| s.of_sum).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(skeleton.percpu_sum_(|p| p.hits).unwrap(), 2);
    assert_eq!(skeleton.percpu_initial().unwrap()[0].of_initial, 3);
    assert_eq!(skeleton.percpu_initial_().hits, 1);
    let (upper, also): (collide_bpf::DataAB, collide_bpf::DataAB_) =
        (skeleton.data_aB().unwrap(), skeleton.data_a_b().unwrap());
    assert_eq!((skeleton.data_ab().unwrap().lower, upper.upper, also.also_upper), (4, 5, 6));
    // The aliases go before the C structs of their names.
    let _: &TypedMap<u32, collide_bpf::types::MapAMapValue> = &skeleton.maps.map_a;
    let _: &TypedMap<u32, collide_bpf::types::MapA_MapValue> = &skeleton.maps.mapA;
    let _: collide_bpf::types::MapAMapKey = 0u32;
    let _: collide_bpf::types::MapA_MapKey = 0u32;
}

#[test]
fn skeletons_are_owned_and_shared() {
    fn check<T: Clone + Send + Sync + 'static>() {}
    check::<data_bpf::Skeleton>();
    check::<data_bpf::Open>();
    check::<maps_bpf::Maps>();
    let _: Option<Program> = sections_bpf::Open::new().unwrap().load(&Engine).unwrap().progs.optional;
    let _: TypedMap<maps_bpf::types::key, maps_bpf::types::value> =
        maps_bpf::Open::new().unwrap().load(&Engine).unwrap().maps.typed;
}
