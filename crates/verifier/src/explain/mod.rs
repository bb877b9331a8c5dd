//! Why a program was refused, for people: what is wrong, where, how it came to be, what to do.
//!
//! Owns the explanation, which is derived from the rejection and from the path that was being walked. Invariant: nothing here
//! decides anything; each sentence names a fact of the verifier's state. The form is that of Linux 7.3.

mod branches;
mod classes;
mod describe;
mod render;
mod slice;
mod source;
pub(crate) mod trace;

use skep_abi::Insn;

pub use classes::Category;
pub use slice::Role;
pub use source::{Place, Source};

use classes::{Captures, Class, Subject};
use slice::{Found, Lost, Slicer};
use trace::Trace;

use crate::env::{Env, Reject};
use crate::state::frame::RefKind;
use crate::state::reg::{Base, Reg};
use crate::verified::RejectionKind;

/// Lines shown where a limit was reached.
const HOT_LINES: usize = 5;

/// Why a program was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What it is about.
    pub category: Category,
    /// What is wrong, in a few words.
    pub title: String,
    /// Why the program is refused, in sentences.
    pub reason: String,
    /// The failing instruction.
    pub at: Option<Place>,
    /// Source lines around it, by number, without its own.
    pub around: Vec<(u32, String)>,
    /// Where the failing value came from, first cause first.
    pub path: Vec<Cause>,
    /// The path is longer than what was kept, so that its beginning is not in [`Self::path`].
    pub path_cut: bool,
    /// What to do.
    pub suggestion: String,
}

/// A step of the causal path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What the step did.
    pub role: Role,
    /// What it made of the value.
    pub what: String,
    /// Where it is.
    pub place: Place,
    /// How often the failing path passes here.
    pub times: u32,
}

/// Explains a refusal: `env` stands where it failed, `trace` is the way there.
pub(crate) fn explain(env: &Env<'_>, trace: &Trace, refused: &Reject) -> Explanation {
    let walked = env.stats.processed > 0;
    let own;
    let (class, captures) = match classes::class_of(&refused.message) {
        Some(found) if !matches!(refused.kind, RejectionKind::Internal | RejectionKind::Unsupported) => found,
        _ => {
            own = classes::fallback(refused.kind);
            (&own, vec![("message", refused.message.as_str())])
        }
    };
    let facts = Facts::new(env, trace, class, captures);
    let at = facts.capture("at").and_then(|at| at.parse().ok()).or(walked.then_some(env.insn));
    let at = at.filter(|&at| (at as usize) < env.spec.insns.len());
    let found = facts.causes();
    let mut explanation = Explanation {
        category: class.category,
        title: facts.fill(class.title),
        reason: facts.fill(class.reason),
        at: at.map(|at| env.place(at)),
        around: at.map_or_else(Vec::new, |at| env.around(at)),
        path: Vec::new(),
        path_cut: trace.is_cut(),
        suggestion: facts.fill(class.suggestion),
    };
    facts.refine(&found, &mut explanation);
    explanation.path = found.into_iter().map(|f| cause(env, f)).collect();
    explanation
}

/// Adds what drives the loop that the path is in: its condition, and where the operands come from.
pub(crate) fn add_loop(env: &Env<'_>, trace: &Trace, out: &mut Explanation) {
    let Some((index, count)) = branches::hottest_condition(env, trace) else { return };
    let steps = trace.steps();
    // A loop fills the path; chains of branches do not.
    if count < steps.len() / 50 {
        return;
    }
    let at = steps[index].insn;
    let Some(Insn::Jcond { op, dst, src, off, .. }) = env.insn_at(at) else { return };
    let mut slicer = Slicer::from_step(env, trace, index);
    let Some(frame) = slicer.frame() else { return };
    let taken = steps.get(index + 1).is_some_and(|next| next.insn == Env::relative(at, i32::from(off)));
    let relation = describe::condition(op, taken);
    let what = format!("r{} {relation} {} turn after turn", dst.number(), env.operand(src, frame));
    slicer.want_reg(dst.number());
    if let skep_abi::Operand::Reg(src) = src {
        slicer.want_reg(src.number());
    }
    let mut found = slicer.run();
    found.retain(|f| f.insn != at);
    found.push(Found::new(at, Role::Branch, what));
    let causes = found.into_iter().map(|f| cause(env, f));
    out.path.splice(0..0, causes);
    out.at = Some(env.place(at));
    out.around = env.around(at);
    "a loop that the verifier walks turn by turn, too often".clone_into(&mut out.title);
}

