//! The format of the tables: words of 32 bits that the agent writes and the
//! programs read in place.
//!
//! They begin with a [`Header`]. Tries map the address of a peer to a *peer
//! class*. A key is consumed in *units* of 16 bits, so a trie has two levels for
//! IPv4 and eight for IPv6. Each level is the smallest node that holds it:
//!
//! | node | words | what it does with the unit |
//! |---|---|---|
//! | leaf | 0 | nothing: the walk ends |
//! | skip | 8 | compares it and what follows with one prefix |
//! | list | 12-96 | looks for it among at most 64 sorted bounds |
//! | split | 256 | its high octet selects a list, a page or a leaf of this level |
//! | page | 256 | its low octet selects |
//! | wide | 65536 | selects |
//! | hosts | 32-16384 | its high bits select a [`Bucket`], which lists single addresses |
//!
//! The selector of a service leads to its *column* through a page for its high
//! octet and a page for its low one, unless a leaf ends the way earlier.
//!
//! Nothing that a live table leads to is changed but single words, so a walk
//! that is under way sees the old branch or the new one, both complete.

use bytemuck::{Pod, Zeroable};

use crate::config::Direction;

// Offsets, not indices: the verifier loses the relation of a number and its
// multiple, and with it what a comparison told it.

/// How many words the eBPF object says the tables have. The agent finds this
/// number in the object's type information and puts the true one there.
pub const UNSIZED_WORDS: usize = 0x0153_4754;

/// The tables of one attachment are longer than this: so much room is behind
/// them for what is appended.
pub const MIN_BYTES: usize = 1 << 16;

/// The tables of one attachment.
pub trait Tables {
    /// `N` words from `offset` bytes on; `None` if they do not all lie in the
    /// tables.
    fn array<const N: usize>(&self, offset: usize) -> Option<&[u32; N]>;

    /// The tables' first words.
    #[inline(always)]
    fn header(&self) -> Option<&Header> {
        self.array::<{ Header::WORDS }>(0).map(bytemuck::cast_ref)
    }

    /// Their revision now. Where somebody may change them, this is read before
    /// what is asked for next.
    #[inline(always)]
    fn revision(&self, header: &Header) -> u32 {
        header.revision
    }
}

impl Tables for [u32] {
    fn array<const N: usize>(&self, offset: usize) -> Option<&[u32; N]> {
        self.get(offset / size_of::<u32>()..)?.first_chunk()
    }
}

/// Where everything begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Header {
    /// Counts up with every change that can take a permission away: an entry
    /// of a flow that carries another revision is judged again.
    pub revision: u32,
    /// How many words are in use; the agent appends behind them.
    pub used: u32,
    /// How many cells each direction has, inbound first.
    pub cells: [u32; 2],
    /// Where the tables of each direction begin, inbound first.
    pub roots: [Roots; 2],
}

impl Header {
    /// Its length in words.
    pub const WORDS: usize = 16;

    /// Where the tables of a direction begin.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::indexing_slicing, reason = "there are two directions")]
    pub const fn roots(&self, direction: Direction) -> &Roots {
        &self.roots[direction as usize]
    }
}

/// Where the tables of one direction begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Roots {
    /// From an IPv4 address to a peer class.
    pub peers_v4: Entry,
    /// From an IPv6 address to a peer class.
    pub peers_v6: Entry,
    /// From a TCP port to a column: a leaf or a page.
    pub tcp: Entry,
    /// From a UDP port to a column.
    pub udp: Entry,
    /// Offset of 256 entries, one for each protocol, from a selector to a column.
    pub protocols: u32,
    /// Offset of the first [`cell`](crate::classify).
    pub cells: u32,
}

/// A word of a trie: what it leads to.
///
/// Three bits say what kind of node. In a leaf the others are the class, else
/// the node's offset in bytes; nodes begin at multiples of [`ALIGNMENT`] words,
/// and some of the bits that this leaves free are a list's [`Length`], or which
/// bits of the unit select among the buckets of hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct Entry(pub u32);

