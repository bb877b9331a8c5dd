//! Each rewrite on a program of its own, with the facts that the verifier would give.

use skep_abi::{AluOp, AttachType, JmpOp, MapType, Operand, ProgType, RawInsn, Reg, Size, TailCallImm, Width};

use super::*;
use crate::spec::{MapShape, ProgFlags};
use crate::verified::{Const, MapArg, MemKind, Poke, Stats, Subprog};

/// A program under construction: instructions with their facts, and what the load names.
#[derive(Default)]
struct Program {
    insns: Vec<RawInsn>,
    facts: Vec<InsnFacts>,
    starts: Vec<u32>,
    maps: Vec<MapShape<'static>>,
}

impl Program {
    fn add(mut self, insn: Insn) -> Self {
        let at = self.insns.len();
        insn.push_to(&mut self.insns);
        self.facts.resize(self.insns.len(), InsnFacts::default());
        self.facts[at].reachable = true;
        self
    }

    fn dead(mut self, insn: Insn) -> Self {
        let at = self.insns.len();
        self = self.add(insn);
        self.facts[at].reachable = false;
        self
    }

    fn fact(mut self, set: impl Fn(&mut InsnFacts)) -> Self {
        let at = self.facts.iter().rposition(|facts| facts.reachable).expect("a live instruction");
        set(&mut self.facts[at]);
        self
    }

    fn subprog(mut self) -> Self {
        self.starts.push(u32::try_from(self.insns.len()).expect("short"));
        self
    }

    fn map(mut self, map_type: MapType, value_size: u32, max_entries: u32) -> Self {
        self.maps.push(MapShape::new(map_type, 4, value_size, max_entries));
        self
    }

    fn rewrite(&self) -> Result<Xlated, RewriteError> {
        self.rewrite_with(&RewriteOptions::default())
    }

    fn rewrite_with(&self, options: &RewriteOptions<'_>) -> Result<Xlated, RewriteError> {
        let end = u32::try_from(self.insns.len()).expect("short");
        let starts: Vec<u32> = [0].iter().chain(&self.starts).copied().collect();
        let ends = starts[1..].iter().copied().chain([end]);
        let subprogs =
            starts.iter().zip(ends).map(|(&start, end)| Subprog { start, end, stack_depth: 12, ..Subprog::default() });
        let verified = Verified::new(
            self.insns.clone(),
            self.facts.clone(),
            subprogs.collect(),
            Stats::default(),
            false,
            Vec::new(),
        );
        let spec = ProgramSpec {
            name: "test",
            prog_type: ProgType::Xdp,
            attach_type: AttachType::Xdp,
            flags: ProgFlags::default(),
            insns: &self.insns,
            maps: &self.maps,
            kfuncs: &[],
            btf: None,
            func_info: &[],
            line_info: &[],
            gpl_compatible: true,
            target: None,
            ctx: None,
            helpers: None,
        };
        rewrite(&spec, &verified, options)
    }
}

fn decoded(xlated: &Xlated) -> Vec<Insn> {
    let mut insns = Vec::new();
    let mut at = 0;
    while at < xlated.insns.len() {
        let insn = skep_abi::decode_xlated(&xlated.insns, at).expect("a rewritten program decodes");
        at += insn.slots();
        insns.push(insn);
    }
    insns
}

fn mov(dst: Reg, imm: i32) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src: Operand::Imm(imm) }
}

fn jump_if_zero(dst: Reg, off: i16) -> Insn {
    Insn::Jcond { width: Width::W64, op: JmpOp::Eq, dst, src: Operand::Imm(0), off }
}

fn ja(off: i32) -> Insn {
    Insn::Ja { off, long: false }
}

fn map_fd(dst: Reg, fd: i32) -> Insn {
    Insn::LdImm64 { dst, imm: Imm64::MapFd(fd) }
}

fn tail_call() -> Insn {
    Insn::Call { target: CallTarget::Helper(12) }
}

