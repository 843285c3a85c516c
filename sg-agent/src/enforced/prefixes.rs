//! The prefixes of sets in a file: records of one size, sorted, so that one can
//! be found without reading the others.
//!
//! A record is an address, first octet first, and the prefix length. Records
//! compare as prefixes do.

use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Octets of an IPv4 record.
const V4: usize = 5;
/// Octets of an IPv6 record.
const V6: usize = 17;

/// Where one list is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extent {
    first: usize,
    v4: Part,
    /// Behind those of IPv4.
    v6: Part,
}

/// The records of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    count: usize,
    /// The prefix lengths that there are.
    lengths: Vec<u8>,
}

impl Part {
    fn new(prefixes: &[IpNet]) -> Self {
        let mut occurs = [false; 129];
        for prefix in prefixes {
            occurs[usize::from(prefix.prefix_len())] = true;
        }
        let lengths = (0u8..).zip(occurs).filter(|(_, occurs)| *occurs);
        Self {
            count: prefixes.len(),
            lengths: lengths.map(|(length, _)| length).collect(),
        }
    }
}

/// The file of `lists`, which are sorted.
pub(super) fn encode<'a>(lists: impl Iterator<Item = &'a [IpNet]>) -> (Vec<Extent>, Vec<u8>) {
    let mut bytes = Vec::new();
    let extents = lists
        .map(|list| {
            let first = bytes.len();
            for prefix in list {
                match prefix {
                    IpNet::V4(v4) => bytes.extend(v4.network().octets()),
                    IpNet::V6(v6) => bytes.extend(v6.network().octets()),
                }
                bytes.push(prefix.prefix_len());
            }
            let (v4, v6) = list.split_at(list.partition_point(is_v4));
            Extent {
                first,
                v4: Part::new(v4),
                v6: Part::new(v6),
            }
        })
        .collect();
    (extents, bytes)
}

fn is_v4(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V4(_))
}

/// One list of a file.
#[derive(Clone, Copy)]
pub(super) struct List<'a> {
    extent: &'a Extent,
    v4: &'a [[u8; V4]],
    v6: &'a [[u8; V6]],
}

impl<'a> List<'a> {
    pub(super) fn new(extent: &'a Extent, bytes: &'a [u8]) -> Result<Self> {
        let (v4, v6) = records(extent, bytes)
            .with_context(|| format!("{} octets of prefixes are too few", bytes.len()))?;
        Ok(Self { extent, v4, v6 })
    }

    /// All of it.
    pub(super) fn prefixes(&self) -> Result<Vec<IpNet>> {
        let v4 = self.v4.iter().copied().map(read_v4);
        let v6 = self.v6.iter().map(read_v6);
        let prefixes = v4.chain(v6).collect::<Result<Vec<_>>>()?;
        ensure!(prefixes.is_sorted(), "prefixes are not sorted");
        Ok(prefixes)
    }

    /// How many prefixes of the family of `like` there are.
    pub(super) fn count(&self, like: &IpNet) -> usize {
        self.part(like).count
    }

    /// The prefix lengths that there are in the family of `like`.
    pub(super) fn lengths(&self, like: &IpNet) -> &'a [u8] {
        &self.part(like).lengths
    }

    fn part(&self, like: &IpNet) -> &'a Part {
        match like {
            IpNet::V4(_) => &self.extent.v4,
            IpNet::V6(_) => &self.extent.v6,
        }
    }

    pub(super) fn contains(&self, prefix: &IpNet) -> bool {
        match prefix {
            IpNet::V4(v4) => self.v4.binary_search(&record_v4(*v4)).is_ok(),
            IpNet::V6(v6) => self.v6.binary_search(&record_v6(v6)).is_ok(),
        }
    }

    /// How many begin in `prefix`.
    pub(super) fn count_within(&self, prefix: &IpNet) -> usize {
        self.places_within(prefix).len()
    }

    /// Those that begin in `prefix`.
    pub(super) fn within(&self, prefix: &IpNet) -> Result<Vec<IpNet>> {
        let places = self.places_within(prefix);
        match prefix {
            IpNet::V4(_) => self.v4[places].iter().copied().map(read_v4).collect(),
            IpNet::V6(_) => self.v6[places].iter().map(read_v6).collect(),
        }
    }

    fn places_within(&self, prefix: &IpNet) -> Range<usize> {
        match prefix {
            IpNet::V4(v4) => {
                let (first, last) = (v4.network().octets(), v4.broadcast().octets());
                let is_before = |[address @ .., _]: &[u8; V4]| *address < first;
                let begins = |[address @ .., _]: &[u8; V4]| *address <= last;
                self.v4.partition_point(is_before)..self.v4.partition_point(begins)
            }
            IpNet::V6(v6) => {
                let (first, last) = (v6.network().octets(), v6.broadcast().octets());
                let is_before = |[address @ .., _]: &[u8; V6]| *address < first;
                let begins = |[address @ .., _]: &[u8; V6]| *address <= last;
                self.v6.partition_point(is_before)..self.v6.partition_point(begins)
            }
        }
    }
}

fn record_v4(prefix: Ipv4Net) -> [u8; V4] {
    let [a, b, c, d] = prefix.network().octets();
    [a, b, c, d, prefix.prefix_len()]
}

fn record_v6(prefix: &Ipv6Net) -> [u8; V6] {
    let mut record = [prefix.prefix_len(); V6];
    record[..V6 - 1].copy_from_slice(&prefix.network().octets());
    record
}

fn read_v4([address @ .., length]: [u8; V4]) -> Result<IpNet> {
    Ok(Ipv4Net::new(address.into(), length)?.into())
}

fn read_v6([address @ .., length]: &[u8; V6]) -> Result<IpNet> {
    Ok(Ipv6Net::new((*address).into(), *length)?.into())
}

/// IPv4 records and IPv6 records.
type Records<'a> = (&'a [[u8; V4]], &'a [[u8; V6]]);

/// The records of one list.
fn records<'a>(extent: &Extent, bytes: &'a [u8]) -> Option<Records<'a>> {
    let v4_octets = extent.v4.count.checked_mul(V4)?;
    let v6_octets = extent.v6.count.checked_mul(V6)?;
    let list = bytes.get(extent.first..)?;
    let (v4, rest) = list.split_at_checked(v4_octets)?;
    let (v6, _) = rest.split_at_checked(v6_octets)?;
    Some((v4.as_chunks().0, v6.as_chunks().0))
}