/// Nodes begin at multiples of this many words.
pub const ALIGNMENT: usize = 8;

/// Classes, columns and offsets are below this.
pub const LIMIT: u32 = 1 << KIND_SHIFT;

const KIND_SHIFT: u32 = 29;
/// What of an offset is 0, because of [`ALIGNMENT`].
const FREE_BITS: u32 = 0x1f;
const LENGTH: u32 = 3;

/// The kinds of nodes. Numbers are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The walk ends with a class.
    Leaf = 0,
    /// See [`Skip`].
    Skip = 1,
    /// Sorted bounds, two to a word, then an entry for each.
    List = 2,
    /// 65536 entries, one for each unit.
    Wide = 3,
    /// 256 entries, one for each high octet of the unit, which stays.
    Split = 4,
    /// 256 entries, one for each low octet of the unit; of a selector, one for
    /// each value of an octet.
    Page = 5,
    /// A power of two of [`Bucket`]s.
    Hosts = 6,
}

impl Entry {
    /// An entry of `kind`; `number` is below [`LIMIT`].
    #[must_use]
    pub const fn new(kind: Kind, number: u32) -> Self {
        Self((kind as u32) << KIND_SHIFT | number)
    }

    /// A list's entry.
    #[must_use]
    pub const fn list(length: Length, offset: u32) -> Self {
        Self::new(Kind::List, offset | length as u32)
    }

    /// An entry of hosts in 2 to the power of `bits` buckets, at most
    /// [`Bucket::MAX_BITS`].
    #[must_use]
    pub const fn hosts(bits: u32, offset: u32) -> Self {
        Self::new(Kind::Hosts, offset | (Bucket::MAX_BITS - bits))
    }

    /// What it leads to; `None` for a kind that this version does not know.
    #[must_use]
    #[inline(always)]
    pub const fn kind(self) -> Option<Kind> {
        Some(match self.0 >> KIND_SHIFT {
            0 => Kind::Leaf,
            1 => Kind::Skip,
            2 => Kind::List,
            3 => Kind::Wide,
            4 => Kind::Split,
            5 => Kind::Page,
            6 => Kind::Hosts,
            _ => return None,
        })
    }

    /// Whether the walk ends here.
    #[must_use]
    #[inline(always)]
    pub const fn is_leaf(self) -> bool {
        self.0 < LIMIT
    }

    /// A leaf's class.
    #[must_use]
    #[inline(always)]
    pub const fn class(self) -> u32 {
        self.0 & (LIMIT - 1)
    }

    /// Where a node begins, in bytes.
    #[must_use]
    #[inline(always)]
    pub const fn offset(self) -> usize {
        (self.0 & (LIMIT - 1) & !FREE_BITS) as usize
    }

    /// How many of the unit's high bits select one of the buckets of hosts.
    #[must_use]
    #[inline(always)]
    pub const fn bucket_bits(self) -> u32 {
        Bucket::MAX_BITS.wrapping_sub(self.0 & FREE_BITS)
    }

    /// Where the bucket for a unit begins, in bytes.
    #[inline(always)]
    const fn bucket(self, unit: u16) -> usize {
        // The unit's bits are shifted to where they are a multiple of a bucket.
        let place = unit as u32 >> (self.0 & FREE_BITS);
        self.offset() + (place & !(Bucket::BYTES - 1)) as usize
    }

    /// A list's length.
    #[must_use]
    #[inline(always)]
    pub const fn length(self) -> Length {
        match self.0 & LENGTH {
            0 => Length::L8,
            1 => Length::L16,
            2 => Length::L32,
            _ => Length::L64,
        }
    }
}

