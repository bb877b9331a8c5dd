//! Subprograms and the control-flow graph, before any path is walked.
//!
//! Owns what the shape of the code alone decides: entry points, jumps, reachability, where states are compared. Invariant:
//! when it accepts, every slot is reachable, control never leaves a subprogram but by exit, and never enters the second half
//! of an `ld_imm64`. Kernel counterpart: `add_subprog_and_kfunc`, `check_subprogs`, `check_cfg`, kernel/bpf/verifier.c, 6.18.

use skep_abi::Errno;
use skep_abi::{CallTarget, Imm64, Insn, RawInsn};

use crate::env::{Check, Env, SubprogInfo, log};
use crate::verified::RejectionKind;

const CLASS_LD: u8 = 0;
const CLASS_JMP: u8 = 5;
const CLASS_JMP32: u8 = 6;
const JA: u8 = 0x05;
const JA32: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LD_IMM64: u8 = 0x18;
const MAX_SUBPROGS: usize = 256;
const HELPER_TAIL_CALL: i32 = 12;

/// Where control goes from a slot: not at all, to one place, or to two (fall through first).
pub(crate) struct Successors {
    list: [u32; 2],
    len: usize,
}

impl Successors {
    /// The slots.
    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.list[..self.len]
    }
}

/// Whether the class is one of the two jump classes.
fn is_jump_class(code: u8) -> bool {
    matches!(code & 7, CLASS_JMP | CLASS_JMP32)
}

/// Whether this slot starts an `ld_imm64`.
pub(crate) fn is_ld_imm64(raw: RawInsn) -> bool {
    raw.code == LD_IMM64
}

/// Target of a jump at slot `at`, for what is neither call nor exit.
fn jump_target(raw: RawInsn, at: u32) -> i64 {
    let off = if raw.code == JA32 { i64::from(raw.imm) } else { i64::from(raw.off) };
    i64::from(at) + 1 + off
}

/// Successors within the subprogram; a call falls through. Only valid once the graph was checked.
pub(crate) fn successors(insns: &[RawInsn], at: u32) -> Successors {
    let Some(&raw) = insns.get(at as usize) else { return Successors { list: [0; 2], len: 0 } };
    let next = at + if is_ld_imm64(raw) { 2 } else { 1 };
    if !is_jump_class(raw.code) {
        return Successors { list: [next, 0], len: 1 };
    }
    let target = u32::try_from(jump_target(raw, at)).unwrap_or(u32::MAX);
    match raw.code {
        EXIT => Successors { list: [0; 2], len: 0 },
        CALL => Successors { list: [next, 0], len: 1 },
        JA | JA32 => Successors { list: [target, 0], len: 1 },
        _ => match raw.code & 0xf0 {
            // Other encodings of exit, call and goto are undefined, and refused where they are reached.
            0x80 => Successors { list: [next, 0], len: 1 },
            0x90 => Successors { list: [0; 2], len: 0 },
            0x00 => Successors { list: [target, 0], len: 1 },
            _ => Successors { list: [next, target], len: 2 },
        },
    }
}

