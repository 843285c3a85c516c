//! How a trie is walked: every kind of node, made by hand, asked for every unit.

use std::iter;

use sg_common::tables::{
    ALIGNMENT, BrokenTables, Bucket, Entry, Key, KeyV4, KeyV6, Kind, LIMIT, Length, Skip,
    Tables as _, walk,
};

/// Numbers that look random and are the same each time (xorshift).
fn numbers() -> impl Iterator<Item = u64> {
    iter::successors(Some(0x9e37_79b9_7f4a_7c15u64), |last| {
        let mut next = *last;
        next ^= next << 13;
        next ^= next >> 7;
        Some(next ^ next << 17)
    })
}

fn leaf(class: u32) -> Entry {
    Entry::new(Kind::Leaf, class)
}

fn key6(bits: u128) -> KeyV6 {
    KeyV6 {
        high: u64::try_from(bits >> 64).expect("64 bits"),
        low: u64::try_from(bits & u128::from(u64::MAX)).expect("64 bits"),
    }
}

fn key4(address: u32) -> KeyV4 {
    KeyV4(u64::from(address) << 32)
}

/// The key of an IPv4 address that is the upper bits.
fn upper(bits: u128) -> KeyV4 {
    key4(upper_word(bits))
}

fn upper_word(bits: u128) -> u32 {
    u32::try_from(bits >> 96).expect("32 bits")
}

/// An address that begins with a unit, and goes on with something.
fn beginning_with(unit: u16) -> KeyV4 {
    key4(u32::from(unit) << 16 | 0x1234)
}

/// Nodes one behind the other, the first not where the tables begin.
struct Nodes(Vec<u32>);

impl Nodes {
    fn new() -> Self {
        Self(vec![0; ALIGNMENT])
    }

    fn add(&mut self, words: &[u32]) -> u32 {
        let first = self.0.len().next_multiple_of(Bucket::WORDS);
        self.0.resize(first, u32::MAX);
        self.0.extend_from_slice(words);
        u32::try_from(first * size_of::<u32>()).expect("small tables")
    }

    fn list(&mut self, length: Length, bounds: &[(u16, Entry)]) -> Entry {
        let (places, last) = (length.bounds(), bounds[bounds.len() - 1].1);
        let padded = bounds.iter().copied().chain(iter::repeat((u16::MAX, last)));
        let (units, entries): (Vec<u16>, Vec<u32>) = padded
            .take(places)
            .map(|(unit, entry)| (unit, entry.0))
            .unzip();
        let pairs = units.chunks(2);
        let mut words: Vec<u32> = pairs
            .map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16)
            .collect();
        words.extend(entries);
        Entry::list(length, self.add(&words))
    }

    fn node(&mut self, kind: Kind, words: &[u32]) -> Entry {
        Entry::new(kind, self.add(words))
    }

    fn skip(&mut self, prefix: u128, bits: u32, inside: Entry, outside: Entry) -> Entry {
        let words: [[u8; 4]; 4] = bytemuck::cast(prefix.to_be_bytes());
        let skip = Skip {
            prefix: words.map(u32::from_be_bytes),
            bits,
            inside,
            outside,
            reserved: 0,
        };
        let words: [u32; Skip::WORDS] = bytemuck::cast(skip);
        self.node(Kind::Skip, &words)
    }

    /// Three nodes for each unit, with `end` below all of them.
    fn as_deep_as_can_be(&mut self, units: u32, end: Entry) -> Entry {
        let mut entry = end;
        for _ in 0..units {
            let list = self.list(Length::L8, &[(0, entry)]);
            let split = self.node(Kind::Split, &[list.0; 256]);
            // Keys of nobody.
            let mut words = [u32::MAX; 2 * Bucket::WORDS];
            words[0] = split.0;
            words[Bucket::WORDS] = split.0;
            entry = Entry::hosts(1, self.add(&words));
        }
        entry
    }

    fn walk<K: Key>(&self, entry: Entry, key: K) -> Result<usize, BrokenTables> {
        walk(self.0.as_slice(), entry, key)
    }
}

/// Bounds that begin with unit 0, each with a class of its own.
fn bounds(count: usize, numbers: &mut impl Iterator<Item = u64>) -> Vec<(u16, Entry)> {
    let mut units = vec![0, u16::MAX];
    while units.len() < count {
        let [a, b, ..] = numbers.next().expect("endless").to_be_bytes();
        units.push(u16::from_be_bytes([a, b]));
        units.sort_unstable();
        units.dedup();
    }
    units.truncate(count);
    units.into_iter().zip((1..).map(leaf)).collect()
}