/// How many bounds a list has room for. Unused ones repeat the last entry under
/// the highest bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Length {
    /// 8, 12 words in all.
    L8 = 0,
    /// 16, 24 words in all.
    L16 = 1,
    /// 32, 48 words in all.
    L32 = 2,
    /// 64, 96 words in all.
    L64 = 3,
}

impl Length {
    /// The most bounds of a list.
    pub const MAX: usize = 64;

    /// The shortest that has room for `bounds`.
    #[must_use]
    pub const fn of(bounds: usize) -> Option<Self> {
        Some(match bounds {
            0..=8 => Self::L8,
            9..=16 => Self::L16,
            17..=32 => Self::L32,
            33..=Self::MAX => Self::L64,
            _ => return None,
        })
    }

    /// How many bounds there are.
    #[must_use]
    pub const fn bounds(self) -> usize {
        8 << self as usize
    }
}

/// Path compression: all keys but those with one prefix have the same class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Skip {
    /// The prefix, from the key's next bit on, most significant word first.
    pub prefix: [u32; 4],
    /// Its length in bits, 1-128; a multiple of 16 if `inside` is not a leaf.
    pub bits: u32,
    /// For keys that have it; it looks at what follows.
    pub inside: Entry,
    /// For all others; a leaf.
    pub outside: Entry,
    /// Always 0.
    pub reserved: u32,
}

impl Skip {
    /// Its length in words.
    pub const WORDS: usize = 8;
}

/// Single addresses in a region that is otherwise of one class: first an entry
/// for what is not listed, then the class of each address, then their keys, as
/// they are at this level. One cache line, so whoever is listed is found with
/// one access to memory.
///
/// The entry is of the same level: the unit stays. Unused keys are such as
/// belong in another bucket.
pub struct Bucket;

impl Bucket {
    /// Its length in words.
    pub const WORDS: usize = 16;
    /// Up to 1024 buckets.
    pub const MAX_BITS: u32 = 10;
    /// Of a unit, [`Bucket::MAX_BITS`] bits are left before its length in bytes.
    const BYTES: u32 = 1 << (u16::BITS - Self::MAX_BITS);

    /// How many addresses there are, if the key of one has that many words.
    #[must_use]
    pub const fn hosts(key_words: usize) -> usize {
        (Self::WORDS - 1) / (key_words + 1)
    }

    /// Where the class of an address is.
    #[must_use]
    pub const fn class(place: usize) -> usize {
        1 + place
    }

    /// Where the key of an address begins.
    #[must_use]
    pub const fn key(place: usize, key_words: usize) -> usize {
        1 + Self::hosts(key_words) + place * key_words
    }
}

// Programs read the header without a comparison.
const _: () = assert!(MIN_BYTES >= size_of::<Header>());
const _: () = assert!(Bucket::BYTES as usize == Bucket::WORDS * size_of::<u32>());
const _: () = assert!(FREE_BITS as usize + 1 == ALIGNMENT * size_of::<u32>());

/// What is left of a key on its way down a trie.
///
/// Keys are rotated: shifted, each step would leave more bits that the verifier
/// knows to be 0, and it would look at what follows again for each number.
pub trait Key: Copy {
    /// How many nodes a walk may meet before its leaf: three for each unit, as
    /// hosts may lead to a split, and that to a list.
    const STEPS: u32;
    /// How many words tell it from other keys that came the same way.
    const WORDS: usize;

    /// Its next 16 bits.
    fn unit(self) -> u16;
    /// What follows them.
    #[must_use]
    fn after_unit(self) -> Self;
    /// Whether it begins with a prefix.
    fn begins_with(self, skip: &Skip) -> bool;
    /// What follows that prefix.
    #[must_use]
    fn after(self, skip: &Skip) -> Self;
    /// 0 if the words from `first` on are those that tell it from others.
    fn difference(self, words: &[u32], first: usize) -> u64;
}

/// The key of an IPv4 address, in the upper bits.
#[derive(Clone, Copy, Debug)]
pub struct KeyV4(pub u64);

