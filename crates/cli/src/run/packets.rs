//! What a program is run over.

use anyhow::{Context, Result};

use crate::args::RunInput;
use crate::capture::{self, Packet};
use crate::exit::usage;
use crate::input;

/// The inputs of all runs.
pub(crate) struct Packets {
    /// Packets, or one context.
    pub(crate) list: Vec<Packet>,
    /// False for a context given by `--ctx`.
    pub(crate) are_packets: bool,
    /// What was wrong with the end of the capture.
    pub(crate) damage: Option<String>,
}

impl Packets {
    /// Nothing, where only iterators run.
    pub(crate) fn none() -> Self {
        Self { list: Vec::new(), are_packets: false, damage: None }
    }

    /// Reads what the command line names.
    pub(crate) fn read(input: &RunInput) -> Result<Self> {
        let one = |data, are_packets| Self { list: vec![Packet { time: 0, data }], are_packets, damage: None };
        if let Some(path) = &input.pcap {
            let capture = capture::read(path)?;
            let damage = capture.damage.map(|damage| format!("{}: {damage}", path.display()));
            return Ok(Self { list: capture.packets, are_packets: true, damage });
        }
        if let Some(text) = &input.packet {
            return match input::parse_hex(text) {
                Ok(data) => Ok(one(data, true)),
                Err(error) => usage(format!("--packet: {error}")),
            };
        }
        if let Some(path) = &input.packet_file {
            return Ok(one(input::read_regular(path, 65535)?, true));
        }
        if let Some(path) = &input.ctx {
            let data = input::read_regular(path, 65536).context("--ctx")?;
            return Ok(one(data, false));
        }
        usage(
            "nothing to run over: give --pcap FILE, --packet HEX, --packet-file FILE, --ctx FILE or --iter PROGRAM=MAP",
        )
    }
}
