//! Fragments. Later ones have no ports, so they follow the first one of their
//! datagram: where it passed, so do they.
//!
//! What is remembered of first fragments is bounded: there are [`SETS`] sets of
//! [`WAYS`], and a peer's address has its place in one of them. So a flood of
//! fragments from one peer displaces what is remembered of itself, and of the
//! few others that share its set, and nobody else's.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Family},
    config::Direction,
    decide::Kernel,
    network::Headers,
    verdict::{Reason, Verdict},
};

/// How many sets there are; a power of two.
pub const SETS: u32 = 1 << SETS_BITS;
const SETS_BITS: u32 = 10;

/// How many first fragments one set has room for.
pub const WAYS: usize = 8;

/// How long a first fragment is remembered: as long as Linux waits for the
/// rest of a datagram (`net.ipv4.ipfrag_time`).
pub const TIMEOUT_NS: u64 = 30_000_000_000;

/// Which piece of a datagram a packet carries (RFC 791 section 3.1, RFC 8200
/// section 4.5): a whole packet is the first and last.
///
/// Passed by reference to functions that the verifier looks at for themselves,
/// so it has no bytes that nobody writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Fragment {
    /// The datagram's number, in network order.
    pub id_be: u32,
    /// Where the piece begins in the datagram, in bytes.
    pub start: u32,
    /// Where it ends.
    pub end: u32,
    /// Not 0 if more follow.
    pub more: u16,
    /// The protocol of what was cut.
    pub protocol: u16,
}

impl Fragment {
    /// Whether it is the first of several.
    #[must_use]
    #[inline(always)]
    pub const fn is_first(&self) -> bool {
        self.start == 0 && self.more != 0
    }

    /// Whether the transport header is in another.
    #[must_use]
    #[inline(always)]
    pub const fn is_later(&self) -> bool {
        self.start != 0
    }
}

/// A datagram that was cut. Zones have tables of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Datagram {
    /// The peer's address.
    pub remote: [u64; 2],
    /// The protected side's address.
    pub local: [u64; 2],
    /// Its number, in network order.
    pub id_be: u32,
    /// The protocol of what was cut.
    pub protocol: u16,
    /// A [`Direction`].
    pub direction: u8,
    /// 4 or 6.
    pub version: u8,
}

impl Datagram {
    /// The one that `fragment`, with these headers, is a piece of.
    #[must_use]
    #[inline(always)]
    pub fn of<A: Address>(direction: Direction, headers: &Headers<A>, fragment: &Fragment) -> Self {
        let (source, destination) = (headers.source.wide(), headers.destination.wide());
        let (remote, local) = match direction {
            Direction::Inbound => (source, destination),
            Direction::Outbound => (destination, source),
        };
        Self {
            remote,
            local,
            id_be: fragment.id_be,
            protocol: fragment.protocol,
            direction: direction as u8,
            version: match A::FAMILY {
                Family::V4 => 4,
                Family::V6 => 6,
            },
        }
    }

    /// The set that it is remembered in: that of the peer's address, of IPv6
    /// the /64, because a host has all of one. `seed` is a secret, so that
    /// nobody can choose whose set to share.
    #[must_use]
    #[inline(always)]
    pub const fn set(&self, seed: u64) -> u32 {
        // The mixing steps of SplitMix64.
        let [prefix, _] = self.remote;
        let mut hash = prefix ^ seed;
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (hash >> (u64::BITS - SETS_BITS)) as u32
    }

    /// Compared without branches: the verifier would try each way.
    #[inline(always)]
    const fn is(&self, other: &Self) -> bool {
        let [remote, remote_low] = self.remote;
        let [local, local_low] = self.local;
        let [other_remote, other_remote_low] = other.remote;
        let [other_local, other_local_low] = other.local;
        (remote ^ other_remote)
            | (remote_low ^ other_remote_low)
            | (local ^ other_local)
            | (local_low ^ other_local_low)
            | (self.id_be ^ other.id_be) as u64
            | (self.protocol ^ other.protocol) as u64
            | (self.direction ^ other.direction) as u64
            | (self.version ^ other.version) as u64
            == 0
    }
}

/// What is remembered of a first fragment that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct First {
    /// Its datagram.
    pub datagram: Datagram,
    /// Coarse monotonic time when it passed.
    pub seen_ns: u64,
    /// The bits of its [`Verdict`]; 0, which passes nothing, is a free place.
    pub verdict: u64,
    /// The revision of the tables that let it pass.
    pub revision: u32,
    /// Where it ends in the datagram, in bytes.
    pub end: u32,
}

impl First {
    /// A first fragment that passes now.
    #[must_use]
    #[inline(always)]
    pub fn new<K: Kernel>(kernel: &K, datagram: Datagram, end: u32, verdict: Verdict) -> Self {
        Self {
            datagram,
            seen_ns: kernel.now_ns(),
            verdict: verdict.to_bits(),
            revision: kernel.revision(),
            end,
        }
    }

    /// The verdict for a later fragment of its datagram that begins at `start`.
    ///
    /// One that overlaps the first would give the datagram other headers than
    /// those that were judged (RFC 1858, RFC 5722). One whose first was let
    /// through by other tables is not judged by those of now.
    #[inline(always)]
    pub fn judge<K: Kernel>(&self, kernel: &K, start: u32) -> Verdict {
        let verdict = Verdict::from_bits(self.verdict);
        let is_fresh = kernel.now_ns().saturating_sub(self.seen_ns) < TIMEOUT_NS;
        if verdict.passes() && is_fresh && self.revision == kernel.revision() && start >= self.end {
            verdict.of_later_fragment()
        } else {
            Verdict::drop(Reason::Fragment)
        }
    }
}

