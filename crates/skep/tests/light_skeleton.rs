//! The Rust form of a light skeleton, as `skep gen skeleton -L --lang rust` writes it: compiled here, loaded and run.

use skep::{Engine, LightError, Mode, Xdp};

include!("data/percpu_counters.lskel.inc");

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/percpu_counters.lskel.inc");

#[test]
fn the_committed_text_is_what_is_generated() {
    let elf = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/percpu_counters.bpf.o")).unwrap();
    let object = skep_object::parse(&elf, "percpu_counters.bpf.o").unwrap();
    let text = skep_skel::rust_light_skeleton(&object, "percpu_counters").unwrap();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(FILE, text).unwrap();
    } else {
        assert!(std::fs::read_to_string(FILE).unwrap() == text, "BLESS=1 rewrites {FILE}");
    }
}

#[test]
fn a_light_skeleton_loads_with_values_of_its_caller() {
    for mode in [Mode::Jit, Mode::Interp] {
        let engine = Engine::builder().vcpus(2).mode(mode).build().unwrap();
        // `hits` is the third variable of the section: 8 bytes, a char, then at 12.
        let mut percpu = [0; 48];
        percpu[12..16].copy_from_slice(&100u32.to_ne_bytes());
        let light = percpu_counters::load(&engine, &[(".percpu", &percpu)]).unwrap();
        let map = light.map(".percpu").unwrap();
        let hits = |cpu: u64| {
            let value = map.lookup(&[0; 4], 8 | cpu << 32).unwrap();
            u32::from_ne_bytes(value[12..16].try_into().unwrap())
        };
        assert_eq!((hits(0), hits(1)), (100, 100), "every CPU begins with the caller's image");
        light.program("count").unwrap().test_run(Xdp::packet(&[0; 64])).unwrap();
        assert_eq!(hits(0) + hits(1), 201);
        let short = percpu_counters::load(&engine, &[(".percpu", &percpu[..40])]);
        assert!(matches!(short, Err(LightError::Size { wanted: 48, actual: 40, .. })), "{short:?}");
        assert!(light.map(".bss").unwrap_err().to_string().contains("there are .percpu, .percpu.last"));
        assert_eq!(engine.open_fds(), 0);
    }
}
