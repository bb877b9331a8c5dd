//! Iterators over the elements of maps: `SEC("iter/bpf_map_elem")` programs run on arrays, hash maps and per-CPU maps.

#![expect(clippy::unwrap_used, reason = "tests")]

use skep::{Engine, IterError, Loaded, Mode, Object, RawTp, TestOptions};
use skep_abi::Errno;
use skep_sync::CpuId;

fn engines() -> [Engine; 2] {
    [Mode::Interp, Mode::Jit].map(|mode| Engine::builder().vcpus(2).mode(mode).build().unwrap())
}

fn load(engine: &Engine) -> Loaded {
    let object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/map_iter.bpf.o")).unwrap();
    engine.load(object).unwrap()
}

fn iterate(loaded: &Loaded, program: &str, map: &str) -> Result<Vec<u8>, IterError> {
    loaded.program(program).unwrap().iter_map(&loaded.raw_map(map).unwrap())
}

fn text(loaded: &Loaded, program: &str, map: &str) -> String {
    String::from_utf8(iterate(loaded, program, map).unwrap()).unwrap()
}

fn variable(loaded: &Loaded, name: &str) -> u64 {
    let variable = loaded.object().spec().variable(name).unwrap();
    let map = &loaded.object().maps()[variable.map].name;
    let value = loaded.raw_map(map).unwrap().lookup(&[0; 4], 0).unwrap();
    let start = variable.offset as usize;
    u64::from_ne_bytes(value[start..start + 8].try_into().unwrap())
}

#[test]
fn an_array_is_walked_in_order() {
    for engine in engines() {
        let loaded = load(&engine);
        let slots = loaded.map::<u32, u64>("slots").unwrap();
        for key in 0..4 {
            slots.set(&key, &(u64::from(key) * 100)).unwrap();
        }
        let expected = "slots has 4 entries\n0: 0\n1: 100\n2: 200\n3: 300\nend after 3\n";
        assert_eq!(text(&loaded, "dump", "slots"), expected, "{:?}", engine.mode());
        assert_eq!(variable(&loaded, "sum"), 600);
    }
}

#[test]
fn a_hash_map_gives_each_element_once() {
    for engine in engines() {
        let loaded = load(&engine);
        // The program is run once for the end of an empty map too.
        assert_eq!(text(&loaded, "dump", "flows"), "end after 0\n");
        let flows = loaded.map::<u32, u64>("flows").unwrap();
        for key in 0..50u32 {
            flows.set(&key, &u64::from(key * key)).unwrap();
        }
        let text = text(&loaded, "dump", "flows");
        let mut lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.remove(0), "flows has 64 entries");
        assert_eq!(lines.pop(), Some("end after 49"));
        lines.sort_unstable();
        let mut expected: Vec<String> = (0..50).map(|key| format!("{key}: {}", key * key)).collect();
        expected.sort_unstable();
        assert_eq!(lines, expected);
    }
}

#[test]
fn values_are_the_maps_own_and_may_be_written() {
    for engine in engines() {
        let loaded = load(&engine);
        let slots = loaded.map::<u32, u64>("slots").unwrap();
        slots.set(&1, &11).unwrap();
        slots.set(&3, &33).unwrap();
        let words =
            |bytes: Vec<u8>| bytes.chunks(8).map(|w| u64::from_ne_bytes(w.try_into().unwrap())).collect::<Vec<_>>();
        assert_eq!(words(iterate(&loaded, "drain", "slots").unwrap()), [0, 11, 0, 33]);
        assert_eq!(words(iterate(&loaded, "drain", "slots").unwrap()), [0; 4]);
        assert_eq!(slots.get(&3).unwrap(), 0);
    }
}

#[test]
fn a_per_cpu_element_has_the_values_of_all_cpus() {
    for engine in engines() {
        let loaded = load(&engine);
        let odd = loaded.raw_map("odd").unwrap();
        for (key, cpu) in (0..3u32).flat_map(|key| [(key, 0u32), (key, 1)]) {
            let mut value = [0xff; 12];
            value[..4].copy_from_slice(&(10 * key + cpu).to_ne_bytes());
            odd.update(&key.to_ne_bytes(), &value, u64::from(cpu) << 32 | 8).unwrap();
        }
        // Values of 12 bytes are 16 apart.
        let words: Vec<u32> = iterate(&loaded, "two_cpus", "odd")
            .unwrap()
            .chunks(4)
            .map(|w| u32::from_ne_bytes(w.try_into().unwrap()))
            .collect();
        assert_eq!(words, [0, 1, 10, 11, 20, 21]);
        let flows = loaded.raw_map("percpu_flows").unwrap();
        flows.update(&7u32.to_ne_bytes(), &5u32.to_ne_bytes(), 16).unwrap();
        // What a program writes there is a copy, and `drain` needs 8 bytes of the 16 there are.
        assert_eq!(iterate(&loaded, "drain", "percpu_flows").unwrap(), 5u64.to_ne_bytes());
        assert_eq!(flows.lookup(&7u32.to_ne_bytes(), 1 << 32 | 8).unwrap(), 5u32.to_ne_bytes());
    }
}

