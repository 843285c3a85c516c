//! The word of a rule, and classification by tables that are made by hand.

use sg_common::{
    address::{Address as _, V4, V6},
    classify::{Answer, Cell, Match, OnRevoke, Service, classify},
    config::Direction,
    counter::MAX_RULES,
    tables::{BrokenTables, Entry, Header, Kind, Roots},
    transport::{ICMP, TCP, UDP},
};

#[test]
fn a_rules_word_keeps_what_it_was_made_of() {
    for slot in [0, 1, 2, 255, 4096, MAX_RULES - 1] {
        for untracked in [false, true] {
            for on_revoke in [OnRevoke::Recheck, OnRevoke::Keep, OnRevoke::Reset] {
                let rule = Match::new(slot, untracked, on_revoke);
                let word = rule.word();
                assert_eq!(Match::from_word(word), Some(rule));
                assert_eq!(rule.slot(), slot);
                assert_eq!(rule.is_untracked(), untracked);
                assert_eq!(Match::on_revoke(word), on_revoke);
                let answer = Answer::from_bits(word.into());
                assert_eq!(answer.rule(), Ok(Some(rule)));
                assert_eq!(answer.to_bits(), word.into());
            }
        }
    }
}

#[test]
fn a_word_without_a_rule_has_none() {
    assert_eq!(Match::from_word(0), None);
    assert_eq!(Match::from_word(Match::kept()), None);
    assert_eq!(Match::on_revoke(Match::kept()), OnRevoke::Keep);
    // A number that this version does not know keeps nothing alive.
    assert_eq!(Match::on_revoke(3 << 29), OnRevoke::Recheck);
    assert_eq!(Answer::none().rule(), Ok(None));
    assert_eq!(Answer::broken().rule(), Err(BrokenTables));
}

#[test]
fn an_answer_keeps_the_revision_of_its_tables() {
    let rule = Match::new(MAX_RULES - 1, true, OnRevoke::Reset);
    for word in [0, rule.word()] {
        for revision in [0, 1, 7, u32::MAX] {
            let answer = Answer::from_bits(Answer::new(word, revision).to_bits());
            assert_eq!(answer.revision(), revision);
            assert_eq!(answer.rule(), Ok(Match::from_word(word)));
        }
    }
}

/// Of the tables below.
const REVISION: u32 = 7;

/// Where the parts of the tables below begin, in words.
const PROTOCOLS: usize = Header::WORDS;
const TYPES: usize = PROTOCOLS + 256;
const CODES: usize = TYPES + 256;
const CELLS: [usize; 2] = [CODES + 256, CODES + 256 + 128];
const END: usize = CELLS[1] + 128;

/// The columns of TCP, of UDP, and of echo requests.
const COLUMNS: [u32; 3] = [1, 2, 3];
const ECHO_REQUEST: u16 = 8 << 8;

fn offset(words: usize) -> u32 {
    u32::try_from(4 * words).expect("small tables")
}

/// Every IPv4 peer is of the first class and every IPv6 peer of the second.
fn roots(classes: [u32; 2], cells: usize) -> Roots {
    Roots {
        peers_v4: Entry::new(Kind::Leaf, classes[0]),
        peers_v6: Entry::new(Kind::Leaf, classes[1]),
        tcp: Entry::new(Kind::Leaf, COLUMNS[0]),
        udp: Entry::new(Kind::Leaf, COLUMNS[1]),
        protocols: offset(PROTOCOLS),
        cells: offset(cells),
    }
}

struct Tables(Vec<u32>);

impl Tables {
    fn new(inbound: [u32; 2], outbound: [u32; 2]) -> Self {
        let mut words = vec![0; END];
        let header = Header {
            roots: [roots(inbound, CELLS[0]), roots(outbound, CELLS[1])],
            revision: REVISION,
            ..Header::default()
        };
        words[..Header::WORDS].copy_from_slice(bytemuck::cast_slice(&[header]));
        words[PROTOCOLS + usize::from(ICMP)] = Entry::new(Kind::Page, offset(TYPES)).0;
        words[TYPES + usize::from(ECHO_REQUEST >> 8)] = Entry::new(Kind::Page, offset(CODES)).0;
        words[CODES] = Entry::new(Kind::Leaf, COLUMNS[2]).0;
        Self(words)
    }

