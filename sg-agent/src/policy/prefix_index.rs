//! Who has prefixes near an address, of many who have some.

use std::{collections::BTreeSet, ops::RangeInclusive};

use ipnet::IpNet;

/// Finds, of many owners of prefixes, the few that have some in a region or
/// around it, without asking each.
#[derive(Default)]
pub struct PrefixIndex {
    v4: Part,
    v6: Part,
}

/// The prefixes of one family.
#[derive(Default)]
struct Part {
    /// The lengths that there are, of those shorter than [`STARTS`] bits.
    lengths: BTreeSet<u8>,
    /// The first [`STARTS`] bits of each prefix and its owner, ascending.
    starts: Vec<(u32, u32)>,
}

/// Bits of a prefix that are looked at: all of an IPv4 address.
const STARTS: u8 = 32;

impl PrefixIndex {
    /// The index of `prefixes`, each with its owner.
    pub fn new(prefixes: impl IntoIterator<Item = (u32, IpNet)>) -> Self {
        let mut index = Self::default();
        for (owner, prefix) in prefixes {
            let part = match prefix {
                IpNet::V4(_) => &mut index.v4,
                IpNet::V6(_) => &mut index.v6,
            };
            if prefix.prefix_len() < STARTS {
                part.lengths.insert(prefix.prefix_len());
            }
            part.starts.push((start(&prefix), owner));
        }
        for part in [&mut index.v4, &mut index.v6] {
            part.starts.sort_unstable();
            part.starts.dedup();
            part.starts.shrink_to_fit();
        }
        index
    }

    /// Everyone who has a prefix in `region` or around it. There may be others
    /// among them, whose prefixes begin where those would.
    #[must_use]
    pub fn near(&self, region: &IpNet) -> BTreeSet<u32> {
        let part = match region {
            IpNet::V4(_) => &self.v4,
            IpNet::V6(_) => &self.v6,
        };
        let (first, last) = (start(region), end(region));
        let mut owners: BTreeSet<u32> = part.owners(first..=last).collect();
        for length in part.lengths.range(..region.prefix_len()) {
            let around = first
                & u32::MAX
                    .checked_shl(u32::from(STARTS - length))
                    .unwrap_or(0);
            if around < first {
                owners.extend(part.owners(around..=around));
            }
        }
        owners
    }
}

impl Part {
    /// Whose prefixes begin there.
    fn owners(&self, starts: RangeInclusive<u32>) -> impl Iterator<Item = u32> {
        let first = self.starts.partition_point(|(at, _)| at < starts.start());
        let rest = self.starts[first..].iter();
        rest.take_while(move |(at, _)| at <= starts.end())
            .map(|(_, owner)| *owner)
    }
}

/// The first bits of the first address.
fn start(prefix: &IpNet) -> u32 {
    match prefix {
        IpNet::V4(prefix) => prefix.network().to_bits(),
        IpNet::V6(prefix) => upper(prefix.network().to_bits()),
    }
}

/// The first bits of the last address.
fn end(prefix: &IpNet) -> u32 {
    match prefix {
        IpNet::V4(prefix) => prefix.broadcast().to_bits(),
        IpNet::V6(prefix) => upper(prefix.broadcast().to_bits()),
    }
}

fn upper(bits: u128) -> u32 {
    let [a, b, c, d, ..] = bits.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    /// Few bits are random, so that many prefixes meet.
    fn any_prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (0..64u32, 0..=32u8)
            .prop_map(|(bits, length)| (IpAddr::V4((bits << 26).into()), length));
        let v6 = (0..64u128, 0..=128u8).prop_map(|(bits, length)| {
            let spread = bits << 122 | (bits & 7) << 90 | (bits & 3) << 60;
            (IpAddr::V6(spread.into()), length)
        });
        prop_oneof![v4, v6].prop_map(|(address, length)| {
            IpNet::new(address, length).expect("not too long").trunc()
        })
    }

    proptest! {
        /// Nobody is missed, and who begins elsewhere is not named.
        #[test]
        fn nobody_near_is_missed(
            owned in proptest::collection::vec((0..20u32, any_prefix()), 0..60),
            region in any_prefix(),
        ) {
            let found = PrefixIndex::new(owned.iter().copied()).near(&region);
            for (owner, prefix) in &owned {
                if region.contains(prefix) || prefix.contains(&region) {
                    prop_assert!(found.contains(owner), "{owner} has {prefix}");
                }
            }
            for owner in found {
                let begins_near = |prefix: &IpNet| {
                    start(prefix) <= end(&region)
                        && matches!(prefix, IpNet::V4(_)) == matches!(region, IpNet::V4(_))
                };
                prop_assert!(owned.iter().any(|(other, prefix)| *other == owner && begins_near(prefix)));
            }
        }
    }

    #[test]
    fn few_of_many_are_named() {
        let hosts = (0..100_000u32).map(|n| (n, IpNet::from(IpAddr::V4((n << 8).into()))));
        let index = PrefixIndex::new(hosts);
        let near = |region: &str| index.near(&region.parse().expect("a prefix")).len();
        assert_eq!(near("0.1.0.0/32"), 1);
        assert_eq!(near("0.1.0.1/32"), 0);
        assert_eq!(near("0.1.0.0/16"), 256);
        assert_eq!(near("::/0"), 0);
    }
}