impl Key for KeyV4 {
    const STEPS: u32 = 6;
    const WORDS: usize = 1;

    #[inline(always)]
    fn unit(self) -> u16 {
        (self.0 >> 48) as u16
    }

    #[inline(always)]
    fn after_unit(self) -> Self {
        Self(self.0.rotate_left(16))
    }

    #[inline(always)]
    fn begins_with(self, skip: &Skip) -> bool {
        let [first, second, ..] = skip.prefix;
        agree(self.0, first, second, skip.bits)
    }

    #[inline(always)]
    fn after(self, skip: &Skip) -> Self {
        Self(self.0.rotate_left(skip.bits))
    }

    #[inline(always)]
    fn difference(self, words: &[u32], first: usize) -> u64 {
        self.0 >> 32 ^ u64::from(word(words, first))
    }
}

/// The key of an IPv6 address.
#[derive(Clone, Copy, Debug)]
pub struct KeyV6 {
    /// The next 64 bits.
    pub high: u64,
    /// The 64 bits after them.
    pub low: u64,
}

impl Key for KeyV6 {
    const STEPS: u32 = 24;
    const WORDS: usize = 4;

    #[inline(always)]
    fn unit(self) -> u16 {
        (self.high >> 48) as u16
    }

    #[inline(always)]
    fn after_unit(self) -> Self {
        Self {
            high: self.high << 16 | self.low >> 48,
            low: self.low << 16 | self.high >> 48,
        }
    }

    #[inline(always)]
    fn begins_with(self, skip: &Skip) -> bool {
        let [a, b, c, d] = skip.prefix;
        if skip.bits <= 64 {
            agree(self.high, a, b, skip.bits)
        } else {
            agree(self.high, a, b, 64) && agree(self.low, c, d, skip.bits - 64)
        }
    }

    #[inline(always)]
    fn after(self, skip: &Skip) -> Self {
        let (high, low) = if skip.bits & 64 == 0 {
            (self.high, self.low)
        } else {
            (self.low, self.high)
        };
        let bits = skip.bits & 63;
        Self {
            high: high << bits | (low >> 1) >> (63 - bits),
            low: low << bits | (high >> 1) >> (63 - bits),
        }
    }

    #[inline(always)]
    fn difference(self, words: &[u32], first: usize) -> u64 {
        self.high ^ pair(words, first) | self.low ^ pair(words, first + 2)
    }
}

/// Two words of a node, the more significant first.
#[inline(always)]
fn pair(words: &[u32], first: usize) -> u64 {
    u64::from(word(words, first)) << 32 | u64::from(word(words, first + 1))
}

/// Whether the first `bits` (1-64) of `key` are those of the two words.
#[inline(always)]
fn agree(key: u64, first: u32, second: u32, bits: u32) -> bool {
    let prefix = u64::from(first) << 32 | u64::from(second);
    (key ^ prefix) >> (64u32.wrapping_sub(bits) & 63) == 0
}

/// A fault of the tables: what they say can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokenTables;

/// Follows a trie from `entry` to the class of `key`.
///
/// # Errors
/// [`BrokenTables`] if the way leaves the tables or does not end.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it was an entry's word")]
pub fn walk<K: Key, T: Tables + ?Sized>(
    tables: &T,
    entry: Entry,
    mut key: K,
) -> Result<usize, BrokenTables> {
    // A whole register: the processor that programs are made for has no
    // narrower ones, and would widen it for each comparison.
    let mut bits = entry.0 as usize;
    for _ in 0..K::STEPS {
        if bits < LIMIT as usize {
            return Ok(bits);
        }
        let next = step(tables, Entry(bits as u32), &mut key).ok_or(BrokenTables)?;
        bits = next.0 as usize;
    }
    if bits < LIMIT as usize {
        Ok(bits)
    } else {
        Err(BrokenTables)
    }
}

