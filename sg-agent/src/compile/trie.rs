//! Tries: from segments to nodes.

use std::ops::RangeInclusive;

use bytemuck::cast;
use sg_common::tables::{Bucket, Entry, Kind, Length, Skip};

use super::{
    Family,
    draft::Draft,
    hosts::{self, Hosts},
    image::Image,
    segment::Segment,
};

/// From how many bounds on a level is one wide node: 256 KiB.
const WIDE_FROM: usize = 4096;

/// Bits of a unit.
pub(super) const UNIT: u32 = 16;

/// Writes the trie of `segments`, which begin with key 0, and returns its root.
pub(super) fn write(image: &mut Image, segments: &[Segment<u32>], family: Family) -> Entry {
    let mut writer = Writer { image, family };
    writer.level(segments, Region { first: 0, depth: 0 })
}

/// All keys that have the first `depth` bits of `first`.
#[derive(Clone, Copy)]
pub(super) struct Region {
    pub(super) first: u128,
    pub(super) depth: u32,
}

impl Region {
    pub(super) fn last(self) -> u128 {
        self.first | u128::MAX.checked_shr(self.depth).unwrap_or(0)
    }

    /// The unit of a key in it.
    pub(super) fn unit(self, key: u128) -> u16 {
        let [unit, ..] = cast::<_, [[u8; 2]; 8]>((key << self.depth).to_be_bytes());
        u16::from_be_bytes(unit)
    }

    /// The keys with one unit.
    pub(super) fn below(self, unit: u16) -> Self {
        Self {
            first: self.first | u128::from(unit) << (128 - UNIT - self.depth),
            depth: self.depth + UNIT,
        }
    }

    /// The keys around `key` that agree in `bits` more bits.
    fn around(self, key: u128, bits: u32) -> Self {
        let depth = self.depth + bits;
        let rest = u128::MAX.checked_shr(depth).unwrap_or(0);
        Self {
            first: key & !rest,
            depth,
        }
    }
}

struct Writer<'a> {
    image: &'a mut Image,
    family: Family,
}

/// A bound of a level and what begins there.
type Bound = (u16, Entry);

