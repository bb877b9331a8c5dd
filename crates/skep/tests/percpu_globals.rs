//! Variables of `.percpu` sections: their values on each vCPU, their image before load and after it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use skep::{Engine, Loaded, Mode, Object, RawTp, TestOptions};
use skep_sync::CpuId;

/// The same source compiled three ways.
const BUILDS: [&str; 3] = ["percpu_globals", "percpu_globals_volatile", "percpu_globals_O0"];
const VCPUS: u32 = 3;

fn open(build: &str) -> Object {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    Object::open(folder.join(format!("{build}.bpf.o"))).unwrap()
}

fn engines() -> [Engine; 2] {
    [Mode::Interp, Mode::Jit].map(|mode| Engine::builder().vcpus(VCPUS as usize).mode(mode).build().unwrap())
}

/// The bytes of a variable on one vCPU; of a section that is not per CPU, its one value.
fn variable(loaded: &Loaded, name: &str, cpu: u32) -> Vec<u8> {
    let spec = loaded.object().spec();
    let variable = spec.variable(name).unwrap();
    let map = &spec.maps[variable.map];
    let flags = if map.kind == skep_object::MapKind::PerCpu { u64::from(cpu) << 32 | 8 } else { 0 };
    let value = loaded.raw_map(&map.name).unwrap().lookup(&[0; 4], flags).unwrap();
    let start = variable.offset as usize;
    value[start..start + variable.size as usize].to_vec()
}

fn int(loaded: &Loaded, name: &str, cpu: u32) -> i32 {
    i32::from_ne_bytes(variable(loaded, name, cpu).try_into().unwrap())
}