/// The class of the highest bound that a unit reaches.
fn reached(bounds: &[(u16, Entry)], unit: u16) -> usize {
    let mut below = bounds.iter().filter(|(bound, _)| *bound <= unit);
    below.next_back().expect("the first is 0").1.class() as usize
}

#[test]
fn a_leaf_is_where_a_walk_ends() {
    let nodes = Nodes::new();
    for class in [0, 1, LIMIT - 1] {
        assert_eq!(nodes.walk(leaf(class), key4(7)), Ok(class as usize));
        assert_eq!(nodes.walk(leaf(class), key6(7)), Ok(class as usize));
        assert_eq!(leaf(class).class(), class);
        assert!(leaf(class).is_leaf());
        assert_eq!(leaf(class).kind(), Some(Kind::Leaf));
    }
}

/// The first number that is no leaf: a skip where the tables begin.
#[test]
fn a_walk_does_not_end_at_the_first_entry_that_is_no_leaf() {
    let first = Entry(LIMIT);
    assert!(!first.is_leaf());
    assert_eq!(first, Entry::new(Kind::Skip, 0));
    let mut nodes = Nodes(Vec::new());
    assert_eq!(nodes.skip(0, 8, leaf(4), leaf(5)), first);
    assert_eq!(nodes.walk(first, key4(0)), Ok(4));
    assert_eq!(nodes.walk(first, key4(0x0100_0000)), Ok(5));
}

#[test]
fn a_list_of_any_length_has_the_highest_bound_that_is_reached() {
    let mut numbers = numbers();
    for (length, counts) in [
        (Length::L8, [1, 2, 7, 8]),
        (Length::L16, [9, 10, 15, 16]),
        (Length::L32, [17, 24, 31, 32]),
        (Length::L64, [33, 50, 63, 64]),
    ] {
        for count in counts {
            assert_eq!(Length::of(count), Some(length));
            let mut nodes = Nodes::new();
            let bounds = bounds(count, &mut numbers);
            let list = nodes.list(length, &bounds);
            assert_eq!(list.length(), length);
            for unit in 0..=u16::MAX {
                let found = nodes.walk(list, beginning_with(unit));
                assert_eq!(found, Ok(reached(&bounds, unit)), "{unit} of {count}");
            }
        }
    }
    assert_eq!(Length::of(65), None);
    assert_eq!(Length::of(Length::MAX), Some(Length::L64));
}

#[test]
fn a_split_selects_by_the_high_octet_and_keeps_the_unit() {
    let mut nodes = Nodes::new();
    let page: Vec<u32> = (1000..1256).collect();
    let page = nodes.node(Kind::Page, &page);
    let here = [(0x4200, leaf(1)), (0x4210, leaf(2)), (0x42ff, leaf(3))];
    let list = nodes.list(Length::L8, &here);
    let mut words: Vec<u32> = (0..256).collect();
    words[0x41] = page.0;
    words[0x42] = list.0;
    let split = nodes.node(Kind::Split, &words);
    for unit in 0..=u16::MAX {
        let [high, low] = unit.to_be_bytes();
        let expected = match high {
            0x41 => 1000 + usize::from(low),
            0x42 => reached(&here, unit),
            _ => usize::from(high),
        };
        assert_eq!(
            nodes.walk(split, beginning_with(unit)),
            Ok(expected),
            "{unit:x}"
        );
    }
}

#[test]
fn a_wide_node_selects_by_the_unit() {
    let mut nodes = Nodes::new();
    let words: Vec<u32> = (0..65_536).map(|unit| 70_000 - unit).collect();
    let wide = nodes.node(Kind::Wide, &words);
    for unit in 0..=u16::MAX {
        let found = nodes.walk(wide, beginning_with(unit));
        assert_eq!(found, Ok(70_000 - usize::from(unit)));
    }
}

/// Skips of every length over what `address` begins with, `width` bits at most.
fn skips<K: Key>(address: u128, width: u32, key: impl Fn(u128) -> K) {
    for bits in 1..=width {
        let mut nodes = Nodes::new();
        let prefix = address & u128::MAX << (128 - bits);
        let skip = nodes.skip(prefix, bits, leaf(1), leaf(2));
        assert_eq!(nodes.walk(skip, key(address)), Ok(1), "{bits}");
        for bit in 0..width {
            let other = key(address ^ 1 << (127 - bit));
            let expected = if bit < bits { 2 } else { 1 };
            assert_eq!(nodes.walk(skip, other), Ok(expected), "bit {bit} of {bits}");
        }
    }
}

#[test]
fn a_skip_compares_its_bits_and_no_others() {
    skips(0xc000_0281 << 96, 32, upper);
    skips(0x2001_0db8_8000_7fff_0102_0304_8506_0708, 128, key6);
}

