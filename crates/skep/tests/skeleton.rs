//! Generated Rust skeletons on the engine: the committed one of `data.bpf.o`, with every kind of data section.

#![expect(clippy::unwrap_used, reason = "tests")]

include!("../../skel/tests/generated/data.inc");
include!("../../skel/tests/generated/maps.inc");
include!("../../skel/tests/generated/names.inc");
include!("../../skel/tests/generated/types.inc");
include!("../../skel/tests/generated/nobtf.inc");
include!("../../skel/tests/generated/sections.inc");
include!("../../skel/tests/generated/externs.inc");

use skep::{Engine, Mode, Xdp};

fn engines() -> Vec<Engine> {
    let engine = |mode| Engine::builder().vcpus(2).mode(mode).build().unwrap();
    vec![engine(Mode::Interp), engine(Mode::Jit)]
}

#[test]
fn variables_are_set_before_load_and_read_after_it() {
    for engine in engines() {
        let mut open = data_bpf::Open::new().unwrap();
        open.rodata.port = 100;
        open.rodata.config.limit = 20;
        open.rodata_limits.limits[1] = 3;
        open.data.counter = 1000;
        open.data_custom.custom = 7;
        open.bss.zeroed = 1 << 40;
        let skeleton = open.load(&engine).unwrap();
        let mut ctx = Xdp::packet(&[0; 64]).rx_queue_index(2).build().unwrap();
        for round in 1..=3u32 {
            assert_eq!(skeleton.progs.r#use.run(&mut ctx).unwrap(), 2);
            let data = skeleton.data().unwrap();
            // port + limit + limits[1] + level (HIGH) + enabled.
            assert_eq!(data.counter, 1000 + i32::try_from(round).unwrap() * (100 + 20 + 3 + 7 + 1));
            let bss = skeleton.bss().unwrap();
            assert_eq!(bss.zeroed, (1 << 40) + u64::from(round) * (7 + 3));
            assert_eq!(bss.table, [0, 0, round, 0]);
        }
        assert_eq!(skeleton.rodata().port, 100);
        let mut data = skeleton.data().unwrap();
        data.counter = -5;
        skeleton.set_data(&data).unwrap();
        skeleton.progs.r#use.run(&mut ctx).unwrap();
        assert_eq!(skeleton.data().unwrap().counter, -5 + 131);
    }
}

#[test]
fn programs_and_maps_are_fields() {
    let engine = Engine::new().unwrap();
    let loaded = names_bpf::Open::new().unwrap().load(&engine).unwrap();
    let mut ctx = Xdp::packet(&[0; 64]).build().unwrap();
    assert_eq!((loaded.progs.delete.run(&mut ctx).unwrap(), loaded.progs.r#loop.run(&mut ctx).unwrap()), (2, 1));
    loaded.maps.r#match.set(&0, &7).unwrap();
    assert_eq!((loaded.maps.r#match.get(&0).unwrap(), loaded.maps.new.get(&0).unwrap()), (7, 0));
    let mut open = sections_bpf::Open::new().unwrap();
    for program in ["tail", "mystery", "sleepable"] {
        open.object_mut().set_autoload(program, false).unwrap();
    }
    assert!(open.load(&engine).is_err(), "the skeleton has fields for programs that were not loaded");
}

#[test]
fn per_cpu_variables_are_of_each_vcpu() {
    for engine in engines() {
        let mut open = data_bpf::Open::new().unwrap();
        open.percpu.hits = 100;
        open.percpu.per_cpu_config.limit = 1;
        open.percpu_looooooooong.histogram = [10, 20, 30, 40, 0, 0, 0, 0];
        let skeleton = open.load(&engine).unwrap();
        assert_eq!(skeleton.percpu().unwrap().iter().map(|p| p.hits).collect::<Vec<_>>(), [100, 100]);
        let mut ctx = Xdp::packet(&[0; 64]).rx_queue_index(1).build().unwrap();
        for _ in 0..5 {
            skeleton.progs.r#use.run(&mut ctx).unwrap();
        }
        assert_eq!(skeleton.percpu_sum(|p| p.hits).unwrap(), 205);
        assert_eq!(skeleton.percpu_sum(|p| p.per_cpu_config.limit).unwrap(), 2 + 5 * 20);
        assert_eq!(skeleton.percpu_sum(|p| u32::from(p.seen.get())).unwrap(), 1);
        // Two threads at once, each on a vCPU of its own.
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let skeleton = skeleton.clone();
                scope.spawn(move || {
                    let mut ctx = Xdp::packet(&[0; 64]).build().unwrap();
                    for _ in 0..10_000 {
                        skeleton.progs.r#use.run(&mut ctx).unwrap();
                    }
                });
            }
        });
        assert_eq!(skeleton.percpu_sum(|p| p.hits).unwrap(), 20_205);
        // What it was loaded with: shared, and no longer to be changed.
        let initial: &data_bpf::Percpu = skeleton.percpu_initial();
        assert_eq!((initial.hits, initial.per_cpu_config.limit, initial.seen.get()), (100, 1, false));
        let same: *const data_bpf::Percpu = skeleton.clone().percpu_initial();
        assert!(std::ptr::eq(initial, same), "handles share the image");
    }
}
