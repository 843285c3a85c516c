//! Single addresses that lie scattered in a region of one class.

use sg_common::tables::{Bucket, Entry, Key, KeyV4, KeyV6, Length};

use super::{
    Family,
    segment::Segment,
    trie::{Region, UNIT, key_of, words_of},
};

/// Neighbours of one class that are still taken for single addresses.
const MAX_RUN: u128 = 4;

/// A single address.
type Host = Segment<u32>;

/// The hosts of a level.
pub(super) struct Hosts {
    pub(super) region: Region,
    /// How many bits of the unit select a bucket.
    pub(super) bits: u32,
    family: Family,
    /// The class of all other addresses.
    others: u32,
    /// Ascending.
    addresses: Vec<Host>,
}

impl Hosts {
    /// What a region consists of, if it is hosts that are worth their node: too
    /// many for the shortest list, and most of them find room in their buckets.
    pub(super) fn find(segments: &[Segment<u32>], region: Region, family: Family) -> Option<Self> {
        let per_bucket = per_bucket(family);
        let most = per_bucket << Bucket::MAX_BITS;
        if segments.len() <= Length::L8.bounds() || segments.len() > most {
            return None;
        }
        let (addresses, others) = addresses(segments, region, family)?;
        let has_room = |bits: &u32| per_bucket << bits >= 2 * addresses.len();
        let bits = (1..Bucket::MAX_BITS).find(has_room);
        let this = Self {
            region,
            bits: bits.unwrap_or(Bucket::MAX_BITS),
            family,
            others,
            addresses,
        };
        let listed: usize = this.buckets().map(|bucket| bucket.listed.len()).sum();
        (4 * listed >= 3 * this.addresses.len()).then_some(this)
    }

    /// All buckets, in their order.
    pub(super) fn buckets(&self) -> impl Iterator<Item = HostBucket<'_>> {
        let shift = UNIT - self.bits;
        let mut rest = self.addresses.as_slice();
        (0..1u16 << self.bits).map(move |number| {
            let is_here = |host: &Host| self.region.unit(host.first) >> shift <= number;
            let (here, behind) = rest.split_at(rest.partition_point(is_here));
            rest = behind;
            let (listed, unlisted) = here.split_at(here.len().min(per_bucket(self.family)));
            HostBucket {
                of: self,
                first_unit: number << shift,
                listed,
                unlisted,
            }
        })
    }
}

/// One bucket, and who belongs in it.
pub(super) struct HostBucket<'a> {
    of: &'a Hosts,
    first_unit: u16,
    listed: &'a [Host],
    /// Those that it has no room for.
    unlisted: &'a [Host],
}

impl HostBucket<'_> {
    /// What keys of this bucket are that are not listed, as if it were the whole
    /// region.
    pub(super) fn others(&self) -> Vec<Segment<u32>> {
        let others = |first| Segment {
            first,
            class: self.of.others,
        };
        let mut segments = vec![others(self.of.region.first)];
        for host in self.unlisted {
            segments.push(*host);
            let next = host.first.checked_add(1 << spare_bits(self.of.family));
            let next = next.filter(|next| *next <= self.of.region.last());
            segments.extend(next.map(others));
        }
        Segment::merge(&mut segments);
        segments
    }

    /// Its words; `others` is where those lead that are not listed.
    pub(super) fn words(&self, others: Entry) -> [u32; Bucket::WORDS] {
        let Hosts { region, family, .. } = *self.of;
        // The other half of the units has other buckets.
        let nobody = Host {
            first: region.below(self.first_unit ^ 1 << (UNIT - 1)).first,
            class: 0,
        };
        let mut words = [0; Bucket::WORDS];
        words[0] = others.0;
        let hosts = self.listed.iter().chain(std::iter::repeat(&nobody));
        for (place, host) in hosts.take(per_bucket(family)).enumerate() {
            words[Bucket::class(place)] = host.class;
            let key = words_of(host.first.rotate_left(region.depth));
            let first = Bucket::key(place, words_of_key(family));
            let key = &key[..words_of_key(family)];
            words[first..first + key.len()].copy_from_slice(key);
        }
        words
    }
}

/// The keys that the words of a bucket have, and their places. Unused ones
/// belong in another bucket.
pub(super) fn keys(
    words: &[u32; Bucket::WORDS],
    region: Region,
    family: Family,
) -> impl Iterator<Item = (usize, u128)> {
    (0..per_bucket(family)).map(move |place| {
        let mut key = [0; 4];
        let first = Bucket::key(place, words_of_key(family));
        let own = words_of_key(family);
        key[..own].copy_from_slice(&words[first..first + own]);
        (place, region.first | key_of(key) >> region.depth)
    })
}

/// The addresses of a region whose class is not that of its longest stretch,
/// ascending, and that class; `None` if they are too many in a row.
fn addresses(
    segments: &[Segment<u32>],
    region: Region,
    family: Family,
) -> Option<(Vec<Host>, u32)> {
    let lasts = segments.iter().skip(1).map(|next| next.first - 1);
    let stretches = segments.iter().zip(lasts.chain([region.last()]));
    let stretches = stretches.map(|(segment, last)| {
        let first = segment.first.max(region.first);
        (first, last, segment.class)
    });
    let longest = stretches
        .clone()
        .max_by_key(|(first, last, _)| last - first);
    let (.., others) = longest?;
    let mut addresses = Vec::new();
    for (first, last, class) in stretches.filter(|(.., class)| *class != others) {
        let count = ((last - first) >> spare_bits(family)) + 1;
        if count > MAX_RUN {
            return None;
        }
        let keys = (0..count).map(|number| first + (number << spare_bits(family)));
        addresses.extend(keys.map(|first| Host { first, class }));
    }
    Some((addresses, others))
}

fn per_bucket(family: Family) -> usize {
    Bucket::hosts(words_of_key(family))
}

fn words_of_key(family: Family) -> usize {
    match family {
        Family::V4 => KeyV4::WORDS,
        Family::V6 => KeyV6::WORDS,
    }
}

/// How many bits of a key are below an address.
fn spare_bits(family: Family) -> u32 {
    match family {
        Family::V4 => 96,
        Family::V6 => 0,
    }
}
