//! Who: sets of addresses.

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use super::ranges::Ranges;
use crate::compile::Family;

/// A set of addresses of both families, in one form however the prefixes that
/// it was made from were cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses([Ranges<u128>; 2]);

impl Addresses {
    pub(super) fn new<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut ranges = [Vec::new(), Vec::new()];
        for prefix in prefixes {
            let (family, first, last) = range(prefix);
            ranges[family as usize].push((first, last));
        }
        Self(ranges.map(Ranges::new))
    }

    pub(super) fn from_families(ranges: [Ranges<u128>; 2]) -> Self {
        Self(ranges)
    }

    pub(super) fn union(sets: &[&Self]) -> Self {
        Self(Family::ALL.map(|family| Ranges::union(sets.iter().map(|set| set.of(family)))))
    }

    /// How many ranges it takes to write them down.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|ranges| ranges.as_slice().len()).sum()
    }

    pub(super) fn without(&self, other: &Self) -> Self {
        Self(Family::ALL.map(|family| self.of(family).without(other.of(family))))
    }

    pub(super) fn intersect(&self, other: &Self) -> Self {
        Self(Family::ALL.map(|family| self.of(family).intersect(other.of(family))))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Ranges::is_empty)
    }

    /// The addresses of one family.
    pub(super) fn of(&self, family: Family) -> &Ranges<u128> {
        &self.0[family as usize]
    }

    /// Only those of one family.
    pub(super) fn only(&self, family: Family) -> Self {
        let mut ranges = [Ranges::default(), Ranges::default()];
        ranges[family as usize] = self.of(family).clone();
        Self(ranges)
    }

    /// The fewest prefixes that hold exactly these addresses, sorted, IPv4
    /// first.
    pub(super) fn prefixes(&self) -> Vec<IpNet> {
        let mut prefixes = Vec::new();
        for family in Family::ALL {
            for (first, last) in self.of(family).as_slice() {
                prefixes.extend(subnets(family, *first, *last));
            }
        }
        prefixes
    }
}

/// The family of a prefix, and its first and last address as a number.
pub(super) fn range(prefix: &IpNet) -> (Family, u128, u128) {
    match prefix {
        IpNet::V4(prefix) => (
            Family::V4,
            u32::from(prefix.network()).into(),
            u32::from(prefix.broadcast()).into(),
        ),
        IpNet::V6(prefix) => (
            Family::V6,
            prefix.network().into(),
            prefix.broadcast().into(),
        ),
    }
}

fn subnets(family: Family, first: u128, last: u128) -> IpSubnets {
    let v4 = |address: u128| u32::try_from(address).unwrap_or(u32::MAX).into();
    match family {
        Family::V4 => IpSubnets::V4(Ipv4Subnets::new(v4(first), v4(last), 0)),
        Family::V6 => IpSubnets::V6(Ipv6Subnets::new(first.into(), last.into(), 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(prefixes: &[&str]) -> Addresses {
        let prefixes: Vec<IpNet> = prefixes.iter().filter_map(|p| p.parse().ok()).collect();
        Addresses::new(&prefixes)
    }

    fn written(addresses: &Addresses) -> Vec<String> {
        let prefixes = addresses.prefixes();
        prefixes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_fewest_prefixes() {
        let halves = set(&["10.1.0.0/16", "10.0.0.0/16", "10.0.3.0/24", "2001:db8::/32"]);
        assert_eq!(halves, set(&["2001:db8::/32", "10.0.0.0/15"]));
        assert_eq!(written(&halves), ["10.0.0.0/15", "2001:db8::/32"]);
        let everyone = set(&["0.0.0.0/0", "::/0"]);
        assert_eq!(written(&everyone), ["0.0.0.0/0", "::/0"]);
        assert_eq!(
            written(&everyone.without(&set(&["128.0.0.0/2", "::/0"]))),
            ["0.0.0.0/1", "192.0.0.0/2"]
        );
    }
}
