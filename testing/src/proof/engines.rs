//! Our engines with the maps of generated programs.
//!
//! Invariant: an engine's maps hold what the input says before each run.

use std::cell::RefCell;

use skep_abi::{AttachType, Errno, MapType, ProgType};
use skep_runtime::ctx::{CtxType, Skb, Xdp};
use skep_runtime::interp::{FaultKind, Observer};
use skep_runtime::map::{Map, MapSpec};
use skep_runtime::test_run::TestRunAttr;
use skep_runtime::{Program, RunError};
use skep_verifier::Xlated;

use super::input::{Contents, Input};
use crate::generate::{MAPS, MapDef};
use crate::vectors::RuntimeEngine;

/// What a run left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// r0, low half.
    pub retval: u32,
    /// The packet.
    pub packet: Vec<u8>,
    /// Values of the arrays and hashes.
    pub contents: Contents,
}

/// How a witnessed run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// With this r0.
    Returned(u64),
    /// It went on for longer than it may.
    Budget,
    /// A check of the interpreter, or the witness, ended it.
    Fault(FaultKind),
}

/// A witnessed run and what it left behind.
#[derive(Clone, Debug)]
pub struct Watched {
    /// How it ended.
    pub ended: Ended,
    /// An address became data on its way, as far as a witness saw.
    pub showed_address: bool,
    packet: Vec<u8>,
    contents: Contents,
}

impl Watched {
    /// Whether another engine's run on the same input had the same result: it depends on the input alone then, and not on
    /// addresses or on memory that was never written.
    #[must_use]
    pub fn is_like(&self, other: &Outcome) -> bool {
        let Ended::Returned(r0) = self.ended else { return false };
        // The kernel puts an empty header before the packet of programs that see none.
        r0 & u64::from(u32::MAX) == u64::from(other.retval)
            && other.packet.ends_with(&self.packet)
            && self.contents == other.contents
    }
}

/// One engine.
#[derive(Debug)]
pub struct Bench {
    engine: RuntimeEngine,
    maps: RefCell<Vec<Map>>,
}

impl Bench {
    /// With its own maps.
    ///
    /// # Errors
    /// One sentence, when the machine refuses memory.
    pub fn new(engine: RuntimeEngine) -> Result<Self, String> {
        let maps = MAPS.iter().map(|def| create(def, &engine)).collect::<Result<_, _>>();
        let maps = RefCell::new(maps.map_err(|errno| errno.to_string())?);
        Ok(Self { engine, maps })
    }

    /// The maps, in the order of [`MAPS`].
    #[must_use]
    pub fn maps(&self) -> Vec<Map> {
        self.maps.borrow().clone()
    }

    /// A program that can be run.
    ///
    /// # Errors
    /// One sentence with what the engine refuses.
    pub fn program(&self, prog_type: ProgType, xlated: &Xlated) -> Result<Program, String> {
        // A ring buffer is never read here, and would be full after a while.
        for &map in &xlated.used_maps {
            let def = &MAPS[map as usize];
            if def.map_type == MapType::Ringbuf {
                let fresh = create(def, &self.engine).map_err(|errno| errno.to_string())?;
                self.maps.borrow_mut()[map as usize] = fresh;
            }
        }
        let ctx_type = CtxType::of(prog_type).ok_or("no context")?;
        let maps = self.maps.borrow();
        let used: Vec<Map> = xlated.used_maps.iter().map(|map| maps[*map as usize].clone()).collect();
        self.engine.publish((prog_type, AttachType::default(), ctx_type), xlated.clone(), &used, Vec::new())
    }

    /// Interprets before a witness.
    ///
    /// # Errors
    /// One sentence, when the run cannot begin.
    pub fn watch(
        &self,
        program: &Program,
        input: &Input,
        budget: u64,
        witness: &dyn Observer,
    ) -> Result<Watched, String> {
        self.fill(program, input)?;
        // Another buffer in the way, so that addresses differ from those of other engines' runs.
        let _aside = Xdp::packet(&input.packet).build().map_err(|errno| errno.to_string())?;
        let _too = Skb::packet(&input.packet).build(ProgType::SchedCls).map_err(|errno| errno.to_string())?;
        let (ran, packet) = if program.prog_type() == ProgType::Xdp {
            let mut buff = Xdp::packet(&input.packet).build().map_err(|errno| errno.to_string())?;
            let ran = program.run_observed(&mut buff, budget, witness);
            (ran, buff.packet().to_vec())
        } else {
            let mut buff = Skb::packet(&input.packet).build(program.prog_type()).map_err(|errno| errno.to_string())?;
            let ran = program.run_observed(&mut buff, budget, witness);
            (ran, buff.packet().to_vec())
        };
        let ended = match ran {
            Ok(r0) => Ended::Returned(r0),
            Err(RunError::Fault(fault)) if fault.kind == FaultKind::Budget => Ended::Budget,
            Err(RunError::Fault(fault)) => Ended::Fault(fault.kind),
            Err(error) => return Err(error.to_string()),
        };
        let contents = self.contents(program, input);
        Ok(Watched { ended, showed_address: false, packet, contents })
    }

    /// Runs as BPF_PROG_TEST_RUN does; `None` where that refuses the input.
    ///
    /// # Errors
    /// One sentence, when the run cannot begin.
    pub fn run(&self, program: &Program, input: &Input) -> Result<Option<Outcome>, String> {
        self.fill(program, input)?;
        let data_size_out = Some(input.packet.len() + 4096);
        let attr = TestRunAttr { data_in: &input.packet, data_size_out, ..TestRunAttr::default() };
        match program.test_run_raw(&attr) {
            Ok(result) => {
                let contents = self.contents(program, input);
                Ok(Some(Outcome { retval: result.retval, packet: result.data_out, contents }))
            }
            Err(skep_runtime::TestRunError::Refused(_)) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    fn fill(&self, program: &Program, input: &Input) -> Result<(), String> {
        let cpus = self.engine.cpus().n_possible();
        let maps = self.maps.borrow();
        let filled = input.fill(&program.xlated().used_maps, cpus, |map, key, value| maps[map].update(key, value, 0));
        filled.map_err(|errno| format!("filling the maps: {errno}"))
    }

    fn contents(&self, program: &Program, input: &Input) -> Contents {
        let maps = self.maps.borrow();
        input.contents(&program.xlated().used_maps, |map, key| maps[map].lookup(key, 0))
    }
}

fn create(def: &MapDef, engine: &RuntimeEngine) -> Result<Map, Errno> {
    let spec = MapSpec::new(def.map_type, def.key_size, def.value_size, def.max_entries).flags(def.flags);
    Map::create(&spec, engine.cpus())
}
