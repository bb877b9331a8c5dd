//! bpf(2) of the engine, for programs that are loaded for a place: iterators over maps, and extensions of functions.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;

use skep::bpf::cmd;
use skep::{Engine, LightSkeleton, Loaded, Mode, Object, UserMemory, Xdp, XdpAction};
use skep_abi::{AttachType, Errno, ProgType, RawInsn, asm};
use skep_btf::Kind;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

fn open(name: &str) -> Object {
    Object::open(format!("{FOLDER}/{name}.bpf.o")).unwrap()
}

fn engines() -> [Engine; 2] {
    [Mode::Jit, Mode::Interp].map(|mode| Engine::builder().vcpus(2).mode(mode).build().unwrap())
}

/// Buffers, each behind an address of its own.
#[derive(Default)]
struct Lent(RefCell<Vec<Vec<u8>>>);

impl Lent {
    /// Lends bytes; their address.
    fn put(&self, bytes: &[u8]) -> u64 {
        let mut all = self.0.borrow_mut();
        all.push(bytes.to_vec());
        (all.len() as u64) << 32
    }
}

impl UserMemory for Lent {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let all = self.0.borrow();
        let buffer = all.get(usize::try_from(address >> 32).unwrap().wrapping_sub(1)).ok_or(Errno::EFAULT)?;
        let at = usize::try_from(address & 0xffff_ffff).unwrap();
        to.copy_from_slice(buffer.get(at..at + to.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn write(&self, _: u64, _: &[u8]) -> Result<(), Errno> {
        Err(Errno::EFAULT)
    }
}

/// The attribute of BPF_PROG_LOAD for one program, before anything is added.
fn load_attr(memory: &Lent, prog_type: ProgType, attach_type: AttachType, insns: &[RawInsn]) -> Vec<u8> {
    let mut attr = vec![0u8; 152];
    put(&mut attr, 0, &(prog_type as u32).to_ne_bytes());
    put(&mut attr, 4, &u32::try_from(insns.len()).unwrap().to_ne_bytes());
    put(&mut attr, 8, &memory.put(&RawInsn::program_to_bytes(insns)).to_ne_bytes());
    put(&mut attr, 16, &memory.put(b"GPL\0").to_ne_bytes());
    put(&mut attr, 68, &(attach_type as u32).to_ne_bytes());
    attr
}

fn put(attr: &mut [u8], at: usize, bytes: &[u8]) {
    attr[at..at + bytes.len()].copy_from_slice(bytes);
}

#[test]
fn a_light_skeleton_of_iterators_writes_what_an_ordinary_load_does() {
    let object = open("map_iter");
    let loader = skep_skel::loader(object.spec()).unwrap();
    let maps = object.maps().iter().map(|map| (map.name.as_str(), map.image_len())).collect::<Vec<_>>();
    let programs: Vec<&str> = object.programs().iter().map(|program| program.name.as_str()).collect();
    let insns = RawInsn::program_to_bytes(&loader.insns);
    let skeleton = LightSkeleton { insns: &insns, data: &loader.data, maps: &maps, programs: &programs };
    for engine in engines() {
        let light = engine.load_light(&skeleton, &[]).unwrap();
        let ordinary = engine.load(object.clone()).unwrap();
        for key in 0..4u32 {
            let value = (u64::from(key) * 100).to_ne_bytes();
            light.map("slots").unwrap().update(&key.to_ne_bytes(), &value, 0).unwrap();
            ordinary.raw_map("slots").unwrap().update(&key.to_ne_bytes(), &value, 0).unwrap();
        }
        for (program, map) in [("dump", "slots"), ("drain", "slots"), ("percpu_data", ".percpu")] {
            let written = light.program(program).unwrap().iter_map(&light.map(map).unwrap()).unwrap();
            let expected = ordinary.program(program).unwrap().iter_map(&ordinary.raw_map(map).unwrap()).unwrap();
            assert!(!expected.is_empty());
            assert_eq!(written, expected, "{program} over {map}");
        }
        assert_eq!(engine.open_fds(), 0);
    }
}

/// An extension of `decide` in the policy's filter, loaded through bpf(2): what loads it, with `attach_prog_fd` and
/// `attach_btf_id` as given.
fn load_strict(engine: &Engine, policy: &Loaded, target: u32, function: u32) -> Result<u32, Errno> {
    let strict = open("policy_strict");
    let program = &strict.programs()[0];
    let memory = Lent::default();
    let types = strict.btf().unwrap().to_kernel_bytes().unwrap();
    let mut attr = vec![0u8; 28];
    put(&mut attr, 0, &memory.put(&types).to_ne_bytes());
    put(&mut attr, 16, &u32::try_from(types.len()).unwrap().to_ne_bytes());
    let btf = engine.bpf(&memory, cmd::BPF_BTF_LOAD, &attr).unwrap();
    let counters = engine.fd_of_map(&policy.raw_map(".percpu").unwrap()).unwrap();
    let mut insns = program.insns.clone();
    for insn in insns.iter_mut().filter(|insn| insn.is_ld_imm64()) {
        insn.imm = counters.cast_signed();
    }
    let mut attr = load_attr(&memory, ProgType::Ext, AttachType::default(), &insns);
    put(&mut attr, 48, b"strict");
    put(&mut attr, 72, &btf.to_ne_bytes());
    let records: Vec<u8> =
        program.func_info.iter().flat_map(|info| [info.insn_off, info.type_id.0]).flat_map(u32::to_ne_bytes).collect();
    put(&mut attr, 76, &8u32.to_ne_bytes());
    put(&mut attr, 80, &memory.put(&records).to_ne_bytes());
    put(&mut attr, 88, &u32::try_from(program.func_info.len()).unwrap().to_ne_bytes());
    put(&mut attr, 108, &function.to_ne_bytes());
    put(&mut attr, 112, &target.to_ne_bytes());
    let loaded = engine.bpf(&memory, cmd::BPF_PROG_LOAD, &attr);
    engine.close_fd(btf).unwrap();
    engine.close_fd(counters).unwrap();
    loaded
}

#[test]
fn an_extension_is_loaded_for_a_function_and_put_in_its_place() {
    for engine in engines() {
        let policy = engine.load(open("policy")).unwrap();
        let filter = policy.program("filter").unwrap();
        let action = || filter.test_run(Xdp::packet(&[0; 64])).unwrap().action();
        let target = engine.fd_of_program(&filter).unwrap();
        let function = policy.object().btf().unwrap().find("decide", Kind::Func).unwrap().0;
        let other = policy.object().btf().unwrap().find("filter", Kind::Func).unwrap().0;

        assert_eq!(load_strict(&engine, &policy, 0, function), Err(Errno::EINVAL), "no program");
        assert_eq!(load_strict(&engine, &policy, target, 0), Err(Errno::EINVAL), "no function");
        assert_eq!(load_strict(&engine, &policy, 3, function), Err(Errno::EBADF));
        assert_eq!(load_strict(&engine, &policy, target, 1), Err(Errno::EINVAL), "a type that is no function of it");
        assert_eq!(load_strict(&engine, &policy, target, other), Err(Errno::EINVAL), "a function with other arguments");
        let strict = load_strict(&engine, &policy, target, function).unwrap();
        assert_eq!(action(), XdpAction::Pass, "loaded is not attached");

        let link = |prog: u32, words: [u32; 4]| {
            let words: Vec<u8> = [prog].into_iter().chain(words).flat_map(u32::to_ne_bytes).collect();
            engine.bpf(&Lent::default(), cmd::BPF_LINK_CREATE, &words)
        };
        assert_eq!(link(target, [0; 4]), Err(Errno::EINVAL), "no extension");
        assert_eq!(link(strict, [target, 0, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(link(strict, [0, 0, 0, function]), Err(Errno::EINVAL));
        assert_eq!(link(strict, [target, 0, 0, other]), Err(Errno::EINVAL), "not what it was loaded for");
        assert_eq!(link(strict, [0, 1, 0, 0]), Err(Errno::EINVAL), "an attach type");
        assert_eq!(link(strict, [0, 0, 1, 0]), Err(Errno::EINVAL), "flags");
        assert_eq!(link(9, [0; 4]), Err(Errno::EBADF));
        for place in [[0; 4], [target, 0, 0, function]] {
            let attached = link(strict, place).unwrap();
            assert_eq!(action(), XdpAction::Drop);
            assert_eq!(link(strict, place), Err(Errno::EBUSY), "it has an extension already");
            engine.close_fd(attached).unwrap();
            assert_eq!(action(), XdpAction::Pass, "a closed link puts the function back");
        }
        engine.close_fd(strict).unwrap();
        engine.close_fd(target).unwrap();
        assert_eq!(engine.open_fds(), 0);
    }
}

#[test]
fn places_that_are_not_there() {
    let engine = Engine::new().unwrap();
    let insns = asm::assemble("r0 = 0\nexit").unwrap();
    let load = |prog_type, attach_type, id: u32, fd: u32| {
        let memory = Lent::default();
        let mut attr = load_attr(&memory, prog_type, attach_type, &insns);
        put(&mut attr, 108, &id.to_ne_bytes());
        put(&mut attr, 112, &fd.to_ne_bytes());
        engine.bpf(&memory, cmd::BPF_PROG_LOAD, &attr)
    };
    let xdp = load(ProgType::Xdp, AttachType::Xdp, 0, 0).unwrap();
    assert_eq!(load(ProgType::Xdp, AttachType::Xdp, 1, 0), Err(Errno::EINVAL), "a type that attaches to no function");
    assert_eq!(load(ProgType::Xdp, AttachType::Xdp, 0, xdp), Err(Errno::EINVAL));
    let iter = |id, fd| load(ProgType::Tracing, AttachType::TraceIter, id, fd);
    assert_eq!(iter(0, 0), Err(Errno::EINVAL));
    assert_eq!(iter(1, 0), Err(Errno::EINVAL), "a function, but none that iterators attach to");
    assert_eq!(iter(u32::MAX, 0), Err(Errno::EINVAL));
    for (prog_type, attach_type) in [
        (ProgType::Tracing, AttachType::TraceFentry),
        (ProgType::Lsm, AttachType::LsmMac),
        (ProgType::StructOps, AttachType::default()),
    ] {
        assert_eq!(load(prog_type, attach_type, 1, 0), Err(Errno::ENOTSUP), "{prog_type:?}");
        assert_eq!(load(prog_type, attach_type, 1, xdp), Err(Errno::ENOTSUP), "{prog_type:?}");
    }
    engine.close_fd(xdp).unwrap();
    assert_eq!(engine.open_fds(), 0);
}