#[test]
fn behind_a_skip_the_walk_goes_on_with_the_next_unit() {
    let address = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128;
    for units in 1..8u32 {
        let mut nodes = Nodes::new();
        let bits = 16 * units;
        let words: Vec<u32> = (0..65_536).collect();
        let wide = nodes.node(Kind::Wide, &words);
        let prefix = address & u128::MAX << (128 - bits);
        let skip = nodes.skip(prefix, bits, wide, leaf(1));
        let next = usize::try_from(address >> (112 - bits) & 0xffff).expect("16 bits");
        assert_eq!(nodes.walk(skip, key6(address)), Ok(next), "{units}");
    }
}

#[test]
fn behind_a_skip_every_unit_is_still_to_come() {
    let address = 0x8011_a233_4455_e677_8899_ca5b_ccdd_9eff_u128;
    for units in 1..8u32 {
        let mut nodes = Nodes::new();
        let mut entry = leaf(77);
        for place in 0..8 - units {
            let unit = u16::try_from(address >> (16 * place) & 0xffff).expect("16 bits");
            let bounds = [(0, leaf(1)), (unit, entry), (unit + 1, leaf(2))];
            entry = nodes.list(Length::L8, &bounds);
        }
        let bits = 16 * units;
        let prefix = address & u128::MAX << (128 - bits);
        let skip = nodes.skip(prefix, bits, entry, leaf(3));
        assert_eq!(nodes.walk(skip, key6(address)), Ok(77), "{units}");
        for bit in bits..128 {
            let found = nodes.walk(skip, key6(address ^ 1 << (127 - bit)));
            assert!(matches!(found, Ok(1 | 2)), "bit {bit} behind {bits}");
        }
    }
}

/// Hosts that belong in different buckets or share one, and who is near them.
fn hosts<K: Key>(bits: u32, key: impl Fn(u128) -> K, words_of: impl Fn(u128) -> Vec<u32>) {
    let per_bucket = Bucket::hosts(K::WORDS);
    let mut numbers = numbers();
    let mut nodes = Nodes::new();
    let mut listed = Vec::new();
    let mut words = Vec::new();
    for bucket in 0..1u128 << bits {
        let mut own = [0; Bucket::WORDS];
        own[0] = leaf(9).0;
        for place in 0..per_bucket {
            let rest = u128::from(numbers.next().expect("endless")) << 64;
            let rest = rest | u128::from(numbers.next().expect("endless"));
            let host = bucket << (128 - bits) | rest >> bits;
            let class = 100 + u32::try_from(listed.len()).expect("some");
            own[Bucket::class(place)] = class;
            let first = Bucket::key(place, K::WORDS);
            own[first..first + K::WORDS].copy_from_slice(&words_of(host));
            listed.push((host, class));
        }
        words.extend(own);
    }
    let entry = Entry::hosts(bits, nodes.add(&words));
    assert_eq!(entry.bucket_bits(), bits);
    // What no place holds is 0, and nobody's key.
    assert_eq!(nodes.walk(entry, key(0)), Ok(9));
    let known = 32 * u32::try_from(K::WORDS).expect("words");
    for (host, class) in listed {
        assert_eq!(nodes.walk(entry, key(host)), Ok(class as usize));
        for bit in 0..known {
            let other = host ^ 1 << (127 - bit);
            assert_eq!(nodes.walk(entry, key(other)), Ok(9), "bit {bit}");
        }
        // The same bit of both halves.
        for bit in 0..32 {
            let other = host ^ (1 << 64 | 1) << (63 - bit);
            assert_eq!(nodes.walk(entry, key(other)), Ok(9), "bit {bit}");
        }
    }
}

#[test]
fn hosts_are_found_by_all_of_their_key() {
    for bits in [1, 2, 5, Bucket::MAX_BITS] {
        hosts(bits, upper, |host| vec![upper_word(host)]);
        hosts(bits, key6, |host| {
            let words: [[u8; 4]; 4] = bytemuck::cast(host.to_be_bytes());
            words.map(u32::from_be_bytes).to_vec()
        });
    }
}

/// One host in two buckets that are for all units.
fn lone_host(nodes: &mut Nodes, key: u128, class: u32) -> Entry {
    let mut words = [0; Bucket::WORDS];
    words[0] = leaf(9).0;
    words[Bucket::class(0)] = class;
    let first = Bucket::key(0, KeyV6::WORDS);
    let of_key: [[u8; 4]; 4] = bytemuck::cast(key.to_be_bytes());
    words[first..first + 4].copy_from_slice(&of_key.map(u32::from_be_bytes));
    Entry::hosts(1, nodes.add(&[words, words].concat()))
}