impl Writer<'_> {
    /// The entry for `region`, which `segments` cover.
    fn level(&mut self, segments: &[Segment<u32>], region: Region) -> Entry {
        match Hosts::find(segments, region, self.family) {
            // What they have in common is skipped first.
            Some(hosts) if Island::find(segments, region).is_none() => self.hosts(&hosts),
            _ => self.without_hosts(segments, region),
        }
    }

    /// As [`Writer::level`], where no hosts may begin: those of this level have
    /// been looked for.
    fn without_hosts(&mut self, segments: &[Segment<u32>], region: Region) -> Entry {
        if let [only] = segments {
            return Entry::new(Kind::Leaf, only.class);
        }
        if let Some(island) = Island::find(segments, region) {
            return self.skip(segments, region, &island);
        }
        let bounds = self.bounds(segments, region);
        self.node(&bounds)
    }

    fn hosts(&mut self, hosts: &Hosts) -> Entry {
        let mut words = Vec::new();
        for bucket in hosts.buckets() {
            let others = self.without_hosts(&bucket.others(), hosts.region);
            words.extend_from_slice(&bucket.words(others));
        }
        Entry::hosts(hosts.bits, self.image.buckets(&words))
    }

    fn skip(&mut self, segments: &[Segment<u32>], region: Region, island: &Island) -> Entry {
        let inner = region.around(island.key, island.bits);
        let inside = match island.class {
            Some(class) => Entry::new(Kind::Leaf, class),
            None => self.level(Segment::within(segments, inner.first, inner.last()), inner),
        };
        let outside = Entry::new(Kind::Leaf, island.outside);
        let skip = skip_to(inner, region, inside, outside);
        let words: [u32; Skip::WORDS] = cast(skip);
        Entry::new(Kind::Skip, self.image.node(&words))
    }

    /// Where in a level something begins. A unit that is cut inside has an
    /// entry that leads on.
    fn bounds(&mut self, segments: &[Segment<u32>], region: Region) -> Vec<Bound> {
        let mut bounds = Vec::new();
        let mut rest = segments;
        let mut unit = region.unit(region.first);
        loop {
            let below = region.below(unit);
            let here = rest
                .iter()
                .take_while(|segment| segment.first <= below.last());
            let here = here.count();
            bounds.push((unit, self.level(&rest[..here], below)));
            let next = rest.get(here).map(|next| region.unit(next.first));
            unit = match next {
                // What follows the cut unit begins behind it.
                _ if here > 1 && unit < u16::MAX => unit + 1,
                Some(next) if here == 1 => next,
                _ => return bounds,
            };
            let begins_here = next == Some(unit) && rest[here].first == region.below(unit).first;
            rest = &rest[if begins_here { here } else { here - 1 }..];
        }
    }

    /// What one high octet of a level leads to.
    fn octet(&mut self, bounds: &[Bound]) -> Entry {
        match Length::of(bounds.len()) {
            Some(length) => self.list(bounds, length),
            None => self.page(bounds),
        }
    }

    /// The smallest node of a level.
    fn node(&mut self, bounds: &[Bound]) -> Entry {
        if bounds.len() >= WIDE_FROM {
            let mut words = vec![0; 1 << UNIT];
            fill(&mut words, bounds, usize::from);
            return Entry::new(Kind::Wide, self.image.node(&words));
        }
        match Length::of(bounds.len()) {
            Some(length) => self.list(bounds, length),
            None => self.split(bounds),
        }
    }

    fn list(&mut self, bounds: &[Bound], length: Length) -> Entry {
        if let [(_, only)] = bounds
            && only.kind() == Some(Kind::Leaf)
        {
            return *only;
        }
        let places = length.bounds();
        let last = bounds[bounds.len() - 1].1;
        let mut words = vec![last.0; places / 2 + places];
        let mut units = vec![u16::MAX; places];
        for (place, (unit, entry)) in bounds.iter().enumerate() {
            units[place] = *unit;
            words[places / 2 + place] = entry.0;
        }
        words[..places / 2].copy_from_slice(bytemuck::cast_slice(&units));
        Entry::list(length, self.image.node(&words))
    }

    fn page(&mut self, bounds: &[Bound]) -> Entry {
        let mut words = [0; 256];
        fill(&mut words, bounds, |unit| (unit & 0xff).into());
        Entry::new(Kind::Page, self.image.node(&words))
    }

    fn split(&mut self, bounds: &[Bound]) -> Entry {
        let mut words = [0; 256];
        let mut before = bounds[0].1;
        let mut rest = bounds;
        for (high, word) in (0u16..).zip(&mut words) {
            let end = rest.partition_point(|(unit, _)| unit >> 8 <= high);
            let mut here = rest[..end].to_vec();
            rest = &rest[end..];
            if here.first().is_none_or(|(unit, _)| unit & 0xff != 0) {
                here.insert(0, (high << 8, before));
            }
            before = here[here.len() - 1].1;
            *word = self.octet(&here).0;
        }
        Entry::new(Kind::Split, self.image.node(&words))
    }
}

fn fill(words: &mut [u32], bounds: &[Bound], place: impl Fn(u16) -> usize) {
    let ends = bounds.iter().skip(1).map(|(unit, _)| place(*unit));
    for ((unit, entry), end) in bounds.iter().zip(ends.chain([words.len()])) {
        words[place(*unit)..end].fill(entry.0);
    }
}

/// Changes a live trie, whose root is the word `root`: the keys of `region` get
/// the classes of `segments`, the first of which begins with it.
pub(super) fn amend(
    draft: &mut Draft<'_>,
    root: usize,
    family: Family,
    region: Region,
    segments: &[Segment<u32>],
) {
    let entry = Entry(draft.word(root));
    let mut change = Change {
        draft,
        family,
        target: region,
        segments,
        hosts_at: None,
    };
    let whole = Region { first: 0, depth: 0 };
    let new = change.entry(entry, whole);
    draft.switch(root, new);
}

/// A change of a live trie. Large nodes keep their place, and their words are
/// switched; of small ones a new one is written, and the way to it is switched.
struct Change<'a, 'd> {
    draft: &'a mut Draft<'d>,
    family: Family,
    target: Region,
    segments: &'a [Segment<u32>],
    /// The depth of the level whose hosts the way has passed: there are no
    /// others of the same level behind them.
    hosts_at: Option<u32>,
}