/// What `entry` leads `key` to; `None` if that is nowhere.
#[inline(always)]
fn step<K: Key, T: Tables + ?Sized>(tables: &T, entry: Entry, key: &mut K) -> Option<Entry> {
    let offset = entry.offset();
    let unit = key.unit();
    let [high, low] = unit.to_be_bytes();
    let next = match entry.kind()? {
        Kind::Leaf => return None,
        Kind::Skip => {
            let skip: &Skip = bytemuck::cast_ref(tables.array::<{ Skip::WORDS }>(offset)?);
            if !key.begins_with(skip) {
                return Some(skip.outside);
            }
            *key = key.after(skip);
            return Some(skip.inside);
        }
        // Of the same level: the unit stays.
        Kind::Hosts => {
            let bucket = tables.array::<{ Bucket::WORDS }>(entry.bucket(unit))?;
            return Some(Entry(find_host(bucket, *key)));
        }
        Kind::Split => return Some(Entry(word(tables.array::<256>(offset)?, high.into()))),
        Kind::Page => word(tables.array::<256>(offset)?, low.into()),
        Kind::Wide => word(tables.array::<65_536>(offset)?, unit.into()),
        Kind::List => match entry.length() {
            Length::L8 => search(tables.array::<12>(offset)?, 8, unit),
            Length::L16 => search(tables.array::<24>(offset)?, 16, unit),
            Length::L32 => search(tables.array::<48>(offset)?, 32, unit),
            Length::L64 => search(tables.array::<96>(offset)?, 64, unit),
        },
    };
    *key = key.after_unit();
    Some(Entry(next))
}

/// A word of a node. Which one is always within it.
#[inline(always)]
fn word(words: &[u32], index: usize) -> u32 {
    words.get(index).copied().unwrap_or(0)
}

/// The class of an address that a bucket lists, else its entry for the others.
///
/// Without branches, as in [`search`].
#[inline(always)]
fn find_host<K: Key>(bucket: &[u32], key: K) -> u32 {
    let mut found = word(bucket, 0);
    let mut place = 0;
    while place < Bucket::hosts(K::WORDS) {
        let difference = key.difference(bucket, Bucket::key(place, K::WORDS));
        let class = word(bucket, Bucket::class(place));
        found ^= (found ^ class) & mask_if_zero(difference);
        place += 1;
    }
    found
}

/// All bits if a number is 0, else none.
#[inline(always)]
const fn mask_if_zero(number: u64) -> u32 {
    // Of a number and its negative at least one has the highest bit, unless
    // both are 0.
    let is_not_zero = (number | number.wrapping_neg()) >> 63;
    (is_not_zero as u32).wrapping_sub(1)
}

/// The entry of the highest of `bounds` bounds that `unit` reaches.
///
/// Without branches: the verifier would try each way through them, and a
/// processor could not foresee them. The bounds are in groups of eight.
#[inline(always)]
fn search(list: &[u32], bounds: usize, unit: u16) -> u32 {
    /// Bounds of a group, two to a word.
    const GROUP: usize = 8;

    let mut group = 0;
    let mut first = GROUP;
    while first < bounds {
        group += is_reached(unit, low_half(word(list, first / 2)));
        first += GROUP;
    }
    let mut reached = 0;
    let mut pair = 0;
    while pair < GROUP / 2 {
        let both = word(list, group * GROUP / 2 + pair);
        reached += is_reached(unit, low_half(both)) + is_reached(unit, both >> 16);
        pair += 1;
    }
    word(list, (bounds / 2 + group * GROUP + reached).wrapping_sub(1))
}

#[inline(always)]
const fn low_half(word: u32) -> u32 {
    word & 0xffff
}

/// 1 if `bound` is at most `unit`, else 0.
#[inline(always)]
fn is_reached(unit: u16, bound: u32) -> usize {
    const BORROW: u64 = 1 << 16;
    ((BORROW | u64::from(unit)).wrapping_sub(u64::from(bound)) >> 16) as usize
}
