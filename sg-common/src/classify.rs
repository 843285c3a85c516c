//! Classification in constant time: who × what → the first rule that matches.
//!
//! The compiler turns a policy (a list of groups, one direction) into
//! [`tables`](crate::tables). Tries map the peer's address to a **peer class**
//! and the protocol with its port or ICMP type to a **column**. A cell for both
//! holds the answer, so the cost does not depend on the number of rules.
//!
//! The cells of all peer classes lie in one array, each class's where the
//! others leave room: the number of a class is where its cells begin, and a
//! column's cell lies that many cells behind. A cell says whose it is.

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{Address, Family},
    config::Direction,
    tables::{BrokenTables, Entry, Roots, Tables, walk},
    transport,
};

/// The peer class of those whom no rule names.
pub const NOBODY: u32 = 0;

/// The column of services that no rule names but those for every service. A
/// class's cell in it speaks for each column where it has no other.
pub const ANY_SERVICE: u32 = 0;

/// What a peer class is allowed of a column's services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Cell {
    /// The peer class whose cell this is; [`NOBODY`] if it is free.
    pub class: u32,
    /// A [`Match`], or 0.
    pub rule: u32,
}

/// What is asked for: the protocol and its selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// The IP protocol number.
    pub protocol: u8,
    /// Destination port; ICMP type × 256 + code; 0 where there is neither.
    pub selector: u16,
}

/// What becomes of a rule's flows when the rule is gone. Numbers are stable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OnRevoke {
    /// The next packet is judged by the rules of then.
    #[default]
    Recheck = 0,
    /// They live until they are idle.
    Keep = 1,
    /// As `Recheck`, and the agent tells both ends of a TCP connection.
    Reset = 2,
}

/// The rule of a [`Cell`]: the first that matches peer and service. Flows carry
/// the same word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match(u32);

impl Match {
    const UNTRACKED: u32 = 1 << 31;
    const ON_REVOKE_SHIFT: u32 = 29;
    const ON_REVOKE: u32 = 3 << Self::ON_REVOKE_SHIFT;
    const SLOT: u32 = !(Self::UNTRACKED | Self::ON_REVOKE);

    /// The rule that counts in `slot`.
    #[must_use]
    pub const fn new(slot: u32, untracked: bool, on_revoke: OnRevoke) -> Self {
        let untracked = if untracked { Self::UNTRACKED } else { 0 };
        Self((slot + 1) | untracked | (on_revoke as u32) << Self::ON_REVOKE_SHIFT)
    }

    /// As cells and flows hold it.
    #[must_use]
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// What a flow holds that lives on without a rule.
    #[must_use]
    #[inline(always)]
    pub const fn kept() -> u32 {
        (OnRevoke::Keep as u32) << Self::ON_REVOKE_SHIFT
    }

    /// Reads a word; `None` if there is no rule in it.
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u32) -> Option<Self> {
        if word & Self::SLOT == 0 {
            None
        } else {
            Some(Self(word))
        }
    }

    /// The rule's counter.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        (self.0 & Self::SLOT) - 1
    }

    /// Whether its flows need no entries.
    #[must_use]
    #[inline(always)]
    pub const fn is_untracked(self) -> bool {
        self.0 & Self::UNTRACKED != 0
    }

    /// What becomes of its flows when it is gone, read from its word; an
    /// unknown number is [`OnRevoke::Recheck`], which keeps nothing alive.
    #[must_use]
    #[inline(always)]
    pub const fn on_revoke(word: u32) -> OnRevoke {
        match (word & Self::ON_REVOKE) >> Self::ON_REVOKE_SHIFT {
            1 => OnRevoke::Keep,
            2 => OnRevoke::Reset,
            _ => OnRevoke::Recheck,
        }
    }
}

/// An answer of [`classify`] in one register: a [`Match`] word, 0 for none, and
/// above it the revision of the tables that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer(u64);

impl Answer {
    /// The tables are broken: no rule has so high a counter.
    const BROKEN: u64 = u64::MAX;

