//! Live tables, and what is to be written into them.

use std::{collections::BTreeMap, mem::offset_of};

use bytemuck::{cast_slice, from_bytes};
use sg_common::{
    classify::Cell,
    tables::{Entry, Header, Roots},
};

use super::{Family, cells::LiveCells, image::Image};
use crate::policy::Direction;

/// A change of live tables, word for word.
///
/// Nothing that a packet can reach is changed but by the switches, each of which
/// leads it from one whole trie to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amendment {
    /// Where `nodes` go, behind all that is in use.
    start: usize,
    nodes: Vec<u32>,
    /// Cells that were nobody's.
    cells: Vec<(usize, Cell)>,
    switches: Vec<(usize, u32)>,
}

impl Amendment {
    /// What is to be written where, one word after the other, in this order.
    pub fn writes(&self) -> impl Iterator<Item = (usize, u32)> {
        // First of all: should it be interrupted, nobody writes there again.
        let end = self.start + self.nodes.len();
        let used = (USED, u32::try_from(end).unwrap_or(u32::MAX));
        let nodes = (self.start..).zip(self.nodes.iter().copied());
        let cells = self
            .cells
            .iter()
            .flat_map(|(index, cell)| [(index + 1, cell.rule), (*index, cell.class)]);
        let switches = self.switches.iter().copied();
        [used].into_iter().chain(nodes).chain(cells).chain(switches)
    }

    /// How many words packets are led by that change.
    #[must_use]
    pub fn switches(&self) -> usize {
        self.switches.len()
    }
}

const USED: usize = offset_of!(Header, used) / size_of::<u32>();

/// Tables as they will be.
pub(super) struct Draft<'a> {
    live: &'a [u32],
    header: Header,
    pub(super) image: Image,
    cells: Vec<(usize, Cell)>,
    switches: BTreeMap<usize, u32>,
}

impl<'a> Draft<'a> {
    /// Of tables that packets are judged by; `None` if these are none.
    pub(super) fn new(live: &'a [u32]) -> Option<Self> {
        let header: Header = *from_bytes(cast_slice(live.get(..Header::WORDS)?));
        Some(Self {
            live,
            header,
            image: Image::behind(header.used as usize),
            cells: Vec::new(),
            switches: BTreeMap::new(),
        })
    }

    /// The word that is the root of a trie of peers.
    pub(super) fn root(direction: Direction, family: Family) -> usize {
        let roots = offset_of!(Header, roots) + direction as usize * size_of::<Roots>();
        let root = match family {
            Family::V4 => offset_of!(Roots, peers_v4),
            Family::V6 => offset_of!(Roots, peers_v6),
        };
        (roots + root) / size_of::<u32>()
    }

    /// A word as it will be.
    pub(super) fn word(&mut self, index: usize) -> u32 {
        if let Some(word) = self.image.word_mut(index) {
            return *word;
        }
        let switched = self.switches.get(&index);
        let word = switched.or_else(|| self.live.get(index));
        word.copied().unwrap_or_default()
    }

    /// Some words of a node.
    pub(super) fn words<const N: usize>(&mut self, first: usize) -> [u32; N] {
        std::array::from_fn(|place| self.word(first + place))
    }

    /// The word of an entry becomes another.
    pub(super) fn switch(&mut self, index: usize, entry: Entry) {
        if let Some(word) = self.image.word_mut(index) {
            *word = entry.0;
        } else if self.word(index) != entry.0 {
            self.switches.insert(index, entry.0);
        }
    }

    fn first_cell(&self, direction: Direction) -> usize {
        self.header.roots[direction as usize].cells as usize / size_of::<u32>()
    }

    /// The cells of a direction; `None` if they are not there.
    pub(super) fn cells(&self, direction: Direction, columns: u32) -> Option<LiveCells<'a>> {
        let words = self.live.get(self.first_cell(direction)..)?;
        let count = self.header.cells[direction as usize] as usize;
        let (pairs, _) = words.as_chunks::<2>();
        Some(LiveCells::new(cast_slice(pairs.get(..count)?), columns))
    }

    /// Cells of a direction that were free are not any more.
    pub(super) fn fill(&mut self, direction: Direction, cells: LiveCells<'_>) {
        let first = self.first_cell(direction);
        let filled = cells.into_filled().into_iter();
        let places = filled.map(|(index, cell)| (first + 2 * index, cell));
        self.cells.extend(places);
    }

    /// What is to be written; `None` if there is no room for it.
    pub(super) fn finish(self) -> Option<Amendment> {
        (self.image.end() <= self.live.len()).then(|| Amendment {
            start: self.header.used as usize,
            nodes: self.image.into_words(),
            cells: self.cells,
            switches: self.switches.into_iter().collect(),
        })
    }
}