    /// Lets a class have a column's services by the rule of a slot.
    fn allow(mut self, direction: Direction, class: u32, column: u32, slot: u32) -> Self {
        let index = CELLS[direction as usize] + 2 * (class + column) as usize;
        let cell = Cell {
            class,
            rule: Match::new(slot, false, OnRevoke::Recheck).word(),
        };
        self.0[index..][..2].copy_from_slice(bytemuck::cast_slice(&[cell]));
        self
    }

    /// The slot of the rule for a service, of IPv4 and of IPv6.
    fn ask(&self, direction: Direction, protocol: u8, selector: u16) -> [Option<u32>; 2] {
        let service = Service { protocol, selector };
        let tables = self.0.as_slice();
        let v4 = classify::<V4, [u32]>(tables, direction, V4::default().key(), service);
        let v6 = classify::<V6, [u32]>(tables, direction, V6::default().key(), service);
        [v4, v6].map(|answer| {
            assert_eq!(answer.revision(), REVISION);
            answer.rule().expect("whole tables").map(Match::slot)
        })
    }
}

#[test]
fn a_cell_is_found_by_direction_family_class_and_column() {
    use Direction::{Inbound, Outbound};
    let tables = Tables::new([10, 20], [30, 0])
        .allow(Inbound, 10, COLUMNS[0], 1)
        .allow(Inbound, 20, COLUMNS[1], 2)
        .allow(Inbound, 20, 0, 3)
        .allow(Inbound, 10, COLUMNS[2], 4)
        .allow(Outbound, 30, COLUMNS[0], 5)
        .allow(Outbound, 30, 0, 6);
    for (direction, protocol, selector, expected) in [
        (Inbound, TCP, 80, [Some(1), Some(3)]),
        (Inbound, UDP, 80, [None, Some(2)]),
        (Inbound, ICMP, ECHO_REQUEST, [Some(4), Some(3)]),
        (Inbound, ICMP, ECHO_REQUEST + 1, [None, Some(3)]),
        (Inbound, ICMP, 8, [None, Some(3)]),
        (Inbound, 47, 0, [None, Some(3)]),
        (Outbound, TCP, 80, [Some(5), None]),
        (Outbound, UDP, 80, [Some(6), None]),
        (Outbound, 255, 0, [Some(6), None]),
    ] {
        let found = tables.ask(direction, protocol, selector);
        assert_eq!(found, expected, "{direction:?} {protocol} {selector}");
    }
}

/// The cells of classes lie interleaved: one that is another's is none.
#[test]
fn anothers_cell_says_nothing() {
    let tables = Tables::new([10, 11], [0, 0])
        .allow(Direction::Inbound, 10, COLUMNS[1], 1)
        .allow(Direction::Inbound, 11, 0, 2);
    // For class 11, column 1 is where class 10 has its column 2.
    assert_eq!(
        tables.ask(Direction::Inbound, TCP, 80),
        [None, Some(2)],
        "the cell of another class was taken"
    );
}

#[test]
fn tables_that_end_too_early_are_broken() {
    let tables = Tables::new([10, 20], [30, 40]).allow(Direction::Inbound, 10, COLUMNS[0], 1);
    let service = Service {
        protocol: 47,
        selector: 0,
    };
    for words in [0, Header::WORDS - 1, PROTOCOLS + 255, CELLS[0]] {
        let cut = &tables.0[..words];
        let answer = classify::<V4, [u32]>(cut, Direction::Inbound, V4::default().key(), service);
        assert_eq!(answer.rule(), Err(BrokenTables), "{words} words");
    }
}