impl Env<'_> {
    fn malformed(&mut self, message: String) -> Box<crate::env::Reject> {
        self.reject(Errno::EINVAL, RejectionKind::Malformed, message)
    }

    /// Finds the subprograms by the calls and callback references to them.
    pub(crate) fn find_subprogs(&mut self) -> Check {
        let len = self.spec.insns.len();
        let mut starts = vec![0u32];
        for (at, raw) in self.spec.insns.iter().enumerate() {
            let pseudo_func = is_ld_imm64(*raw) && raw.src == 4;
            let pseudo_call = raw.code == CALL && raw.src == 1;
            let kfunc = raw.code == CALL && raw.src == 2;
            if !pseudo_func && !pseudo_call && !kfunc {
                continue;
            }
            if !self.caps.bpf {
                let text = "loading/calling other bpf or kernel functions are allowed for CAP_BPF and CAP_SYS_ADMIN";
                return Err(self.reject(Errno::EPERM, RejectionKind::Safety, text.to_owned()));
            }
            if kfunc {
                if self.kfunc(raw.imm).is_some_and(|proto| proto.has(skep_abi::kfunc::flags::DEVICE)) {
                    return Err(self.malformed("metadata kfuncs require device-bound program".to_owned()));
                }
                continue;
            }
            let target = i64::try_from(at).unwrap_or(i64::MAX).saturating_add(1 + i64::from(raw.imm));
            let Some(target) = u32::try_from(target).ok().filter(|&t| (t as usize) < len) else {
                return Err(self.malformed("call to invalid destination".to_owned()));
            };
            if let Err(place) = starts.binary_search(&target) {
                if starts.len() >= MAX_SUBPROGS {
                    return Err(self.reject(Errno::E2BIG, RejectionKind::Limit, "too many subprograms".to_owned()));
                }
                starts.insert(place, target);
            }
        }
        let handler = self.find_exception_callback()?;
        if let Some(at) = handler
            && let Err(place) = starts.binary_search(&at)
        {
            starts.insert(place, at);
        }
        let end = u32::try_from(len).unwrap_or(u32::MAX);
        self.subprogs = starts
            .iter()
            .enumerate()
            .map(|(i, &start)| SubprogInfo {
                start,
                end: starts.get(i + 1).copied().unwrap_or(end),
                ..SubprogInfo::default()
            })
            .collect();
        if let Some(sub) = handler.and_then(|at| starts.binary_search(&at).ok()) {
            self.exception_callback = u32::try_from(sub).ok();
            let info = &mut self.subprogs[sub];
            (info.is_cb, info.is_async_cb, info.is_exception_cb) = (true, true, true);
        }
        if self.level2() {
            for (i, start) in starts.iter().enumerate() {
                log!(self, "func#{i} @{start}\n");
            }
        }
        Ok(())
    }

    /// Checks that jumps stay within their subprogram and that none runs off its end.
    pub(crate) fn check_subprogs(&mut self) -> Check {
        let mut sub = 0;
        for at in 0..u32::try_from(self.spec.insns.len()).unwrap_or(u32::MAX) {
            let raw = self.spec.insns[at as usize];
            let (start, end) = (self.subprogs[sub].start, self.subprogs[sub].end);
            if raw.code == CALL && raw.src == 0 && raw.imm == HELPER_TAIL_CALL {
                self.subprogs[sub].has_tail_call = true;
                self.subprogs[sub].tail_call_reachable = true;
            }
            if raw.code & 7 == CLASS_LD && matches!(raw.code & 0xe0, 0x20 | 0x40) {
                self.subprogs[sub].has_ld_abs = true;
            }
            if is_jump_class(raw.code) && !matches!(raw.code & 0xf0, 0x80 | 0x90) {
                let target = jump_target(raw, at);
                if target < i64::from(start) || target >= i64::from(end) {
                    return Err(self.malformed(format!("jump out of range from insn {at} to {target}")));
                }
            }
            if at == end - 1 {
                if !matches!(raw.code, EXIT | JA | JA32) {
                    return Err(self.malformed("last insn is not an exit or jmp".to_owned()));
                }
                sub += 1;
            }
        }
        Ok(())
    }

    /// Decodes every slot; what is undefined is refused where a path reaches it.
    pub(crate) fn decode_all(&mut self) {
        let insns = self.spec.insns;
        let mut at = 0;
        while at < insns.len() {
            let decoded = skep_abi::decode(insns, at).ok();
            self.code[at] = decoded;
            at += if is_ld_imm64(insns[at]) { 2 } else { 1 };
        }
    }

    /// Walks the graph depth first: reachability, and back-edges where they are not allowed.
    pub(crate) fn check_cfg(&mut self) -> Check {
        const UNSEEN: u8 = 0;
        const OPEN: u8 = 1;
        const DONE: u8 = 2;
        let insns = self.spec.insns;
        let mut colour = vec![UNSEEN; insns.len()];
        let mut roots = vec![0u32];
        roots.extend(self.exception_callback.map(|s| self.subprogs[s as usize].start));
        for root in roots {
            if colour[root as usize] != UNSEEN {
                continue;
            }
            colour[root as usize] = OPEN;
            // A slot and how many of its edges were taken.
            let mut stack = vec![(root, 0usize)];
            while let Some(top) = stack.last_mut() {
                let (at, edge) = *top;
                top.1 += 1;
                let Some(to) = Self::edge(insns, at, edge) else {
                    colour[at as usize] = DONE;
                    stack.pop();
                    continue;
                };
                let Some(&seen) = usize::try_from(to).ok().and_then(|t| colour.get(t)) else {
                    return Err(self.malformed(format!("jump out of range from insn {at} to {to}")));
                };
                let to = u32::try_from(to).unwrap_or(u32::MAX);
                if seen == UNSEEN {
                    colour[to as usize] = OPEN;
                    stack.push((to, 0));
                } else if seen == OPEN && !self.may_loop(at, edge) {
                    self.print_line(at, &format!("{at}: "));
                    self.print_line(to, &format!("{to}: "));
                    return Err(self.malformed(format!("back-edge from insn {at} to {to}")));
                }
            }
        }
        let mut at = 0;
        while at < insns.len() {
            if colour[at] != DONE {
                return Err(self.malformed(format!("unreachable insn {at}")));
            }
            if is_ld_imm64(insns[at]) {
                if colour.get(at + 1).is_some_and(|&c| c != UNSEEN) {
                    return Err(self.malformed(format!("jump into the middle of ldimm64 insn {at}")));
                }
                at += 1;
            }
            at += 1;
        }
        Ok(())
    }

    /// Whether the `n`th edge out of `at` may lead back.
    fn may_loop(&self, at: u32, n: usize) -> bool {
        let raw = self.spec.insns[at as usize];
        let jumps = is_jump_class(raw.code) && !matches!(raw.code & 0xf0, 0x80 | 0x90);
        let refers = is_ld_imm64(raw) && n > 0;
        self.caps.bpf && (jumps || refers || self.options.profile.loops_anywhere)
    }

    /// The `n`th edge out of `at`: fall through, then the jump target or the called subprogram.
    fn edge(insns: &[RawInsn], at: u32, n: usize) -> Option<i64> {
        let raw = insns[at as usize];
        let calls = (raw.code == CALL && raw.src == 1) || (is_ld_imm64(raw) && raw.src == 4);
        let succ = successors(insns, at);
        if let Some(&to) = succ.as_slice().get(n) {
            return Some(i64::from(to));
        }
        (calls && n == succ.len).then(|| i64::from(at) + 1 + i64::from(raw.imm))
    }

    /// Marks where states are compared and where the way must be recorded.
    pub(crate) fn mark_points(&mut self) {
        let len = u32::try_from(self.code.len()).unwrap_or(u32::MAX);
        for at in 0..len {
            let Some(insn) = self.insn_at(at) else {
                self.mark_undecoded(at);
                continue;
            };
            match insn {
                Insn::Ja { .. } => {
                    for &to in successors(self.spec.insns, at).as_slice() {
                        self.mark(to, true, true);
                    }
                }
                Insn::Jcond { .. } | Insn::MayGoto { .. } => {
                    self.mark(at, true, false);
                    if let Some(&to) = successors(self.spec.insns, at).as_slice().get(1) {
                        self.mark(to, true, true);
                    }
                    if matches!(insn, Insn::MayGoto { .. }) {
                        self.aux[at as usize].force_checkpoint = true;
                    }
                }
                Insn::Call { target } => self.mark_call(at, target),
                Insn::LdImm64 { imm: Imm64::Func(off), .. } => {
                    self.mark(at + 2, true, true);
                    self.mark(at, true, false);
                    self.mark(Self::relative(at, off), true, true);
                }
                _ => {}
            }
        }
        self.spread_effects();
    }

    fn mark_undecoded(&mut self, at: u32) {
        if self.spec.insns.get(at as usize).is_some_and(|raw| is_jump_class(raw.code)) {
            for &to in successors(self.spec.insns, at).as_slice() {
                self.mark(to, true, true);
            }
        }
    }

    /// Slot at distance `off` from the one after `at`.
    pub(crate) fn relative(at: u32, off: i32) -> u32 {
        u32::try_from(i64::from(at) + 1 + i64::from(off)).unwrap_or(u32::MAX)
    }

    fn mark(&mut self, at: u32, prune: bool, jmp: bool) {
        if let Some(aux) = self.aux.get_mut(at as usize) {
            aux.prune_point |= prune;
            aux.jmp_point |= jmp;
        }
    }

    fn mark_call(&mut self, at: u32, target: CallTarget) {
        self.mark(at + 1, true, true);
        let sub = self.subprog_at(at);
        match target {
            CallTarget::Subprog(off) => {
                self.mark(at, true, false);
                self.mark(Self::relative(at, off), true, true);
            }
            CallTarget::Helper(id) => {
                let traits = self.helper_traits(id);
                if traits.async_callback {
                    self.mark(at, true, false);
                }
                if traits.sync_callback {
                    self.aux[at as usize].calls_callback = true;
                    self.aux[at as usize].force_checkpoint = true;
                    self.mark(at, true, true);
                }
                self.subprogs[sub].changes_pkt_data |= traits.changes_pkt_data;
                self.subprogs[sub].might_sleep |= traits.might_sleep;
            }
            CallTarget::Kfunc { id, .. } => {
                let traits = self.kfunc_traits(id);
                if traits.iter_next {
                    self.aux[at as usize].iter_next = true;
                    self.aux[at as usize].force_checkpoint = true;
                    self.mark(at, true, false);
                }
                if traits.async_callback {
                    self.mark(at, true, false);
                }
                if traits.sync_callback {
                    self.aux[at as usize].calls_callback = true;
                    self.aux[at as usize].force_checkpoint = true;
                    self.mark(at, true, true);
                }
                self.subprogs[sub].changes_pkt_data |= traits.changes_pkt_data;
                self.subprogs[sub].might_sleep |= traits.might_sleep;
                self.subprogs[sub].might_throw |= traits.throws;
            }
        }
    }

    /// A caller changes packets, sleeps or throws where its callee does.
    fn spread_effects(&mut self) {
        loop {
            let mut changed = false;
            for at in 0..u32::try_from(self.code.len()).unwrap_or(u32::MAX) {
                let (Some(Insn::Call { target: CallTarget::Subprog(off) })
                | Some(Insn::LdImm64 { imm: Imm64::Func(off), .. })) = self.insn_at(at)
                else {
                    continue;
                };
                let caller = self.subprog_at(at);
                let Some(callee) = self.subprog_starting(i64::from(Self::relative(at, off))) else { continue };
                let callee = &self.subprogs[callee];
                let (pkt, sleep, throw) = (callee.changes_pkt_data, callee.might_sleep, callee.might_throw);
                let caller = &mut self.subprogs[caller];
                changed |= (pkt && !caller.changes_pkt_data)
                    || (sleep && !caller.might_sleep)
                    || (throw && !caller.might_throw);
                caller.changes_pkt_data |= pkt;
                caller.might_sleep |= sleep;
                caller.might_throw |= throw;
            }
            if !changed {
                return;
            }
        }
    }
}