/// What was looked at comes to the end of the key and is still there.
#[test]
fn hosts_are_known_by_all_of_their_key_at_any_depth() {
    let address = 0x8011_a233_4455_e677_8899_ca5b_ccdd_9eff_u128;
    for units in 1..8u32 {
        let bits = 16 * units;
        let mut nodes = Nodes::new();
        let hosts = lone_host(&mut nodes, address.rotate_left(bits), 7);
        let prefix = address & u128::MAX << (128 - bits);
        let skip = nodes.skip(prefix, bits, hosts, leaf(1));
        assert_eq!(nodes.walk(skip, key6(address)), Ok(7), "{units}");
        let lists = (0..units).fold(hosts, |below, _| nodes.list(Length::L8, &[(0, below)]));
        assert_eq!(nodes.walk(lists, key6(address)), Ok(7), "{units}");
        for bit in 0..128 {
            let other = key6(address ^ 1 << bit);
            assert_ne!(nodes.walk(skip, other), Ok(7), "{bit}");
            assert_eq!(nodes.walk(lists, other), Ok(9), "{bit}");
        }
    }
}

/// A bucket's words do not overlap and stay in it.
#[test]
fn a_bucket_has_a_place_for_each_word() {
    for key_words in [KeyV4::WORDS, KeyV6::WORDS] {
        let mut used = vec![0];
        for place in 0..Bucket::hosts(key_words) {
            used.push(Bucket::class(place));
            used.extend(Bucket::key(place, key_words)..Bucket::key(place, key_words) + key_words);
        }
        let count = used.len();
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), count);
        assert!(used.iter().all(|word| *word < Bucket::WORDS));
        assert!(count + key_words + 1 > Bucket::WORDS, "no room is left");
    }
}

fn deepest<K: Key>(units: u32, key: K) {
    let mut nodes = Nodes::new();
    let deepest = nodes.as_deep_as_can_be(units, leaf(5));
    assert_eq!(K::STEPS, 3 * units);
    assert_eq!(nodes.walk(deepest, key), Ok(5));
    let beyond = nodes.node(Kind::Split, &[deepest.0; 256]);
    assert_eq!(nodes.walk(beyond, key), Err(BrokenTables));
    let endless = nodes.as_deep_as_can_be(units, Entry(LIMIT));
    assert_eq!(nodes.walk(endless, key), Err(BrokenTables));
}

#[test]
fn the_deepest_trie_is_walked_to_its_end_and_no_further() {
    deepest(2, key4(0x0102_0304));
    deepest(8, key6(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));
}

#[test]
fn each_level_looks_at_the_next_unit() {
    let mut nodes = Nodes::new();
    let address = 0x0101_0202_0303_0404_0505_0606_0707_0808_u128;
    let mut entry = leaf(77);
    for unit in [8u16, 7, 6, 5, 4, 3, 2, 1].map(|unit| unit * 0x0101) {
        entry = nodes.list(
            Length::L8,
            &[(0, leaf(1)), (unit, entry), (unit + 1, leaf(2))],
        );
    }
    assert_eq!(nodes.walk(entry, key6(address)), Ok(77));
    for unit in 0..8 {
        assert_eq!(nodes.walk(entry, key6(address + (1 << (16 * unit)))), Ok(2));
        assert_eq!(nodes.walk(entry, key6(address - (1 << (16 * unit)))), Ok(1));
    }
}

#[test]
fn what_leads_out_of_the_tables_is_broken() {
    for (kind, words) in [
        (Kind::Skip, Skip::WORDS),
        (Kind::Split, 256),
        (Kind::Wide, 65_536),
        (Kind::List, 96),
        (Kind::Hosts, 2 * Bucket::WORDS),
    ] {
        let mut nodes = Nodes::new();
        let at = nodes.add(&vec![0; words]);
        let entry = match kind {
            Kind::List => Entry::list(Length::L64, at),
            Kind::Hosts => Entry::hosts(1, at),
            _ => Entry::new(kind, at),
        };
        // The last bucket.
        let last = beginning_with(u16::MAX);
        assert_eq!(entry.kind(), Some(kind));
        assert_eq!(nodes.walk(entry, last), Ok(0), "{kind:?}");
        nodes.0.pop();
        assert_eq!(nodes.walk(entry, last), Err(BrokenTables), "{kind:?}");
    }
    let nodes = Nodes::new();
    assert_eq!(Entry(7 << 29).kind(), None);
    assert_eq!(nodes.walk(Entry(7 << 29), key4(1)), Err(BrokenTables));
    assert!(nodes.0.as_slice().array::<9>(0).is_none());
    assert!(nodes.0.as_slice().array::<7>(4).is_some());
    assert!(nodes.0.as_slice().array::<8>(4).is_none());
}