fn ints(loaded: &Loaded, name: &str, cpu: u32) -> Vec<i32> {
    variable(loaded, name, cpu).chunks(4).map(|c| i32::from_ne_bytes(c.try_into().unwrap())).collect()
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn touch(loaded: &Loaded, cpu: u32, by: u64) -> u32 {
    let options = TestOptions { cpu: Some(CpuId(cpu)), ..TestOptions::default() };
    loaded.program("touch").unwrap().test_run_with(RawTp::args(&[by]), &options).unwrap().retval
}

#[test]
fn the_variables_lie_where_c_puts_them() {
    for build in BUILDS {
        let object = open(build);
        let spec = object.spec();
        let place = |name| {
            let variable = spec.variable(name).unwrap();
            (spec.maps[variable.map].name.as_str(), variable.offset, variable.size)
        };
        // What clang sets to zero it puts last, so that the section ends with one byte more than a whole word.
        assert_eq!(place("first"), (".percpu", 0, 4), "{build}");
        assert_eq!(place("letter"), (".percpu", 4, 1));
        assert_eq!(place("seen"), (".percpu", 40, 1));
        assert_eq!(place("number"), (".percpu", 8, 4));
        assert_eq!(place("numbers"), (".percpu", 12, 12));
        assert_eq!(place("sample"), (".percpu", 24, 16));
        assert_eq!(place("more_letters"), (".percpu.more", 0, 5));
        assert_eq!(place("more_seen"), (".percpu.more", 5, 1));
        assert_eq!(place("more_samples"), (".percpu.more", 16, 32));
        assert_eq!(place("shared"), (".data.percpu", 0, 4));
        let map = |name| {
            let map = spec.map(name).unwrap();
            (map.map_type, map.key_size, map.value_size, map.max_entries, map.map_flags, map.kernel_name.as_str())
        };
        // PERCPU_ARRAY, never mmapable, under the section's own name; `.data.percpu` is an array as other data.
        assert_eq!(map(".percpu"), (6, 4, 41, 1, 0, ".percpu"));
        assert_eq!(map(".percpu.more"), (6, 4, 56, 1, 0, ".percpu.more"));
        assert_eq!(map(".data.percpu"), (2, 4, 4, 1, 1 << 10, ".data.percpu"));
    }
}

#[test]
fn each_vcpu_has_values_of_its_own() {
    for (build, engine) in BUILDS.iter().flat_map(|build| engines().map(|engine| (*build, engine))) {
        let mut object = open(build);
        object.set_variable("first", &100i32.to_ne_bytes()).unwrap();
        let loaded = engine.load(object).unwrap();
        for cpu in 0..VCPUS {
            assert_eq!(int(&loaded, "first", cpu), 100, "{build}: the value that was set, on every vCPU");
            assert_eq!(ints(&loaded, "numbers", cpu), [10, 20, 30]);
            assert_eq!(variable(&loaded, "more_letters", cpu), *b"abcd\0");
        }
        for cpu in 0..VCPUS {
            assert_eq!(touch(&loaded, cpu, u64::from(cpu) + 1), 101 + cpu);
        }
        for cpu in 0..VCPUS {
            let by = i32::try_from(cpu).unwrap() + 1;
            let grown = u64::from(cpu) + 1;
            let at = grown & 1;
            assert_eq!(int(&loaded, "first", cpu), 100 + by, "{build}");
            assert_eq!(variable(&loaded, "letter", cpu), *b"b");
            assert_eq!(variable(&loaded, "seen", cpu), [1]);
            assert_eq!(int(&loaded, "number", cpu), -5 - by);
            let numbers = if at == 1 { [10, 21 + by, 30] } else { [11, 20 + by, 30] };
            assert_eq!(ints(&loaded, "numbers", cpu), numbers);
            let sample = variable(&loaded, "sample", cpu);
            assert_eq!((sample[0], &sample[4..8]), (b't', &(7 + by).to_ne_bytes()[..]));
            assert_eq!(word(&sample, 8), 1000 + 1000 * grown);
            assert_eq!(variable(&loaded, "zero", cpu), grown.to_ne_bytes());
            assert_eq!(variable(&loaded, "more_letters", cpu), *b"abcD\0");
            assert_eq!(variable(&loaded, "more_seen", cpu), [0]);
            assert_eq!(int(&loaded, "more_number", cpu), 77 ^ by);
            let more = variable(&loaded, "more_samples", cpu);
            assert_eq!((more[0], more[16]), (b'x', b'z'));
            let grow = |of: u64| if of == at { grown } else { 0 };
            assert_eq!((word(&more, 8), word(&more, 24)), (2 + grow(0), 4 + grow(1)));
        }
        // One copy for all: what every vCPU added.
        assert_eq!(int(&loaded, "shared", 0), 500 + 1 + 2 + 3);
        assert_eq!(variable(&loaded, "runs", 0), u64::from(VCPUS).to_ne_bytes());
    }
}

#[test]
fn the_image_can_be_set_before_load_and_is_kept_after_it() {
    for (build, engine) in BUILDS.iter().flat_map(|build| engines().map(|engine| (*build, engine))) {
        let mut object = open(build);
        let mut image = object.initial_value(".percpu").unwrap().into_owned();
        assert_eq!((image.len(), image[4]), (41, b'a'));
        image[..4].copy_from_slice(&42i32.to_ne_bytes());
        object.set_initial_value(".percpu", &image).unwrap();
        for wrong in [&image[..40], &[0; 42][..], &[0; 48][..], &[][..]] {
            let refused = object.set_initial_value(".percpu", wrong).unwrap_err();
            let why = std::error::Error::source(&refused).unwrap().to_string();
            assert!(why.contains(&format!("{} bytes given, its value has 41", wrong.len())), "{why}");
        }
        assert_eq!(object.initial_value(".percpu").unwrap(), image, "a refusal changes nothing");
        assert!(object.set_variable("letter", b"ab").is_err(), "a variable's size is its own");
        let loaded = engine.load(object).unwrap();
        for cpu in 0..VCPUS {
            let value = loaded.raw_map(".percpu").unwrap().lookup(&[0; 4], u64::from(cpu) << 32 | 8).unwrap();
            assert_eq!(value, image);
            touch(&loaded, cpu, 9);
        }
        let kept = loaded.object().initial_value(".percpu").unwrap();
        assert_eq!(kept, image, "the image shows the initial values, not those of a vCPU");
        drop(engine);
        assert_eq!(kept, image);
    }
}

#[test]
fn a_section_that_is_all_zero_has_an_image_too() {
    let mut object = open("percpu_globals");
    object.set_initial_value(".percpu.more", &[0; 56]).unwrap();
    let loaded = Engine::new().unwrap().load(object).unwrap();
    touch(&loaded, 0, 1);
    assert_eq!(loaded.object().initial_value(".percpu.more").unwrap(), vec![0; 56]);
    assert_eq!(variable(&loaded, "zero", 0), 1u64.to_ne_bytes());
}