/// Remembers a first fragment: in the place of its own datagram, if that has
/// one, or else in that of the oldest, which is the `next`.
#[inline(always)]
pub fn remember(firsts: &mut [First; WAYS], next: &mut u32, first: &First) {
    let known = place_of(firsts, &first.datagram);
    let place = known.unwrap_or(*next as usize % WAYS);
    *next = next.wrapping_add(u32::from(known.is_none()));
    if let Some(way) = firsts.get_mut(place) {
        *way = *first;
    }
}

/// What is remembered of the first fragment of a datagram; all 0 if nothing.
#[must_use]
#[inline(always)]
pub fn recall(firsts: &[First; WAYS], datagram: &Datagram) -> First {
    place_of(firsts, datagram)
        .and_then(|place| firsts.get(place))
        .copied()
        .unwrap_or_default()
}

#[inline(always)]
fn place_of(firsts: &[First; WAYS], datagram: &Datagram) -> Option<usize> {
    firsts.iter().position(|first| first.datagram.is(datagram))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::collections::HashMap;

    use super::*;
    use crate::{conntrack::State, verdict::FlowKind};

    /// A clock, and the tables' revision.
    struct Now(u64, u32);

    impl Kernel for Now {
        fn revision(&self) -> u32 {
            self.1
        }
        fn now_ns(&self) -> u64 {
            self.0
        }
        fn flags(&self) -> u32 {
            0
        }
        fn zone(&self) -> u16 {
            0
        }
        fn timeout_ns(&self, _: State) -> u64 {
            0
        }
        fn ephemeral_ports(&self) -> (u16, u16) {
            (0, 0)
        }
        fn has_opened_from(&self, _: u16) -> bool {
            false
        }
        fn opens_from(&self, _: u16) {}
    }

    #[test]
    fn later_fragments_pass_in_time_by_the_same_tables_and_behind_the_first() {
        let datagram = Datagram::default();
        let verdict = Verdict::rule(7, FlowKind::None, false);
        let first = First::new(&Now(1000, 5), datagram, 24, verdict);
        let passes = |now_ns, revision, start| first.judge(&Now(now_ns, revision), start).passes();
        assert!(passes(1000, 5, 24) && passes(1000, 5, 32));
        assert!(!passes(1000, 5, 16));
        assert!(!passes(1000, 6, 24));
        assert!(passes(999 + TIMEOUT_NS, 5, 24));
        assert!(!passes(1000 + TIMEOUT_NS, 5, 24));
        assert!(!First::default().judge(&Now(0, 0), 8).passes());
    }

    fn first(id: u32) -> First {
        First {
            datagram: Datagram {
                remote: [1, 2],
                local: [3, 4],
                id_be: id,
                protocol: 17,
                direction: 0,
                version: 4,
            },
            verdict: u64::from(id),
            ..First::default()
        }
    }

    #[test]
    fn a_datagram_is_itself_only() {
        let datagram = first(7).datagram;
        let changes: [fn(&mut Datagram); 8] = [
            |d| d.remote[0] ^= 1 << 63,
            |d| d.remote[1] ^= 1,
            |d| d.local[0] ^= 1 << 32,
            |d| d.local[1] ^= 1 << 31,
            |d| d.id_be ^= 1 << 31,
            |d| d.protocol ^= 0x80,
            |d| d.direction ^= 1,
            |d| d.version ^= 2,
        ];
        assert!(datagram.is(&datagram));
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = datagram;
            change(&mut other);
            assert!(!datagram.is(&other), "change {index}");
        }
    }

    #[test]
    fn the_oldest_makes_room_and_a_datagram_keeps_its_place() {
        let (mut firsts, mut next) = ([First::default(); WAYS], u32::MAX - 2);
        for id in 1..=8 {
            remember(&mut firsts, &mut next, &first(id));
        }
        // Again, and not as the youngest.
        remember(&mut firsts, &mut next, &first(1));
        let known = |firsts: &[First; WAYS], id| recall(firsts, &first(id).datagram).verdict != 0;
        assert!((1..=8).all(|id| known(&firsts, id)));
        remember(&mut firsts, &mut next, &first(9));
        assert!(!known(&firsts, 1) && (2..=9).all(|id| known(&firsts, id)));
    }

    #[test]
    fn peers_spread_over_all_sets_and_a_seed_moves_them() {
        let place = |peer: u64, seed| {
            let datagram = Datagram {
                remote: [peer << 32, 0],
                ..Datagram::default()
            };
            datagram.set(seed)
        };
        let mut sets: HashMap<u32, u32> = HashMap::new();
        for peer in 0..SETS * 8 {
            *sets.entry(place(peer.into(), 99)).or_default() += 1;
        }
        assert!(sets.keys().all(|set| *set < SETS));
        assert!(sets.len() > SETS as usize * 99 / 100);
        assert!(sets.values().all(|peers| *peers < 32), "crowded");
        let moved = (0..1000).filter(|peer| place(*peer, 1) != place(*peer, 2));
        assert!(moved.count() > 950);
    }
}