impl Change<'_, '_> {
    /// What takes the place of `entry`, which stands for `around`. The target
    /// lies in it, or it in the target.
    fn entry(&mut self, entry: Entry, around: Region) -> Entry {
        if self.target.depth <= around.depth {
            return self.write(&[], around);
        }
        match entry.kind() {
            Some(Kind::Leaf) if self.is_all(entry.class()) => entry,
            Some(Kind::Leaf) => {
                let leaf = Segment {
                    first: around.first,
                    class: entry.class(),
                };
                self.write(&[leaf], around)
            }
            Some(Kind::Skip) => self.skip(entry, around),
            Some(Kind::List) => self.list(entry, around),
            Some(Kind::Hosts) => {
                self.hosts(entry, around);
                entry
            }
            Some(Kind::Split) => {
                for high in octets(&self.units(around)) {
                    let index = index(entry) + usize::from(high);
                    let old = Entry(self.draft.word(index));
                    let new = self.octet(old, around, high);
                    self.draft.switch(index, new);
                }
                entry
            }
            Some(Kind::Wide) => {
                for unit in self.units(around) {
                    self.word(index(entry) + usize::from(unit), around.below(unit));
                }
                entry
            }
            // A page stands only below a split.
            Some(Kind::Page) | None => entry,
        }
    }

    /// Whether all of the target is to be of one class.
    fn is_all(&self, class: u32) -> bool {
        self.segments.iter().all(|segment| segment.class == class)
    }

    /// Switches a word that stands for `around`.
    fn word(&mut self, index: usize, around: Region) {
        let old = Entry(self.draft.word(index));
        let new = self.entry(old, around);
        self.draft.switch(index, new);
    }

    /// A trie for `around`: the target, and around it what `old` says.
    fn write(&mut self, old: &[Segment<u32>], around: Region) -> Entry {
        let Region { first, .. } = self.target;
        let last = self.target.last();
        let after = Segment::within(old, last, last.saturating_add(1)).last();
        let mut segments: Vec<_> = old
            .iter()
            .copied()
            .filter(|old| old.first < first)
            .collect();
        segments.extend_from_slice(self.segments);
        if let (Some(next), Some(after)) = (last.checked_add(1), after) {
            let class = after.class;
            segments.push(Segment { first: next, class });
        }
        segments.extend(old.iter().copied().filter(|old| old.first > last));
        Segment::merge(&mut segments);
        let within = Segment::within(&segments, around.first, around.last());
        if self.hosts_at == Some(around.depth) {
            self.writer().without_hosts(within, around)
        } else {
            self.writer().level(within, around)
        }
    }

