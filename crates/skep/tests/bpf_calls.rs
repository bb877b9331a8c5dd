//! bpf(2) of the engine: the kernel's errnos, and no way to memory that was not lent.
#![expect(clippy::unwrap_used, reason = "tests")]

use skep::bpf::cmd;
use skep::{Engine, LightError, LightSkeleton, Mode, Syscall, UserMemory};
use skep_abi::{Errno, MapType, ProgType, RawInsn, asm};
use skep_btf::{Builder, Composite, Int, Member, TypeData};

/// One buffer that addresses from 4096 on lead to.
struct Buffer(std::cell::RefCell<Vec<u8>>);

const START: u64 = 4096;

impl UserMemory for Buffer {
    fn read(&self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        let at = usize::try_from(address.checked_sub(START).ok_or(Errno::EFAULT)?).unwrap();
        let memory = self.0.borrow();
        to.copy_from_slice(memory.get(at..at + to.len()).ok_or(Errno::EFAULT)?);
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Errno> {
        let at = usize::try_from(address.checked_sub(START).ok_or(Errno::EFAULT)?).unwrap();
        let mut memory = self.0.borrow_mut();
        memory.get_mut(at..at + from.len()).ok_or(Errno::EFAULT)?.copy_from_slice(from);
        Ok(())
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn elem(fd: u32, key: u64, value: u64, flags: u64) -> Vec<u8> {
    [u64::from(fd), key, value, flags].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[test]
fn map_commands_work_on_lent_memory() {
    let engine = Engine::new().unwrap();
    let memory = Buffer(vec![0; 64].into());
    let fd = engine.bpf(&memory, cmd::BPF_MAP_CREATE, &words(&[MapType::Hash as u32, 4, 8, 2])).unwrap();
    memory.0.borrow_mut()[..12].copy_from_slice(&[1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    let bpf = |command, attr: &[u8]| engine.bpf(&memory, command, attr);
    assert_eq!(bpf(cmd::BPF_MAP_UPDATE_ELEM, &elem(fd, START, START + 4, 0)), Ok(0));
    assert_eq!(bpf(cmd::BPF_MAP_UPDATE_ELEM, &elem(fd, START, START + 4, 1)), Err(Errno::EEXIST));
    assert_eq!(bpf(cmd::BPF_MAP_LOOKUP_ELEM, &elem(fd, START, START + 32, 0)), Ok(0));
    assert_eq!(memory.0.borrow()[32..40], [2, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(bpf(cmd::BPF_MAP_GET_NEXT_KEY, &elem(fd, 0, START + 40, 0)), Ok(0));
    assert_eq!(memory.0.borrow()[40..44], [1, 0, 0, 0]);
    assert_eq!(bpf(cmd::BPF_MAP_LOOKUP_ELEM, &elem(fd, START, START + 60, 0)), Err(Errno::EFAULT));
    assert_eq!(bpf(cmd::BPF_MAP_UPDATE_ELEM, &elem(fd, 8, START, 0)), Err(Errno::EFAULT));
    assert_eq!(bpf(cmd::BPF_MAP_DELETE_ELEM, &elem(fd, START, 0, 0)), Ok(0));
    assert_eq!(bpf(cmd::BPF_MAP_DELETE_ELEM, &elem(fd, START, 0, 0)), Err(Errno::ENOENT));
    assert_eq!(bpf(cmd::BPF_MAP_FREEZE, &words(&[fd])), Ok(0));
    assert_eq!(bpf(cmd::BPF_MAP_UPDATE_ELEM, &elem(fd, START, START + 4, 0)), Err(Errno::EPERM));
    assert_eq!(engine.map_of_fd(fd).unwrap().info().max_entries, 2);
    assert_eq!(engine.close_fd(fd), Ok(()));
    assert_eq!(engine.close_fd(fd), Err(Errno::EBADF));
    assert_eq!(bpf(cmd::BPF_MAP_FREEZE, &words(&[fd])), Err(Errno::EBADF));
    assert_eq!(engine.open_fds(), 0);
}

#[test]
fn attributes_are_checked_as_the_kernel_does() {
    let engine = Engine::new().unwrap();
    let memory = Buffer(vec![0; 64].into());
    let create = |attr: &[u8]| engine.bpf(&memory, cmd::BPF_MAP_CREATE, attr);
    assert_eq!(engine.bpf(&memory, 999, &[]), Err(Errno::EINVAL));
    assert_eq!(create(&[]), Err(Errno::EINVAL));
    let mut attr = words(&[MapType::Array as u32, 4, 4, 1]);
    attr.resize(120, 0);
    attr[100] = 1;
    assert_eq!(create(&attr), Err(Errno::EINVAL), "a member that the command does not have");
    attr[100] = 0;
    attr.resize(400, 0);
    let fd = create(&attr).unwrap();
    attr[399] = 1;
    assert_eq!(create(&attr), Err(Errno::E2BIG), "a member that no command has");
    let mut named = words(&[MapType::Array as u32, 4, 4, 1]);
    named.resize(72, 0);
    named[28..32].copy_from_slice(b"a-b\0");
    assert_eq!(create(&named), Err(Errno::EINVAL), "a name");
    let mut with_types = words(&[MapType::Array as u32, 4, 4, 1]);
    with_types.resize(72, 0);
    with_types[56] = 1;
    assert_eq!(create(&with_types), Err(Errno::EBADF), "types without a descriptor");
    assert_eq!(engine.bpf(&memory, cmd::BPF_BTF_LOAD, &elem(0, 0, 24, 0)), Err(Errno::EFAULT));
    assert_eq!(engine.program_of_fd(fd).map(drop), Err(Errno::EINVAL), "a map is no program");
    let load = |insns: &[RawInsn], change: &dyn Fn(&mut [u8])| {
        let mut bytes = RawInsn::program_to_bytes(insns);
        let license = bytes.len() as u64;
        bytes.extend_from_slice(b"GPL\0");
        bytes.resize(4096, 0);
        let memory = Buffer(bytes.into());
        let mut attr = vec![0; 128];
        attr[..8].copy_from_slice(&words(&[ProgType::Xdp as u32, u32::try_from(insns.len()).unwrap()]));
        attr[8..16].copy_from_slice(&START.to_ne_bytes());
        attr[16..24].copy_from_slice(&(START + license).to_ne_bytes());
        change(&mut attr);
        let result = engine.bpf(&memory, cmd::BPF_PROG_LOAD, &attr);
        let log = memory.0.borrow()[2048..].split(|b| *b == 0).next().unwrap_or_default().to_vec();
        (result, String::from_utf8(log).unwrap())
    };
    let good = asm::assemble("r0 = 2\nexit").unwrap();
    let bad = asm::assemble("r0 = *(u64 *)(r2 +0)\nexit").unwrap();
    let with_log = |attr: &mut [u8]| {
        attr[24..32].copy_from_slice(&words(&[1, 2048]));
        attr[32..40].copy_from_slice(&(START + 2048).to_ne_bytes());
    };
    let program = load(&good, &|_| {}).0.unwrap();
    assert_eq!(engine.program_of_fd(program).unwrap().prog_type(), ProgType::Xdp);
    let (result, log) = load(&bad, &with_log);
    assert_eq!(result, Err(Errno::EACCES));
    assert!(log.contains("R2 !read_ok"), "{log}");
    assert_eq!(load(&bad, &|_| {}).0, Err(Errno::EACCES));
    assert_eq!(load(&good, &|attr| attr[32] = 1).0, Err(Errno::EINVAL), "a log without a size");
    assert_eq!(load(&good, &|attr| attr[4] = 0).0, Err(Errno::E2BIG));
    assert_eq!(load(&good, &|attr| attr[0] = 200).0, Err(Errno::EINVAL));
    assert_eq!(load(&good, &|attr| attr[9] = 0).0, Err(Errno::EFAULT), "instructions that are not there");
    assert_eq!(load(&good, &|attr| attr[104] = 1).0, Err(Errno::EINVAL), "lines without types");
}

/// A syscall program with the engine's helpers; its result over a context.
fn run(mode: Mode, text: &str, ctx: &mut Syscall) -> i64 {
    let engine = Engine::builder().mode(mode).build().unwrap();
    let insns = RawInsn::program_to_bytes(&asm::assemble(text).unwrap());
    let mut memory = insns;
    let license = START + memory.len() as u64;
    memory.extend_from_slice(b"GPL\0");
    let mut attr = vec![0; 128];
    let count = u32::try_from((license - START) / 8).unwrap();
    attr[..8].copy_from_slice(&words(&[ProgType::Syscall as u32, count]));
    attr[8..16].copy_from_slice(&START.to_ne_bytes());
    attr[16..24].copy_from_slice(&license.to_ne_bytes());
    attr[44] = 16;
    let fd = engine.bpf(&Buffer(memory.into()), cmd::BPF_PROG_LOAD, &attr).unwrap();
    let r0 = engine.program_of_fd(fd).unwrap().run(ctx).unwrap();
    assert_eq!(engine.open_fds(), 1, "the program closed what it opened");
    r0.cast_signed()
}

#[test]
fn programs_reach_what_they_were_lent_and_nothing_else() {
    let secret = *b"secret!!";
    let copy = "\
r3 = *(u64 *)(r1 +0)
r6 = r1
r1 = r10
r1 += -8
r2 = 8
call 148
r1 = *(u64 *)(r10 -8)
*(u64 *)(r6 +8) = r1
exit";
    for mode in [Mode::Jit, Mode::Interp] {
        let mut lent = Syscall::bytes(&[0; 16]).with_user_memory(b"lent it!".to_vec());
        lent.set_u64(0, lent.user_address());
        assert_eq!(run(mode, copy, &mut lent), 0);
        assert_eq!(&lent.to_bytes()[8..], b"lent it!");
        for address in [secret.as_ptr().expose_provenance() as u64, lent.user_address() + 1, 0] {
            lent.set_u64(0, address);
            assert_eq!(run(mode, copy, &mut lent), -14, "{mode:?}");
            assert_eq!(lent.to_bytes()[8..], [0; 8]);
        }
        // MAP_UPDATE_ELEM with a key at an address of the process.
        let update = "\
r6 = r1
*(u64 *)(r10 -32) = 0
*(u64 *)(r10 -24) = 0
*(u64 *)(r10 -16) = 0
*(u64 *)(r10 -8) = 0
*(u32 *)(r10 -32) = 1
*(u32 *)(r10 -28) = 4
*(u32 *)(r10 -24) = 4
*(u32 *)(r10 -20) = 1
r1 = 0
r2 = r10
r2 += -32
r3 = 16
call 166
r7 = r0
*(u64 *)(r10 -32) = r0
r1 = *(u64 *)(r6 +0)
*(u64 *)(r10 -24) = r1
*(u64 *)(r10 -16) = r1
*(u64 *)(r10 -8) = 0
r1 = 2
r2 = r10
r2 += -32
r3 = 32
call 166
r8 = r0
r1 = r7
call 168
r0 = r8
exit";
        let mut ctx = Syscall::bytes(&[0; 16]);
        ctx.set_u64(0, secret.as_ptr().expose_provenance() as u64);
        assert_eq!(run(mode, update, &mut ctx), -14, "{mode:?}");
        // Commands that no program may use, a descriptor that is not open, a name that is not there.
        let run = |text: &str| run(mode, text, &mut Syscall::bytes(&[0; 16]));
        let command =
            |number: u32| format!("*(u64 *)(r10 -8) = 0\nr1 = {number}\nr2 = r10\nr2 += -8\nr3 = 8\ncall 166\nexit");
        assert_eq!(run(&command(1)), -22);
        assert_eq!(run(&command(10)), -22);
        assert_eq!(run(&command(22)), -9);
        assert_eq!(run("r1 = 5\ncall 168\nexit"), -9);
        let find = |name: u64, len: u32, flags: u32| {
            let low = name & 0xffff_ffff;
            format!(
                "r1 = {high}\nr1 <<= 32\nr2 = {low} ll\nr1 |= r2\n*(u64 *)(r10 -8) = r1\nr1 = r10\nr1 += -8\nr2 = {len}\nr3 = \
                 12\nr4 = {flags}\ncall 167\nexit",
                high = name >> 32
            )
        };
        assert_eq!(run(&find(u64::from_le_bytes(*b"nothing\0"), 8, 0)), -2);
        assert_eq!(run(&find(u64::from_le_bytes(*b"nothing!"), 8, 0)), -22, "no NUL");
        assert_eq!(run(&find(0, 1, 0)), -22);
        assert_eq!(run(&find(u64::from_le_bytes(*b"nothing\0"), 8, 1)), -22);
    }
}

#[test]
fn a_loader_that_fails_leaves_nothing() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_dispatch.bpf.o")).unwrap();
    let mut object = skep_object::parse(&bytes, "xdp_dispatch.bpf.o").unwrap();
    // The last program reads a register that nobody wrote.
    let last = object.programs.last_mut().unwrap();
    last.insns[0] = RawInsn { code: 0xbf, dst: 0, src: 8, off: 0, imm: 0 };
    let maps = object.maps.iter().map(|map| (map.name.as_str(), map.image_len())).collect::<Vec<_>>();
    let programs: Vec<&str> = object.programs.iter().map(|program| program.name.as_str()).collect();
    let loader = skep_skel::loader(&object).unwrap();
    let insns = RawInsn::program_to_bytes(&loader.insns);
    let light = LightSkeleton { insns: &insns, data: &loader.data, maps: &maps, programs: &programs };
    let engine = Engine::new().unwrap();
    match engine.load_light(&light, &[]).unwrap_err() {
        LightError::Failed { errno, log } => {
            assert_eq!(errno, Errno::EACCES);
            assert!(log.contains("R8 !read_ok"), "{log}");
        }
        other => unreachable!("{other:?}"),
    }
    assert_eq!(engine.open_fds(), 0);
    let error = engine.load_light(&light, &[(".nothing", &[])]).unwrap_err();
    assert!(error.to_string().starts_with("no map named '.nothing'; there are "), "{error}");
    let cut = LightSkeleton { insns: &insns[..insns.len() - 8], ..light };
    match engine.load_light(&cut, &[]).unwrap_err() {
        LightError::Refused { errno, log } => assert!(errno == Errno::EINVAL && !log.is_empty(), "{errno} {log}"),
        other => unreachable!("{other:?}"),
    }
    assert_eq!(engine.open_fds(), 0);
}

/// Types are what they were loaded as: a second load of the same bytes describes other objects, as far as anyone can tell.
#[test]
fn a_map_of_objects_goes_with_programs_of_its_own_types_alone() {
    let engine = Engine::new().unwrap();
    // A value that keeps an object: struct slot { struct item kptr *item; }.
    let mut types = Builder::new();
    let name = types.string("item").unwrap();
    let int = |size: u8| TypeData::Int(Int { size: size.into(), encoding: 0, offset: 0, bits: size * 8 });
    let (key, number) = (types.add("u32", int(4)).unwrap(), types.add("u64", int(8)).unwrap());
    let record = |ty| {
        let members = vec![Member { name, ty, bit_offset: 0, bitfield_size: 0 }];
        TypeData::Struct(Composite { size: 8, members, kind_flag: false })
    };
    let item = types.add("item", record(number)).unwrap();
    let kept = types.add("kptr", TypeData::TypeTag { ty: item, attribute: false }).unwrap();
    let pointer = types.add("", TypeData::Ptr(kept)).unwrap();
    let slot = types.add("slot", record(pointer)).unwrap();
    let load_types = || {
        let bytes = types.to_bytes().unwrap();
        let mut attr = vec![0; 32];
        attr[..8].copy_from_slice(&START.to_ne_bytes());
        attr[16..20].copy_from_slice(&u32::try_from(bytes.len()).unwrap().to_ne_bytes());
        engine.bpf(&Buffer(bytes.into()), cmd::BPF_BTF_LOAD, &attr).unwrap()
    };
    let (own, foreign) = (load_types(), load_types());
    let create = |btf, key_type, value_type| {
        let mut attr = words(&[MapType::Array as u32, 4, 8, 1]);
        attr.resize(72, 0);
        attr[48..60].copy_from_slice(&words(&[btf, key_type, value_type]));
        engine.bpf(&Buffer(vec![0; 64].into()), cmd::BPF_MAP_CREATE, &attr).unwrap()
    };
    let (of_objects, of_bytes) = (create(own, key.0, slot.0), create(0, 0, 0));
    let load = |map: u32, btf: u32| {
        let mut insns = asm::assemble("r1 = 0 ll\nr0 = 0\nexit").unwrap();
        insns[0].src = 1;
        insns[0].imm = map.cast_signed();
        let mut bytes = RawInsn::program_to_bytes(&insns);
        let license = START + bytes.len() as u64;
        bytes.extend_from_slice(b"GPL\0");
        let mut attr = vec![0; 128];
        attr[..8].copy_from_slice(&words(&[ProgType::Xdp as u32, u32::try_from(insns.len()).unwrap()]));
        attr[8..16].copy_from_slice(&START.to_ne_bytes());
        attr[16..24].copy_from_slice(&license.to_ne_bytes());
        attr[72..76].copy_from_slice(&btf.to_ne_bytes());
        engine.bpf(&Buffer(bytes.into()), cmd::BPF_PROG_LOAD, &attr).map(drop)
    };
    assert_eq!(load(of_objects, own), Ok(()));
    assert_eq!(load(of_objects, foreign), Err(Errno::EINVAL), "other types");
    assert_eq!(load(of_objects, 0), Err(Errno::EINVAL), "no types");
    assert_eq!(load(of_bytes, foreign), Ok(()), "a map that keeps no objects");
}
