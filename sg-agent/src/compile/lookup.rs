//! Asks compiled tables what the kernel would ask them.

use std::net::IpAddr;

use sg_common::{
    address::{Address as _, V4, V6},
    classify::{Match, Service, classify},
    config,
};

use super::{Compiled, CompiledRule};
use crate::policy::Direction;

impl Compiled {
    /// The first rule of a direction that allows a service with a peer.
    #[must_use]
    pub fn first_match(
        &self,
        direction: Direction,
        peer: IpAddr,
        service: Service,
    ) -> Option<Match> {
        first_match(&self.words, direction, peer, service)
    }

    /// The rule that counts in a slot.
    #[must_use]
    pub fn rule_in(&self, slot: u32) -> Option<&CompiledRule> {
        self.rules.iter().find(|rule| rule.slot == slot)
    }
}

/// As [`Compiled::first_match`], of an image's words.
#[must_use]
pub fn first_match(
    words: &[u32],
    direction: Direction,
    peer: IpAddr,
    service: Service,
) -> Option<Match> {
    let direction = match direction {
        Direction::Inbound => config::Direction::Inbound,
        Direction::Outbound => config::Direction::Outbound,
    };
    let answer = match peer {
        IpAddr::V4(peer) => {
            classify::<V4, _>(words, direction, V4::from(peer.octets()).key(), service)
        }
        IpAddr::V6(peer) => {
            classify::<V6, _>(words, direction, V6::from(peer.octets()).key(), service)
        }
    };
    // Broken tables allow nothing, as in the kernel.
    answer.rule().ok()?
}