#[test]
fn a_percpu_section_is_a_map_of_one_element() {
    for engine in engines() {
        let loaded = load(&engine);
        for (cpu, runs) in [(0, 2), (1, 1)] {
            let options = TestOptions { cpu: Some(CpuId(cpu)), repeat: runs };
            loaded.program("hit").unwrap().test_run_with(RawTp::args(&[]), &options).unwrap();
        }
        assert_eq!(text(&loaded, "percpu_data", ".percpu"), "1 42, 2 41\n");
    }
}

#[test]
fn a_map_that_does_not_fit_is_refused_before_the_first_run() {
    for engine in engines() {
        let loaded = load(&engine);
        let refused = |program, map| {
            let error = iterate(&loaded, program, map).unwrap_err();
            (error.errno(), error.to_string())
        };
        let far = "the program reaches 20 bytes into the value, map slots has 8";
        assert_eq!(refused("two_cpus", "slots"), (Errno::EACCES, far.to_owned()));
        let far = "the program reaches 20 bytes into the value, map percpu_flows has 16";
        assert_eq!(refused("two_cpus", "percpu_flows"), (Errno::EACCES, far.to_owned()));
        assert_eq!(refused("dump", "queue"), (Errno::EINVAL, "maps of type queue cannot be iterated".to_owned()));
        let other = "program hit does not iterate over map elements (SEC(\"iter/bpf_map_elem\"))";
        assert_eq!(refused("hit", "slots"), (Errno::EINVAL, other.to_owned()));
        let read_only =
            ("the program writes values, and those of map map_iter.rodata are read-only for programs").to_owned();
        assert_eq!(refused("drain", ".rodata"), (Errno::EACCES, read_only));
        assert_eq!(variable(&loaded, "sum"), 0, "nothing was run");
        let elsewhere = load(&Engine::new().unwrap()).raw_map("slots").unwrap();
        let error = loaded.program("dump").unwrap().iter_map(&elsewhere).unwrap_err();
        assert!(matches!(error, IterError::OtherEngine), "{error}");
        // Without a map there is nothing to run an iterator on.
        assert!(loaded.program("dump").unwrap().run(&mut RawTp::args(&[])).is_err());
    }
}

#[test]
fn output_is_read_in_buffers_of_eight_pages() {
    for engine in engines() {
        let loaded = load(&engine);
        // Nine pages for one element do not fit; a ninth write says so.
        let error = iterate(&loaded, "flood", "slots").unwrap_err();
        assert_eq!(error.errno(), Errno::E2BIG);
        assert!(variable(&loaded, "sum") >= 1);
        let loaded = load(&engine);
        assert_eq!(iterate(&loaded, "pages", "slots").unwrap().len(), 4 * 3 * 4096);
        // The third element did not fit behind two and was shown again; four elements, one again, the end.
        assert_eq!(variable(&loaded, "sum"), 6);
    }
}

#[test]
fn a_program_may_ask_for_an_element_again() {
    for engine in engines() {
        let mut object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/map_iter.bpf.o")).unwrap();
        object.set_variable("fail_at", &2i32.to_ne_bytes()).unwrap();
        let loaded = engine.load(object).unwrap();
        let keys: Vec<u8> = (0..4u32).flat_map(u32::to_ne_bytes).collect();
        assert_eq!(iterate(&loaded, "again", "slots").unwrap(), keys);
        assert_eq!(variable(&loaded, "sum"), 6, "four elements, one of them twice, and the end");
        // Nothing was written before the first element, so its failure is the reader's.
        let mut object = Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/map_iter.bpf.o")).unwrap();
        object.set_variable("fail_at", &0i32.to_ne_bytes()).unwrap();
        let error = iterate(&engine.load(object).unwrap(), "again", "slots").unwrap_err();
        assert_eq!(error.errno(), Errno::EAGAIN);
    }
}