    /// What tables of this revision say: a word of a [`Match`], or 0.
    #[must_use]
    #[inline(always)]
    pub const fn new(word: u32, revision: u32) -> Self {
        Self((revision as u64) << 32 | word as u64)
    }

    /// No rule.
    #[must_use]
    #[inline(always)]
    pub const fn none() -> Self {
        Self(0)
    }

    /// A walk left the tables.
    #[must_use]
    #[inline(always)]
    pub const fn broken() -> Self {
        Self(Self::BROKEN)
    }

    /// From the register it was put in by [`Answer::to_bits`].
    #[must_use]
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a register.
    #[must_use]
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The first rule that matches.
    ///
    /// # Errors
    /// [`BrokenTables`] if a walk left the tables; the packet must be dropped.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the low half is a word")]
    pub const fn rule(self) -> Result<Option<Match>, BrokenTables> {
        match self.0 {
            Self::BROKEN => Err(BrokenTables),
            bits => Ok(Match::from_word(bits as u32)),
        }
    }

    /// The revision of the tables, read before anything else of them.
    #[must_use]
    #[inline(always)]
    pub const fn revision(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The first rule of a direction that allows `service` with the peer whose
/// address has `key`.
#[inline(always)]
pub fn classify<A: Address, T: Tables + ?Sized>(
    tables: &T,
    direction: Direction,
    key: A::Key,
    service: Service,
) -> Answer {
    let answer = first_rule::<A, T>(tables, direction, key, service);
    answer.unwrap_or_else(|BrokenTables| Answer::broken())
}

#[inline(always)]
fn first_rule<A: Address, T: Tables + ?Sized>(
    tables: &T,
    direction: Direction,
    key: A::Key,
    service: Service,
) -> Result<Answer, BrokenTables> {
    let header = tables.header().ok_or(BrokenTables)?;
    let revision = tables.revision(header);
    let roots = header.roots(direction);
    let root = match A::FAMILY {
        Family::V4 => roots.peers_v4,
        Family::V6 => roots.peers_v6,
    };
    let class = walk(tables, root, key)?;
    if class == NOBODY as usize {
        return Ok(Answer::new(0, revision));
    }
    let column = column(tables, roots, service)?;
    let mut cell = cell(tables, roots, class + column)?;
    if cell.class as usize != class {
        cell = self::cell(tables, roots, class + ANY_SERVICE as usize)?;
    }
    Ok(Answer::new(cell.rule, revision))
}

#[inline(always)]
fn cell<T: Tables + ?Sized>(tables: &T, roots: &Roots, index: usize) -> Result<Cell, BrokenTables> {
    let words = tables.array::<2>(roots.cells as usize + size_of::<Cell>() * index);
    let [class, rule] = *words.ok_or(BrokenTables)?;
    Ok(Cell { class, rule })
}

/// The column of a service: each octet of its selector looks into a page.
#[inline(always)]
fn column<T: Tables + ?Sized>(
    tables: &T,
    roots: &Roots,
    service: Service,
) -> Result<usize, BrokenTables> {
    let root = match service.protocol {
        transport::TCP => roots.tcp,
        transport::UDP => roots.udp,
        protocol => {
            let roots = tables
                .array::<256>(roots.protocols as usize)
                .ok_or(BrokenTables)?;
            Entry(roots.get(protocol as usize).copied().unwrap_or_default())
        }
    };
    // Numbers, not bytes: older verifiers lose what they know of a number when
    // its bytes are swapped.
    let (high, low) = (service.selector >> 8, service.selector & 0xff);
    let entry = follow(tables, follow(tables, root, high)?, low)?;
    if entry.is_leaf() {
        Ok(entry.0 as usize)
    } else {
        Err(BrokenTables)
    }
}

/// What the page at `entry` leads an octet to; a leaf leads to itself.
#[inline(always)]
fn follow<T: Tables + ?Sized>(tables: &T, entry: Entry, octet: u16) -> Result<Entry, BrokenTables> {
    if entry.is_leaf() {
        return Ok(entry);
    }
    let page = tables.array::<256>(entry.offset()).ok_or(BrokenTables)?;
    Ok(Entry(
        page.get(usize::from(octet)).copied().unwrap_or_default(),
    ))
}