    fn writer(&mut self) -> Writer<'_> {
        Writer {
            image: &mut self.draft.image,
            family: self.family,
        }
    }

    /// The hosts that are listed get other classes where they are. New ones are
    /// not listed: a key can't be written in one step.
    fn hosts(&mut self, entry: Entry, around: Region) {
        let before = self.hosts_at;
        let units = self.units(around);
        let shift = UNIT - entry.bucket_bits();
        for number in units.start() >> shift..=units.end() >> shift {
            let first = index(entry) + usize::from(number) * Bucket::WORDS;
            let words = self.draft.words::<{ Bucket::WORDS }>(first);
            for (place, key) in hosts::keys(&words, around, self.family) {
                let is_used = around.unit(key) >> shift == number;
                if is_used && (self.target.first..=self.target.last()).contains(&key) {
                    let class = Segment::within(self.segments, key, key)[0].class;
                    let class = Entry::new(Kind::Leaf, class);
                    self.draft.switch(first + Bucket::class(place), class);
                }
            }
            self.hosts_at = Some(around.depth);
            self.word(first, around);
        }
        self.hosts_at = before;
    }

    /// The units of `around` that the target is in.
    fn units(&self, around: Region) -> RangeInclusive<u16> {
        let first = self.target.first.max(around.first);
        let last = self.target.last().min(around.last());
        around.unit(first)..=around.unit(last)
    }

    fn skip(&mut self, entry: Entry, around: Region) -> Entry {
        let skip: Skip = cast(self.draft.words::<{ Skip::WORDS }>(index(entry)));
        let inner = skip_region(&skip, around);
        let outside = skip.outside.class();
        let common = (inner.first ^ self.target.first).leading_zeros();
        let is_leaf = skip.inside.kind() == Some(Kind::Leaf);
        if !is_leaf && common >= inner.depth && self.target.depth >= inner.depth {
            self.word(index(entry) + SKIP_INSIDE, inner);
            return entry;
        }
        if is_leaf || common >= self.target.depth {
            let island = |first, class| Segment { first, class };
            // What is inside is a class, or is replaced.
            let mut old = vec![
                island(around.first, outside),
                island(inner.first, skip.inside.class()),
            ];
            if inner.last() < around.last() {
                old.push(island(inner.last() + 1, outside));
            }
            Segment::merge(&mut old);
            return self.write(&old, around);
        }
        let shared = (common - around.depth) / UNIT * UNIT;
        if shared > 0 {
            let middle = around.around(inner.first, shared);
            let rest = self.write_skip(&skip, inner, middle);
            let inside = self.entry(rest, middle);
            let outer = Skip { inside, ..skip };
            return self.write_skip(&outer, middle, around);
        }
        // They part in this unit.
        let unit = around.unit(inner.first);
        let below = around.below(unit);
        let inside = self.write_skip(&skip, inner, below);
        let mut bounds = vec![(0, skip.outside), (unit, inside)];
        bounds.extend(unit.checked_add(1).map(|next| (next, skip.outside)));
        if unit == 0 {
            bounds.remove(0);
        }
        let bounds = self.splice(&bounds, around, self.units(around), u16::MAX);
        self.writer().node(&bounds)
    }

    /// A skip in `around` over what lies before `inner`.
    fn write_skip(&mut self, skip: &Skip, inner: Region, around: Region) -> Entry {
        if inner.depth <= around.depth {
            return skip.inside;
        }
        let skip = skip_to(inner, around, skip.inside, skip.outside);
        let words: [u32; Skip::WORDS] = cast(skip);
        Entry::new(Kind::Skip, self.draft.image.node(&words))
    }

    fn list(&mut self, entry: Entry, around: Region) -> Entry {
        let units = self.units(around);
        if self.target.depth >= around.depth + UNIT
            && let Some(index) = self.word_of_unit(entry, *units.start())
        {
            self.word(index, around.below(*units.start()));
            return entry;
        }
        let old = self.bounds(entry);
        let new = self.splice(&old, around, units, u16::MAX);
        if new == old {
            return entry;
        }
        self.writer().node(&new)
    }

    /// What takes the place of `entry`, which stands for the units of `around`
    /// with one high octet.
    fn octet(&mut self, entry: Entry, around: Region, high: u8) -> Entry {
        let first = u16::from_be_bytes([high, 0]);
        let last = u16::from_be_bytes([high, u8::MAX]);
        let units = self.units(around);
        let units = *units.start().max(&first)..=*units.end().min(&last);
        let bounds = match entry.kind() {
            Some(Kind::Page) => {
                for unit in units {
                    let low = usize::from(unit & 0xff);
                    self.word(index(entry) + low, around.below(unit));
                }
                return entry;
            }
            Some(Kind::List) => {
                let mut bounds = self.bounds(entry);
                // Unused bounds are of another octet.
                bounds.retain(|(unit, _)| (first..=last).contains(unit));
                bounds
            }
            _ => vec![(first, entry)],
        };
        let bounds = self.splice(&bounds, around, units, last);
        self.writer().octet(&bounds)
    }

    /// The bounds of a level, or of the part of it up to the unit `end`, with
    /// the target, which is in `units`, in its place.
    fn splice(
        &mut self,
        bounds: &[Bound],
        around: Region,
        units: RangeInclusive<u16>,
        end: u16,
    ) -> Vec<Bound> {
        let (first, last) = units.into_inner();
        let reached = |unit| {
            let above = bounds.partition_point(|(bound, _)| *bound <= unit);
            bounds[above.saturating_sub(1)].1
        };
        let before = bounds.iter().filter(|(unit, _)| *unit < first);
        let mut new: Vec<Bound> = before.copied().collect();
        if self.target.depth > around.depth + UNIT {
            new.push((first, self.entry(reached(first), around.below(first))));
        } else {
            let units = Region {
                first: around.below(first).first,
                depth: around.depth,
            };
            let end = around.below(last).last();
            let segments = Segment::within(self.segments, units.first, end);
            let written = self.writer().bounds(segments, units);
            new.extend(written.into_iter().filter(|(unit, _)| *unit <= last));
        }
        let is_next = |(unit, _): &Bound| Some(*unit) == last.checked_add(1);
        if last < end && !bounds.iter().any(is_next) {
            new.push((last + 1, reached(last)));
        }
        new.extend(bounds.iter().filter(|(unit, _)| *unit > last));
        let is_leaf = |entry: Entry| entry.kind() == Some(Kind::Leaf);
        new.dedup_by(|later, earlier| later.1 == earlier.1 && is_leaf(later.1));
        new
    }

    /// The bounds of a list. Of those with the same unit the last is read.
    fn bounds(&mut self, entry: Entry) -> Vec<Bound> {
        let count = entry.length().bounds();
        let entries = index(entry) + count / 2;
        let units: Vec<u16> = (0..count).map(|place| self.unit(entry, place)).collect();
        let is_read = |place: &usize| units.get(place + 1) != Some(&units[*place]);
        (0..count)
            .filter(is_read)
            .map(|place| (units[place], Entry(self.draft.word(entries + place))))
            .collect()
    }

    fn unit(&mut self, list: Entry, place: usize) -> u16 {
        let pair = self.draft.word(index(list) + place / 2);
        let [low, high] = cast::<u32, [u16; 2]>(pair);
        if place.is_multiple_of(2) { low } else { high }
    }

    /// The word of a list that is read for `unit` and for no other one.
    fn word_of_unit(&mut self, list: Entry, unit: u16) -> Option<usize> {
        let count = list.length().bounds();
        let units: Vec<u16> = (0..count).map(|place| self.unit(list, place)).collect();
        let place = units
            .partition_point(|bound| *bound <= unit)
            .checked_sub(1)?;
        let next = units.get(place + 1).copied();
        let is_alone = units[place] == unit && next == unit.checked_add(1);
        is_alone.then_some(index(list) + count / 2 + place)
    }
}

