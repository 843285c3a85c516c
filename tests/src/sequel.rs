//! Sequences of frames, valid and damaged, for all judges that read bytes.

use std::collections::VecDeque;

use sg_agent::policy::{Direction, Policy};
use sg_judge::mutate::mutate;

use crate::{generate::Traffic, random::Random};

/// `BPF_PROG_TEST_RUN` takes no frame without an Ethernet header, and on tc
/// hooks none without an IP header.
pub const LEAST: usize = 14 + 40;

/// How many frames are kept to be spliced into others.
const REMEMBERED: usize = 16;

/// An endless sequence of frames for one attachment, half of them damaged.
pub struct Sequel<'a> {
    traffic: Traffic<'a>,
    random: Random,
    recent: VecDeque<Vec<u8>>,
}

impl<'a> Sequel<'a> {
    /// The sequence of one seed.
    #[must_use]
    pub fn new(policy: &'a Policy, attachment: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            traffic: Traffic::new(policy, attachment, random.bits()),
            random,
            recent: VecDeque::new(),
        }
    }

    /// The next frame and the way it goes.
    pub fn frame(&mut self) -> (Direction, Vec<u8>) {
        let (direction, packet) = self.traffic.packet();
        let mut frame = packet.bytes();
        if self.random.chance(60) {
            let other = self.recent.front().cloned().unwrap_or_default();
            let least = LEAST.min(frame.len());
            mutate(&mut frame, &other, least, &mut || self.random.bits());
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(frame.clone());
        if direction == Direction::Outbound {
            // As Ethernet pads what is too short.
            frame.resize(frame.len().max(LEAST), 0);
        }
        (direction, frame)
    }
}