fn cause(env: &Env<'_>, found: Found) -> Cause {
    Cause { role: found.role, what: found.what, place: env.place(found.insn), times: found.times }
}

/// What the sentences of a class can name.
struct Facts<'e, 'a, 'm> {
    env: &'e Env<'a>,
    trace: &'e Trace,
    class: &'e Class,
    captures: Captures<'m>,
}

impl<'e, 'a, 'm> Facts<'e, 'a, 'm> {
    fn new(env: &'e Env<'a>, trace: &'e Trace, class: &'e Class, captures: Captures<'m>) -> Self {
        Self { env, trace, class, captures }
    }

    fn capture(&self, name: &str) -> Option<&'m str> {
        self.captures.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// The register that the message names.
    fn number(&self) -> Option<u8> {
        match self.class.subject {
            Subject::Zero => Some(0),
            Subject::Second => Some(2),
            _ if self.class.pattern.starts_with("R0 ") => Some(0),
            _ => self.capture("reg").and_then(|n| n.parse().ok()).or_else(|| self.operand()),
        }
    }

    /// The pointer of an arithmetic instruction's addition, where the message names none: the number that is added to it.
    fn operand(&self) -> Option<u8> {
        let frame = self.trace.last().last()?;
        match self.env.insn_at(self.env.insn)? {
            Insn::Alu { dst, src: skep_abi::Operand::Reg(src), .. } => {
                let number = if frame.regs[dst.index()].is_pointer() { src } else { dst };
                Some(number.number())
            }
            Insn::Load { base, .. } | Insn::Store { base, .. } | Insn::Atomic { base, .. } => Some(base.number()),
            Insn::Exit => Some(0),
            _ => None,
        }
    }

    /// Its value before the failing instruction.
    fn value(&self) -> Option<&Reg> {
        self.trace.last().last()?.regs.get(usize::from(self.number()?))
    }

