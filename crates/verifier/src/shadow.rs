//! What a verification explored, for executions to be held against it.
//!
//! Owns the recording: every state that was walked, how they follow each other, and where a path was given up because an
//! earlier state covered it. With the feature `shadow` off, [`Recorder`] is empty and costs nothing. Invariant: a node is made
//! for every instruction of every path, in the order of the walk, with the state before the instruction; so a concrete
//! execution of an accepted program can be led through the nodes step by step. Kernel counterpart: none.

#[cfg(feature = "shadow")]
pub use on::{Join, Node, Recording, verify_recorded};

#[cfg(feature = "shadow")]
pub(crate) use on::Recorder;

#[cfg(not(feature = "shadow"))]
pub(crate) use off::Recorder;

#[cfg(not(feature = "shadow"))]
mod off {
    use std::rc::Rc;

    use crate::state::frame::{Frame, State};

    /// Records nothing.
    #[derive(Debug, Default)]
    pub(crate) struct Recorder {}

    #[expect(clippy::unused_self, reason = "the other side of the feature keeps something")]
    impl Recorder {
        #[inline(always)]
        pub(crate) fn arrive(&mut self, _cur: &mut State) {}

        #[inline(always)]
        pub(crate) fn join(&mut self, _cur: &State, _kept: &State, _frames: &[Rc<Frame>], _whole: bool) {}
    }
}

#[cfg(feature = "shadow")]
mod on {
    use std::rc::Rc;

    use crate::env::Env;
    use crate::log::Log;
    use crate::spec::{Options, ProgramSpec};
    use crate::state::frame::{Frame, State};
    use crate::verified::{Rejection, Verified};

    /// A state that was walked.
    #[derive(Clone, Debug)]
    pub struct Node {
        /// The instruction that it stands before.
        pub insn: u32,
        /// Its call chain.
        pub frames: Vec<Rc<Frame>>,
        /// It is reached in speculation only.
        pub speculative: bool,
        /// The path ends here, in a state that covers it.
        pub join: Option<Box<Join>>,
        first: u32,
        sibling: u32,
    }

    /// The state that a path ended in.
    #[derive(Clone, Debug)]
    pub struct Join {
        /// The node that it was kept at.
        pub node: u32,
        /// What it was when it was compared: with the marks of precision, and without what was dead.
        pub frames: Vec<Rc<Frame>>,
        /// Every scalar was compared, not only the precise ones.
        pub whole: bool,
    }

    /// No node.
    const NONE: u32 = u32::MAX;

    /// Everything that one verification walked.
    #[derive(Clone, Debug, Default)]
    pub struct Recording {
        nodes: Vec<Node>,
        /// The entries of functions that are walked by themselves, and of asynchronous callbacks.
        roots: Vec<u32>,
        live_regs: Vec<u16>,
        limit: usize,
        full: bool,
    }

    impl Recording {
        /// Whether there was room for everything.
        #[must_use]
        pub fn is_complete(&self) -> bool {
            !self.full
        }

        /// Whether a path was given up for an earlier state that covered it.
        #[must_use]
        pub fn is_pruned(&self) -> bool {
            self.nodes.iter().any(|node| node.join.is_some())
        }

        /// How many states were walked.
        #[must_use]
        pub fn len(&self) -> usize {
            self.nodes.len()
        }

        /// Whether nothing was walked.
        #[must_use]
        pub fn is_empty(&self) -> bool {
            self.nodes.is_empty()
        }

        /// A node.
        #[must_use]
        pub fn node(&self, id: u32) -> Option<&Node> {
            self.nodes.get(id as usize)
        }

        /// The nodes that walks began with.
        #[must_use]
        pub fn roots(&self) -> &[u32] {
            &self.roots
        }

        /// The nodes that follow a node.
        pub fn next(&self, id: u32) -> impl Iterator<Item = u32> + '_ {
            let mut at = self.node(id).map_or(NONE, |node| node.first);
            std::iter::from_fn(move || {
                let node = self.node(at)?;
                let found = at;
                at = node.sibling;
                Some(found)
            })
        }

        /// The registers, as bits, that may still be read before they are written, from an instruction on.
        #[must_use]
        pub fn live_regs(&self, insn: u32) -> u16 {
            self.live_regs.get(insn as usize).copied().unwrap_or(u16::MAX)
        }
    }

    /// Records, or not.
    #[derive(Debug, Default)]
    pub(crate) struct Recorder(Option<Box<Recording>>);

    impl Recorder {
        /// The current path stands before an instruction.
        pub(crate) fn arrive(&mut self, cur: &mut State) {
            let Some(recording) = self.0.as_mut() else { return };
            if recording.nodes.len() >= recording.limit {
                recording.full = true;
                return;
            }
            let id = u32::try_from(recording.nodes.len()).unwrap_or(NONE);
            let before = cur.node.and_then(|node| recording.nodes.get_mut(node as usize));
            let sibling = before.map(|before| std::mem::replace(&mut before.first, id));
            if sibling.is_none() {
                recording.roots.push(id);
            }
            recording.nodes.push(Node {
                insn: cur.insn,
                frames: cur.frames.clone(),
                speculative: cur.speculative,
                join: None,
                first: NONE,
                sibling: sibling.unwrap_or(NONE),
            });
            cur.node = Some(id);
        }

        /// The current path ends in a kept state.
        pub(crate) fn join(&mut self, cur: &State, kept: &State, frames: &[Rc<Frame>], whole: bool) {
            let Some(recording) = self.0.as_mut() else { return };
            let (Some(node), Some(at)) = (kept.node, cur.node) else { return };
            if let Some(from) = recording.nodes.get_mut(at as usize) {
                from.join = Some(Box::new(Join { node, frames: frames.to_vec(), whole }));
            }
        }
    }

    /// Verifies as [`crate::verify`] does and records up to `limit` states.
    ///
    /// # Errors
    /// As for [`crate::verify`]; the recording is of what was walked until then.
    pub fn verify_recorded(
        spec: &ProgramSpec<'_>,
        options: &Options,
        log: &mut Log,
        limit: usize,
    ) -> (Result<Verified, Rejection>, Recording) {
        let mut env = Env::new(spec, options, log);
        env.recorder = Recorder(Some(Box::new(Recording { limit, ..Recording::default() })));
        let verdict = env.run_timed();
        let mut recording = env.recorder.0.take().map(|recording| *recording).unwrap_or_default();
        recording.live_regs = env.aux.iter().map(|aux| aux.live_regs).collect();
        let verdict = match verdict {
            Ok(()) => Ok(env.finish()),
            Err(refused) => Err(env.rejection(*refused)),
        };
        (verdict, recording)
    }
}