#[test]
fn a_program_without_need_is_unchanged() {
    let program =
        Program::default().add(mov(Reg::R0, 1)).add(jump_if_zero(Reg::R0, 1)).add(mov(Reg::R0, 2)).add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    assert_eq!(xlated.insns, program.insns);
    assert_eq!(xlated.source, [0, 1, 2, 3]);
    assert_eq!(xlated.subprogs.len(), 1);
    assert_eq!((xlated.subprogs[0].start, xlated.subprogs[0].end, xlated.subprogs[0].stack_depth), (0, 4, 12));
}

#[test]
fn dead_code_goes_and_branches_around_it_are_plain() {
    let program = Program::default()
        .add(mov(Reg::R1, 0))
        .add(jump_if_zero(Reg::R1, 2))
        .dead(mov(Reg::R0, 1))
        .dead(Insn::Exit)
        .add(mov(Reg::R0, 2))
        .add(jump_if_zero(Reg::R0, 2))
        .add(mov(Reg::R0, 3))
        .add(Insn::Exit)
        .dead(mov(Reg::R0, 4))
        .dead(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    assert_eq!(decoded(&xlated), [mov(Reg::R1, 0), mov(Reg::R0, 2), mov(Reg::R0, 3), Insn::Exit]);
    assert_eq!(xlated.source, [0, 4, 6, 7]);
    assert_eq!(xlated.subprogs[0].end, 4);
}

#[test]
fn an_always_taken_branch_over_live_code_stays_a_jump() {
    let program = Program::default()
        .add(jump_if_zero(Reg::R1, 2))
        .dead(mov(Reg::R0, 1))
        .add(mov(Reg::R0, 5))
        .add(mov(Reg::R0, 2))
        .add(jump_if_zero(Reg::R2, -3))
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    assert_eq!(decoded(&xlated), [ja(1), mov(Reg::R0, 5), mov(Reg::R0, 2), jump_if_zero(Reg::R2, -3), Insn::Exit]);
}

#[test]
fn dead_code_stays_if_asked() {
    let program = Program::default().add(ja(1)).dead(mov(Reg::R0, 1)).add(Insn::Exit);
    let options = RewriteOptions { remove_dead: false, ..RewriteOptions::default() };
    assert_eq!(program.rewrite_with(&options).expect("rewritten").insns, program.insns);
}

#[test]
fn maps_are_numbered_by_first_use() {
    let program = Program::default()
        .map(MapType::Array, 8, 1)
        .map(MapType::Hash, 8, 1)
        .map(MapType::Array, 16, 1)
        .add(map_fd(Reg::R1, 2))
        .add(Insn::Call { target: CallTarget::Helper(1) })
        .fact(|facts| facts.helper_map = MapArg::Known(2))
        .add(Insn::LdImm64 { dst: Reg::R2, imm: Imm64::MapValue { fd: 0, off: 4 } })
        .add(Insn::Load { size: Size::W, sign_extend: false, dst: Reg::R0, base: Reg::R2, off: 0 })
        .fact(|facts| facts.mem = MemKind::MapValue(0))
        .add(map_fd(Reg::R1, 2))
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    assert_eq!(xlated.used_maps, [2, 0]);
    let insns = decoded(&xlated);
    assert_eq!(insns[0], map_fd(Reg::R1, 0));
    assert_eq!(insns[2], Insn::LdImm64 { dst: Reg::R2, imm: Imm64::MapValue { fd: 1, off: 4 } });
    assert_eq!(insns[4], map_fd(Reg::R1, 0));
    assert_eq!(xlated.facts[2].helper_map, MapArg::Known(0));
    assert_eq!(xlated.facts[5].mem, MemKind::MapValue(1));
}

#[test]
fn an_unnamed_map_has_no_number() {
    let program = Program::default()
        .map(MapType::Array, 8, 1)
        .add(Insn::Call { target: CallTarget::Helper(1) })
        .fact(|facts| (facts.helper_map, facts.mem) = (MapArg::Known(0), MemKind::MapValue(0)))
        .add(Insn::Exit);
    let facts = program.rewrite().expect("rewritten").facts[0];
    assert_eq!((facts.helper_map, facts.mem), (MapArg::Unknown, MemKind::Mixed));
}

#[test]
fn more_than_64_maps_are_refused() {
    let mut program = Program::default();
    for map in 0..65 {
        program = program.map(MapType::Array, 8, 1).add(map_fd(Reg::R1, map));
    }
    let error = program.add(Insn::Exit).rewrite().expect_err("too many");
    assert_eq!(error, RewriteError::TooManyMaps { count: 65 });
    assert_eq!(error.errno(), Errno::E2BIG);
}

#[test]
fn the_64th_map_has_number_63() {
    let mut program = Program::default();
    for map in 0..63 {
        program = program.map(MapType::Array, 8, 1).add(map_fd(Reg::R1, map));
    }
    program = program.map(MapType::ProgArray, 4, 3).add(map_fd(Reg::R2, 63)).add(tail_call());
    let program = program.fact(|facts| (facts.helper_map, facts.const_key) = (MapArg::Known(63), Const::Unknown));
    let xlated = program.add(Insn::Exit).rewrite().expect("64 maps are allowed");
    assert_eq!(decoded(&xlated)[64], Insn::TailCall { imm: TailCallImm::new(63, false, None) });
}

#[test]
fn the_1024th_constant_tail_call_is_refused() {
    let calls = |count: u32| {
        let mut program = Program::default().map(MapType::ProgArray, 4, 3).add(map_fd(Reg::R2, 0));
        for _ in 0..count {
            program = program.add(tail_call());
            program = program.fact(|facts| (facts.helper_map, facts.const_key) = (MapArg::Known(0), Const::Known(1)));
        }
        program.add(Insn::Exit)
    };
    let xlated = calls(1023).rewrite().expect("1023 fit");
    assert_eq!(xlated.pokes.len(), 1023);
    assert_eq!(decoded(&xlated)[1023], Insn::TailCall { imm: TailCallImm::new(0, false, Some(1022)) });
    let error = calls(1024).rewrite().expect_err("one more");
    assert_eq!(error, RewriteError::TooManyPokes { insn: 2 + 1023 });
    assert_eq!(error.errno(), Errno::ENOSPC);
    // The interpreter numbers none.
    let options = RewriteOptions { pokes: false, ..RewriteOptions::default() };
    assert!(calls(1024).rewrite_with(&options).is_ok());
}

#[test]
fn per_cpu_values_get_their_base_added() {
    let value = |dst, fd| Insn::LdImm64 { dst, imm: Imm64::MapValue { fd, off: 8 } };
    let program = Program::default()
        .map(MapType::PercpuArray, 16, 1)
        .map(MapType::Array, 16, 1)
        .add(jump_if_zero(Reg::R1, 2))
        .add(value(Reg::R6, 0))
        .add(value(Reg::R7, 1))
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    assert_eq!(
        decoded(&xlated),
        [
            // The jump leads to the second load, past what was added to the first.
            jump_if_zero(Reg::R1, 3),
            value(Reg::R6, 0),
            Insn::MovPercpu { dst: Reg::R6, src: Reg::R6 },
            value(Reg::R7, 1),
            Insn::Exit
        ]
    );
    assert_eq!(xlated.source, [0, 1, 2, 1, 3, 4, 5]);
}

#[test]
fn tail_calls_say_what_is_known() {
    let call = |program: Program, map: MapArg, key: Const| {
        program.add(tail_call()).fact(|facts| (facts.helper_map, facts.const_key) = (map, key))
    };
    let mut program = Program::default()
        .map(MapType::Hash, 4, 1)
        .map(MapType::ProgArray, 4, 3)
        .add(map_fd(Reg::R2, 0))
        .add(map_fd(Reg::R2, 1));
    for (map, key) in [
        (MapArg::Known(1), Const::Known(2)),
        (MapArg::Known(1), Const::Unknown),
        (MapArg::Known(1), Const::Known(3)),
        (MapArg::Unknown, Const::Known(1)),
        (MapArg::Known(1), Const::Known(0)),
    ] {
        program = call(program, map, key);
    }
    program = program.add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    let expected = [(1, false, Some(0)), (1, false, None), (1, false, None), (0, true, None), (1, false, Some(1))]
        .map(|(map, unknown, poke)| Insn::TailCall { imm: TailCallImm::new(map, unknown, poke) });
    assert_eq!(decoded(&xlated)[2..7], expected);
    assert_eq!(xlated.pokes, [Poke { insn: 4, map: 1, key: 2 }, Poke { insn: 8, map: 1, key: 0 }]);

    let options = RewriteOptions { pokes: false, ..RewriteOptions::default() };
    let xlated = program.rewrite_with(&options).expect("rewritten");
    assert!(xlated.pokes.is_empty());
    assert_eq!(decoded(&xlated)[2], Insn::TailCall { imm: TailCallImm::new(1, false, None) });
}

#[test]
fn may_goto_counts_in_a_stack_slot_set_at_entry() {
    let program = Program::default()
        .add(mov(Reg::R0, 0))
        .add(Insn::MayGoto { off: 2 })
        .add(mov(Reg::R0, 1))
        .add(ja(-4))
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    let slot = Insn::Load { size: Size::Dw, sign_extend: false, dst: Reg::AX, base: Reg::R10, off: -24 };
    assert_eq!(
        decoded(&xlated),
        [
            Insn::Store { size: Size::Dw, base: Reg::R10, off: -24, src: Operand::Imm(8 << 20) },
            mov(Reg::R0, 0),
            slot,
            jump_if_zero(Reg::AX, 4),
            Insn::Alu { width: Width::W64, op: AluOp::Sub, dst: Reg::AX, src: Operand::Imm(1) },
            Insn::Store { size: Size::Dw, base: Reg::R10, off: -24, src: Operand::Reg(Reg::AX) },
            mov(Reg::R0, 1),
            // Back to the first instruction, not to the counter's start.
            ja(-7),
            Insn::Exit,
        ]
    );
    assert_eq!(xlated.subprogs[0].stack_depth, 24);
    assert_eq!(xlated.source, [0, 0, 1, 1, 1, 1, 2, 3, 4]);
    assert_eq!(xlated.facts[2].mem, MemKind::Stack);
}

#[test]
fn each_subprogram_has_a_counter_and_calls_enter_before_it() {
    let call = |distance| Insn::Call { target: CallTarget::Subprog(distance) };
    let func = |distance| Insn::LdImm64 { dst: Reg::R2, imm: Imm64::Func(distance) };
    let program = Program::default()
        .add(Insn::MayGoto { off: 1 })
        .add(call(3))
        .add(func(2))
        .add(Insn::Exit)
        .subprog()
        .add(mov(Reg::R0, 7))
        .add(Insn::MayGoto { off: 1 })
        .add(ja(-3))
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    let insns = decoded(&xlated);
    // Slots: counter 0, may_goto 1-4, call 5, address 6-7, exit 8, then the subprogram at 9.
    assert_eq!((insns[5], insns[6]), (call(3), func(2)));
    assert_eq!((xlated.subprogs[0].start, xlated.subprogs[0].end), (0, 9));
    assert_eq!((xlated.subprogs[1].start, xlated.subprogs[1].end), (9, 17));
    assert!(matches!(insns[8], Insn::Store { base: Reg::R10, off: -24, .. }));
    // From 15 back to 10, past the counter's start.
    assert_eq!(insns[14], ja(-6));
}

#[test]
fn a_subprogram_without_callers_goes() {
    let program = Program::default()
        .add(Insn::Call { target: CallTarget::Subprog(3) })
        .add(Insn::Exit)
        .subprog()
        .dead(mov(Reg::R0, 1))
        .dead(Insn::Exit)
        .subprog()
        .add(mov(Reg::R0, 2))
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    let bounds: Vec<_> = xlated.subprogs.iter().map(|subprog| (subprog.start, subprog.end)).collect();
    assert_eq!(bounds, [(0, 2), (2, 4)]);
    assert_eq!(decoded(&xlated)[0], Insn::Call { target: CallTarget::Subprog(1) });
}

#[test]
fn the_address_of_a_callback_that_never_runs_is_null() {
    let program = Program::default()
        .add(Insn::LdImm64 { dst: Reg::R2, imm: Imm64::Func(2) })
        .add(Insn::Exit)
        .subprog()
        .dead(mov(Reg::R0, 1))
        .dead(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    assert_eq!(decoded(&xlated), [Insn::LdImm64 { dst: Reg::R2, imm: Imm64::Const(0) }, Insn::Exit]);
    assert_eq!(xlated.subprogs.len(), 1);
}

#[test]
fn a_long_jump_that_grows_takes_the_long_form_or_is_refused() {
    let fill = |mut program: Program| {
        for _ in 0..10 {
            program = program.add(Insn::LdImm64 { dst: Reg::R6, imm: Imm64::MapValue { fd: 0, off: 0 } });
        }
        for _ in 0..32_740 {
            program = program.add(mov(Reg::R0, 0));
        }
        program.add(Insn::Exit)
    };
    let start = || Program::default().map(MapType::PercpuArray, 8, 1);
    let plain = fill(start().add(ja(32_760))).rewrite().expect("rewritten");
    assert_eq!(decoded(&plain)[0], Insn::Ja { off: 32_770, long: true });
    let error = fill(start().add(jump_if_zero(Reg::R0, 32_760))).rewrite().expect_err("too far");
    assert_eq!(error, RewriteError::JumpTooFar { insn: 0 });
    assert_eq!(error.errno(), Errno::ERANGE);
}

#[test]
fn inconsistent_facts_are_a_bug_not_a_panic() {
    let target_dead = Program::default().add(jump_if_zero(Reg::R1, 1)).add(Insn::Exit).dead(Insn::Exit);
    assert_eq!(target_dead.rewrite().expect("a dead side").insns.len(), 1);
    let falls_off = Program::default().add(ja(0)).dead(Insn::Exit);
    assert!(matches!(falls_off.rewrite(), Err(RewriteError::Internal { insn: 0, .. })));
    let outside = Program::default().add(ja(-5)).add(Insn::Exit);
    assert!(matches!(outside.rewrite(), Err(RewriteError::Internal { insn: 0, .. })));
}

#[test]
fn packet_fields_are_loaded_from_their_words() {
    let load = |size, dst, off| Insn::Load { size, sign_extend: false, dst, base: Reg::R1, off };
    let program = Program::default()
        .add(load(Size::W, Reg::R2, 0))
        .fact(|facts| facts.mem = MemKind::Ctx)
        .add(load(Size::W, Reg::R3, 4))
        .fact(|facts| facts.mem = MemKind::Ctx)
        .add(load(Size::W, Reg::R0, 16))
        .fact(|facts| facts.mem = MemKind::Ctx)
        .add(load(Size::W, Reg::R0, 4))
        .fact(|facts| facts.mem = MemKind::Packet)
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    assert_eq!(
        decoded(&xlated),
        [
            load(Size::Dw, Reg::R2, 24),
            load(Size::Dw, Reg::R3, 32),
            load(Size::W, Reg::R0, 16),
            load(Size::W, Reg::R0, 4),
            Insn::Exit
        ]
    );
}

#[test]
fn a_dump_numbers_slots_and_spells_tail_calls_out() {
    let program = Program::default()
        .map(MapType::ProgArray, 4, 3)
        .add(map_fd(Reg::R2, 0))
        .add(tail_call())
        .fact(|facts| (facts.helper_map, facts.const_key) = (MapArg::Known(0), Const::Known(2)))
        .add(tail_call())
        .fact(|facts| facts.helper_map = MapArg::Unknown)
        .add(mov(Reg::R0, 1))
        .add(Insn::Exit);
    let xlated = program.rewrite().expect("rewritten");
    let name = |map: u32| (map == 0).then(|| "jumps".to_owned());
    let source = |slot: u32| (slot < 4).then(|| "bpf_tail_call(ctx, &jumps, 2);".to_owned());
    let options = DumpOptions { opcodes: false, source: Some(&source) };
    assert_eq!(
        dump_xlated(&xlated, &name, &options),
        "; bpf_tail_call(ctx, &jumps, 2);\n   0: (18) r2 = map[jumps]\n   2: (f5) tail_call 0x10000  ; map 0 'jumps', \
         index 2, poke 0\n   3: (f5) tail_call 0x100  ; map unknown\n   4: (b7) r0 = 1\n   5: (95) exit\n"
    );
    let text = dump_xlated(&xlated, &name, &DumpOptions { opcodes: true, source: None });
    assert!(text.ends_with("   5: (95) exit\n       95 00 00 00 00 00 00 00\n"), "{text}");
}
