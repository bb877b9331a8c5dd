//! An embedder's own context and helpers: verified and run as the built-in ones, in both modes.

use std::sync::OnceLock;

use skep::{
    Arg, Args, CtxField, CtxFieldKind, CtxLayout, Engine, Mode, Object, Program, User, UserContext, UserHelper, Xdp,
};

#[repr(C)]
#[derive(Clone, Debug)]
struct Message {
    seed: u64,
    result: u32,
    pad: u32,
    body: u64,
    body_end: u64,
}

// SAFETY: repr(C) without hidden padding; `result` may be anything; the body is a static slice that programs only read.
unsafe impl UserContext for Message {
    fn layout() -> CtxLayout {
        let fields = vec![
            CtxField::new("seed", 0, 8, CtxFieldKind::Scalar),
            CtxField::word("result", 8).writable(),
            CtxField::new("body", 16, 8, CtxFieldKind::PacketData),
            CtxField::new("body_end", 24, 8, CtxFieldKind::PacketEnd),
        ];
        CtxLayout::new("message", 32, fields)
    }

    fn packet(&self) -> Option<(u64, u64)> {
        Some((self.body, self.body_end))
    }
}

fn message(body: &'static [u8]) -> Message {
    let range = body.as_ptr_range();
    let address = |pointer: *const u8| pointer.expose_provenance() as u64;
    Message { seed: 100, result: 0, pad: 0, body: address(range.start), body_end: address(range.end) }
}

struct Sum;

impl UserHelper for Sum {
    const ID: u32 = 1000;
    const NAME: &'static str = "sum";
    const ARGS: [Arg; 5] = [Arg::Bytes, Arg::Len, Arg::Scalar, Arg::None, Arg::None];

    fn call(args: &mut Args<'_, Self>) -> u64 {
        args.bytes(0).iter().fold(args.scalar(2), |sum, byte| sum + u64::from(*byte))
    }
}

struct Fill;

impl UserHelper for Fill {
    const ID: u32 = 1001;
    const NAME: &'static str = "fill";
    const ARGS: [Arg; 5] = [Arg::BytesMut, Arg::Len, Arg::None, Arg::None, Arg::None];

    fn call(args: &mut Args<'_, Self>) -> u64 {
        args.bytes_mut(0).fill(50);
        0
    }
}

fn engine(mode: Mode) -> Engine {
    let builder = Engine::builder().mode(mode).context::<Message>("message");
    builder.helper::<Sum>().helper::<Fill>().build().expect("an engine")
}

fn object() -> Object {
    Object::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/helper.bpf.o")).expect("committed")
}

#[test]
fn programs_use_the_context_and_the_helpers() {
    for mode in [Mode::Jit, Mode::Interp] {
        let loaded = engine(mode).load(object()).expect("loads");
        let program = loaded.program("good").expect("is there");
        let out = program.test_run(User(message(b"\x01\x02\x03\x04\x05"))).expect("runs");
        assert_eq!((out.retval, out.ctx.result), (1 + 50 + 50 + 4, 110), "{mode:?}");
        let short = program.test_run(User(message(b"\x01\x02"))).expect("runs");
        assert_eq!((short.retval.cast_signed(), short.ctx.result), (-1, 0), "{mode:?}");
        assert!(program.test_run(Xdp::packet(&[0; 64])).is_err(), "another context was taken");
    }
}

#[test]
fn wrong_programs_are_refused() {
    for (program, says) in [
        ("beyond", "invalid access to packet"),
        ("read_only", "invalid bpf_context access off=0 size=8"),
        ("packet_write", "cannot write into packet"),
        ("hole", "invalid bpf_context access off=12 size=4"),
    ] {
        let mut object = object();
        object.set_autoload(program, true).expect("is there");
        let refused = engine(Mode::Jit).load(object).map(|_| ()).expect_err(program);
        assert!(refused.log().contains(says), "{program}: {}", refused.log());
    }
    let without = Engine::builder().context::<Message>("message").build().expect("an engine");
    let refused = without.load(object()).map(|_| ()).expect_err("the helpers do not exist");
    assert!(refused.log().contains("invalid func unknown#1001"), "{}", refused.log());
}

/// As `Fill`, and runs another program meanwhile, on the vCPU of the run that called it.
struct NestedFill;

static INNER: OnceLock<(Program, Engine)> = OnceLock::new();

impl UserHelper for NestedFill {
    const ID: u32 = 1001;
    const NAME: &'static str = "fill";
    const ARGS: [Arg; 5] = Fill::ARGS;

    fn call(args: &mut Args<'_, Self>) -> u64 {
        let mut packet = Xdp::packet(&[0; 64]).build().expect("a packet");
        let result = INNER.get().map(|(program, _)| program.run(&mut packet));
        let passed = matches!(result, Some(Ok(2)));
        args.bytes_mut(0).fill(if passed { 50 } else { 0 });
        0
    }
}

#[test]
fn a_run_inside_a_run() {
    let builder = Engine::builder().context::<Message>("message").helper::<Sum>().helper::<NestedFill>();
    let engine = builder.build().expect("an engine");
    let firewall = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/xdp_firewall.bpf.o");
    let inner = engine.load(Object::open(firewall).expect("committed")).expect("loads");
    assert!(INNER.set((inner.program("firewall").expect("is there"), engine.clone())).is_ok());
    let loaded = engine.load(object()).expect("loads");
    let program = loaded.program("good").expect("is there");
    for _ in 0..10 {
        let out = program.test_run(User(message(b"\x01\x02\x03\x04\x05"))).expect("runs");
        assert_eq!((out.retval, out.ctx.result), (1 + 50 + 50 + 4, 110));
    }
    assert_eq!(inner.map::<u32, u64>("verdicts").expect("the map").sum_cpus(&0).expect("counted"), 10);
}