    /// Puts captures and facts into a sentence.
    fn fill(&self, template: &str) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some((head, tail)) = rest.split_once('{') {
            out.push_str(head);
            match tail.split_once('}') {
                Some((name, after))
                    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') =>
                {
                    out.push_str(&self.fact(name));
                    rest = after;
                }
                _ => {
                    out.push('{');
                    rest = tail;
                }
            }
        }
        out.push_str(rest);
        out
    }

    fn fact(&self, name: &str) -> String {
        if let Some(value) = self.capture(name) {
            return value.to_owned();
        }
        match name {
            "reg" => self.number().map_or("?".to_owned(), |n| n.to_string()),
            "value" => self.value().map_or("not known".to_owned(), |reg| self.env.describe(reg)),
            "access" => self.access(),
            "call" => self.call().unwrap_or_else(|| "the instruction".to_owned()),
            "call_or_exit" => match self.call() {
                Some(call) => format!("{call} is called:"),
                None => "At the end of the function".to_owned(),
            },
            "lowest" if self.is_fixed() => "that is outside of it".to_owned(),
            "lowest" => "even the lowest of these offsets is outside of it".to_owned(),
            "highest" if self.is_fixed() => "that is outside of it".to_owned(),
            "highest" => "the access at the highest of these offsets would end outside of it".to_owned(),
            "outside" => self.outside(),
            "field" => self.field(),
            "packet" => self.packet(),
            "held" => self.held(),
            "prog_type" => self.env.spec.prog_type.to_string(),
            "map_type" => {
                let number = self.capture("number").and_then(|n| n.parse().ok());
                number.and_then(skep_abi::MapType::from_u32).map_or("unknown".to_owned(), |t| t.to_string())
            }
            _ => format!("{{{name}}}"),
        }
    }

    fn call(&self) -> Option<String> {
        match self.env.insn_at(self.env.insn)? {
            Insn::Call { target } => Some(self.env.callee(self.env.insn, target)),
            _ => None,
        }
    }

    fn access(&self) -> String {
        let frame = self.trace.last().last();
        let access = frame.zip(self.number()).and_then(|(frame, n)| self.env.access(self.env.insn, n, frame));
        access.unwrap_or_else(|| {
            let value = self.value().map_or("memory".to_owned(), |reg| self.env.describe(reg));
            format!("accesses {value}")
        })
    }

    /// Whether the failing pointer is at one place.
    fn is_fixed(&self) -> bool {
        self.value().is_some_and(|reg| reg.bounds.is_const())
    }

    /// What to do about an access outside of its object.
    fn outside(&self) -> String {
        if !self.is_fixed() {
            return classes::CHECK_INDEX.to_owned();
        }
        "Compare the offset with the object's size: is the structure that is read the one that the map (or the memory) was made \
         for? An array of N elements ends with element N - 1, so an index is out of bounds from N on: `if (i >= N)`."
            .to_owned()
    }

    fn field(&self) -> String {
        let size = self.capture("size").unwrap_or("?");
        let Some(off) = self.capture("off").and_then(|off| off.parse::<i64>().ok()) else { return String::new() };
        let (verb, into) = match self.env.insn_at(self.env.insn) {
            Some(Insn::Store { .. } | Insn::StoreRelease { .. } | Insn::Atomic { .. }) => ("written", "writes"),
            _ => ("read", "reads"),
        };
        let Some(layout) = self.env.context_layout() else { return String::new() };
        let name = &layout.btf_name;
        match self.env.field_around(off) {
            Some(field) => format!(
                "The program {into} {size} bytes at offset {off} of the context, which is in `{field}` of struct {name}: in {} \
                 programs this field cannot be {verb} so.",
                self.env.spec.prog_type
            ),
            None => format!(
                "The program {into} {size} bytes at offset {off} of the context; the struct {name} of {} programs has no field there \
                 (it has {} bytes).",
                self.env.spec.prog_type, layout.size
            ),
        }
    }

    fn packet(&self) -> String {
        match self.value().map(Reg::range) {
            Some(0) => {
                "No comparison with data_end on this path proves that any byte behind this pointer is there.".to_owned()
            }
            Some(n @ 1..) => format!(
                "Comparisons with data_end on this path prove {} from the pointer's base, and no more.",
                describe::bytes(u64::from(n.unsigned_abs()))
            ),
            _ => "On this path the pointer is at the packet's end or beyond it.".to_owned(),
        }
    }

    fn held(&self) -> String {
        let refs = &self.env.cur.res.refs;
        let what: Vec<String> = refs.iter().filter(|r| r.kind == RefKind::Ptr).map(|r| self.taken(r.insn)).collect();
        match what.as_slice() {
            [] => "What was taken is".to_owned(),
            [one] => format!("{one} is"),
            [first, ..] => format!("{first} and {} more are", what.len() - 1),
        }
    }

    /// What the call at `at` took.
    fn taken(&self, at: u32) -> String {
        let line = self.env.place(at).source.map_or(String::new(), |s| format!(" in line {}", s.line));
        match self.env.insn_at(at) {
            Some(Insn::Call { target }) => format!("What {} took{line}", self.env.callee(at, target)),
            _ => format!("What instruction {at} took{line}"),
        }
    }

    /// The steps of the causal path.
    fn causes(&self) -> Vec<Found> {
        let (env, trace) = (self.env, self.trace);
        let Some(last) = trace.last().last() else { return self.hot() };
        let mut slicer = Slicer::new(env, trace);
        match self.class.subject {
            Subject::None => return Vec::new(),
            Subject::Hot => return self.hot(),
            Subject::Branches => return branches::decisions(env, trace, 0),
            Subject::Held => return self.since_taken(),
            Subject::Reg | Subject::Zero | Subject::Second => {
                let Some(n) = self.number() else { return Vec::new() };
                slicer.want_reg(n);
            }
            Subject::Memory => {
                let Some(n) = self.number() else { return Vec::new() };
                slicer.want_reg(n);
                let call = matches!(env.insn_at(env.insn), Some(Insn::Call { .. }));
                let size = last.regs.get(usize::from(n) + 1);
                if call && size.is_some_and(|r| r.is_scalar() && !r.bounds.is_const()) {
                    slicer.want_reg(n + 1);
                }
            }
            Subject::Stack => {
                let size = self.capture("size").and_then(|s| s.parse().ok()).unwrap_or(8);
                if let Some(pointer) = self.value().filter(|r| r.base() == Base::Stack) {
                    slicer.want_stack(pointer, 0, size);
                }
            }
        }
        let found = slicer.run();
        // Nothing made the value: then it is the way here that says why.
        if found.iter().all(|f| f.role == Role::Entry) && self.class.category == Category::Uninitialized {
            let mut all = found;
            all.extend(branches::decisions(env, trace, 0));
            return all;
        }
        found
    }

    fn hot(&self) -> Vec<Found> {
        let hot = if self.class.subject == Subject::Hot { self.env.hot_lines(HOT_LINES) } else { Vec::new() };
        hot.into_iter()
            .map(|(at, count)| {
                Found::new(at, Role::Branch, format!("{count} instructions processed here, over all paths"))
            })
            .collect()
    }

    /// Where what is held was taken, and the branches since.
    fn since_taken(&self) -> Vec<Found> {
        let steps = self.trace.steps();
        let taken: Vec<u32> = self.env.cur.res.refs.iter().map(|r| r.insn).collect();
        let first = steps.iter().rposition(|s| taken.contains(&s.insn));
        let mut found: Vec<Found> = Vec::new();
        for at in taken {
            let what = match self.env.insn_at(at) {
                Some(Insn::Call { target }) => format!("{} takes it", self.env.callee(at, target)),
                _ => "it is taken".to_owned(),
            };
            found.push(Found::new(at, Role::Value, what));
        }
        found.extend(branches::decisions(self.env, self.trace, first.unwrap_or(0)));
        found
    }

    /// What the path says makes some messages clearer.
    fn refine(&self, found: &[Found], out: &mut Explanation) {
        let Some(value) = self.value() else { return };
        if self.class.category != Category::Pointer || self.class.subject != Subject::Reg || !value.is_scalar() {
            return;
        }
        let lost = found.iter().rev().find_map(|f| Some((f.lost?, f)));
        match lost {
            Some((Lost::Packet, by)) => {
                out.title = "a packet pointer is used after the packet may have moved".to_owned();
                out.reason = format!("{}, so it is a number now.", by.what);
                out.suggestion = "After the call read ctx->data and ctx->data_end again, and compare again.".to_owned();
            }
            Some((Lost::Released, by)) => {
                out.title = "memory is used after it was given back".to_owned();
                out.reason = format!("{}.", by.what);
                out.suggestion = "Move the access before the call that gives the memory back.".to_owned();
            }
            _ if value.is_null() => {
                out.category = Category::Null;
                out.title = "a NULL pointer is dereferenced".to_owned();
                out.reason = format!("r{} is NULL on this path.", self.number().unwrap_or(0));
                out.suggestion =
                    "Leave the function, or skip the access, in the branch where the pointer is NULL.".to_owned();
            }
            _ => {}
        }
    }
}