/// Which word of a skip leads inside.
const SKIP_INSIDE: usize = std::mem::offset_of!(Skip, inside) / size_of::<u32>();

/// The first word of a node.
fn index(entry: Entry) -> usize {
    entry.offset() / size_of::<u32>()
}

fn octets(units: &RangeInclusive<u16>) -> RangeInclusive<u8> {
    let [first, _] = units.start().to_be_bytes();
    let [last, _] = units.end().to_be_bytes();
    first..=last
}

/// A key as nodes hold it, the most significant word first.
pub(super) fn words_of(key: u128) -> [u32; 4] {
    let words: [[u8; 4]; 4] = cast(key.to_be_bytes());
    words.map(u32::from_be_bytes)
}

/// The key of its words.
pub(super) fn key_of(words: [u32; 4]) -> u128 {
    let octets: [u8; 16] = cast(words.map(u32::to_be_bytes));
    u128::from_be_bytes(octets)
}

/// The keys of `around` that have the prefix of a skip.
fn skip_region(skip: &Skip, around: Region) -> Region {
    let prefix = key_of(skip.prefix);
    around.around(around.first | prefix >> around.depth, skip.bits)
}

/// The skip from `around` to `inner`.
fn skip_to(inner: Region, around: Region, inside: Entry, outside: Entry) -> Skip {
    Skip {
        prefix: words_of(inner.first << around.depth),
        bits: inner.depth - around.depth,
        inside,
        outside,
        reserved: 0,
    }
}

/// The one stretch of a region that is of other classes than all around it.
struct Island {
    /// A key in it.
    key: u128,
    /// How many more bits its keys have in common.
    bits: u32,
    /// Its class, if it is all keys with those bits.
    class: Option<u32>,
    outside: u32,
}

impl Island {
    fn find(segments: &[Segment<u32>], region: Region) -> Option<Self> {
        let (first, last) = (segments.first()?, segments.last()?);
        let before_last = last.first.wrapping_sub(1);
        if let [_, cut] = segments {
            let low = Self::new(segments, region, region.first, before_last, cut.class);
            let high = Self::new(segments, region, cut.first, region.last(), first.class);
            return [low, high]
                .into_iter()
                .flatten()
                .max_by_key(|island| island.bits);
        }
        let second = segments.get(1)?;
        if first.class != last.class {
            return None;
        }
        Self::new(segments, region, second.first, before_last, first.class)
    }

    fn new(
        segments: &[Segment<u32>],
        region: Region,
        first: u128,
        last: u128,
        outside: u32,
    ) -> Option<Self> {
        let common = (first ^ last).leading_zeros();
        let rest = u128::MAX.checked_shr(common).unwrap_or(0);
        let is_prefix = first & rest == 0 && last & rest == rest;
        let inner = Segment::within(segments, first, last);
        let class = match inner {
            [only] if is_prefix => Some(only.class),
            _ => None,
        };
        let mut bits = common - region.depth;
        if class.is_none() {
            bits -= bits % UNIT;
        }
        (bits > 0).then_some(Self {
            key: first,
            bits,
            class,
            outside,
        })
    }
}
