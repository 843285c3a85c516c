//! What a rule file would do with captured packets: each goes through the
//! loaded programs, in order, with state.
//!
//! Not here: capture files (`capture`), and anything that is attached. Maps and
//! programs are private, and gone afterwards.

mod clock;
mod frame;
mod line;
mod skip;
mod summary;
mod window;

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::Result;

use self::{clock::Clock, frame::Frame, window::Window};
pub use self::{line::Line, skip::Skip, summary::Summary};
use crate::{
    capture::Packet,
    dataplane::sandbox::{Decision, Hook, Sandbox},
    policy::Direction,
};

/// One attachment's programs, and what they have seen so far.
pub struct Replay {
    sandbox: Sandbox,
    hosts: BTreeSet<IpAddr>,
    clock: Clock,
}

/// What becomes of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The program decided.
    Judged {
        /// Which way it goes.
        direction: Direction,
        /// What was decided.
        decision: Decision,
        /// Who talks to whom about what, as far as it can be read.
        about: Option<Conversation>,
    },
    /// It could not be asked.
    Skipped(Skip),
}

/// Who talks to whom about what, whichever way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conversation {
    /// The other end.
    pub peer: IpAddr,
    /// The end that is protected.
    pub local: IpAddr,
    /// What the packet asks for: the IP protocol, and the destination port or
    /// the ICMP type and code as `type << 8 | code`. `None` where it can't be
    /// read.
    pub service: Option<(u8, u16)>,
}

impl Replay {
    /// `hosts` are the addresses of the protected host.
    #[must_use]
    pub fn new(sandbox: Sandbox, hosts: BTreeSet<IpAddr>) -> Self {
        Self {
            sandbox,
            hosts,
            clock: Clock::default(),
        }
    }

    /// Judges the next packet.
    ///
    /// # Errors
    /// The kernel refuses to run a program.
    pub fn judge(&mut self, packet: &Packet<'_>) -> Result<Fate> {
        let frame = match Frame::of(packet) {
            Ok(frame) => frame,
            Err(skip) => return Ok(Fate::Skipped(skip)),
        };
        let mut window = Window::new(&frame.start, frame.bytes);
        let ends = window.ends();
        let direction = match ends {
            Some((source, _)) if self.hosts.contains(&source) => Direction::Outbound,
            _ => Direction::Inbound,
        };
        let hook = match direction {
            Direction::Inbound => Hook::Xdp,
            Direction::Outbound => Hook::TcEgress,
        };
        self.sandbox.set_clock(self.clock.at(packet.at_ns));
        let reading = window.read();
        if reading.is_incomplete {
            return Ok(Fate::Skipped(Skip::Cut {
                captured: packet.bytes.len(),
                wire_bytes: packet.wire_bytes,
            }));
        }
        let frame = frame.fit_for(hook);
        let decision = self.sandbox.judge(hook, &frame.start, frame.bytes)?;
        let about = ends.map(|(source, destination)| {
            let (peer, local) = match direction {
                Direction::Inbound => (source, destination),
                Direction::Outbound => (destination, source),
            };
            Conversation {
                peer,
                local,
                service: reading.service,
            }
        });
        Ok(Fate::Judged {
            direction,
            decision,
            about,
        })
    }
}
