//! The cells of all peer classes in one array, each class's where the others
//! leave room.

use std::collections::{BTreeMap, HashMap};

use sg_common::classify::{ANY_SERVICE, Cell, NOBODY};

use super::CompileError;

/// The most cells there may be: 64 MiB.
const MAX_CELLS: usize = 1 << 23;

/// How many places are tried for a class before it goes to the end.
const TRIES: usize = 512;

/// The least room in live tables for the cells of more classes.
const MIN_ROOM: usize = 64;

/// What one peer class may: a column and the [`sg_common::classify::Match`]
/// word of the rule, ascending. It has [`ANY_SERVICE`], always.
pub(super) type Row = Vec<(u32, u32)>;

/// The array. A class's number is where its cells begin.
pub(super) struct Cells {
    array: Vec<Cell>,
    columns: u32,
    known: HashMap<Row, u32>,
    /// No cell before this one is free.
    first_free: usize,
}

impl Cells {
    pub(super) fn new(columns: u32) -> Self {
        // Nobody's cell is never free and never anybody's.
        Self {
            array: vec![Cell::default()],
            columns,
            known: HashMap::new(),
            first_free: 1,
        }
    }

    /// The class of those who may what `row` says.
    pub(super) fn class(&mut self, row: Row) -> Result<u32, CompileError> {
        if row == [(ANY_SERVICE, 0)] {
            return Ok(NOBODY);
        }
        if let Some(class) = self.known.get(&row) {
            return Ok(*class);
        }
        let place = self.place(&row);
        let end = place + self.columns as usize;
        if end > MAX_CELLS {
            return Err(CompileError::TooManyCells {
                found: end,
                limit: MAX_CELLS,
            });
        }
        let class = u32::try_from(place).unwrap_or(u32::MAX);
        for (column, rule) in &row {
            let index = place + *column as usize;
            if self.array.len() <= index {
                self.array.resize(index + 1, Cell::default());
            }
            self.array[index] = Cell { class, rule: *rule };
        }
        self.known.insert(row, class);
        Ok(class)
    }

    fn place(&mut self, row: &Row) -> usize {
        while self
            .array
            .get(self.first_free)
            .is_some_and(|cell| cell.class != NOBODY)
        {
            self.first_free += 1;
        }
        let candidates = self.first_free..self.first_free + TRIES;
        candidates
            .into_iter()
            .find(|place| {
                row.iter()
                    .all(|(column, _)| self.is_free(place + *column as usize))
            })
            .unwrap_or(self.array.len().max(1))
    }

    fn is_free(&self, index: usize) -> bool {
        self.array
            .get(index)
            .is_none_or(|cell| cell.class == NOBODY)
    }

    /// How many classes there are, without nobody's.
    pub(super) fn classes(&self) -> usize {
        self.known.len()
    }

    /// All cells: every class has one for each column, its own or not.
    pub(super) fn into_cells(mut self) -> Vec<Cell> {
        let last = self.known.values().max().copied().unwrap_or(0);
        let len = (last + self.columns) as usize;
        let room = (len / 8).max(MIN_ROOM);
        self.array.resize(len + room, Cell::default());
        self.array
    }
}

/// The cells of live tables, with room for some classes more.
pub(super) struct LiveCells<'a> {
    array: &'a [Cell],
    columns: u32,
    known: HashMap<Row, u32>,
    /// Cells that were free, by index.
    filled: BTreeMap<usize, Cell>,
}

impl<'a> LiveCells<'a> {
    pub(super) fn new(array: &'a [Cell], columns: u32) -> Self {
        Self {
            array,
            columns,
            known: HashMap::new(),
            filled: BTreeMap::new(),
        }
    }

    /// The class of those who may what `row` says; `None` if it would be a new
    /// one and there is no room for it.
    pub(super) fn class(&mut self, row: Row) -> Option<u32> {
        if row == [(ANY_SERVICE, 0)] {
            return Some(NOBODY);
        }
        if let Some(class) = self.known.get(&row) {
            return Some(*class);
        }
        let class = match self.find(&row) {
            Some(class) => class,
            None => self.add(&row)?,
        };
        self.known.insert(row, class);
        Some(class)
    }

    /// Each class has a cell for [`ANY_SERVICE`], where it begins.
    fn find(&self, row: &Row) -> Option<u32> {
        let (_, any) = row.first()?;
        let own = |class: u32| move |cell: &&Cell| cell.class == class;
        let cells = (0..).zip(self.array);
        let mut classes = cells.filter(|(place, cell)| cell.class == *place && cell.rule == *any);
        classes.find_map(|(class, _)| {
            let end = (class + self.columns) as usize;
            let cells = self.array.get(class as usize..end)?;
            // What rules most classes out comes first.
            let is_row = class != NOBODY
                && row.iter().all(|(column, rule)| {
                    cells.get(*column as usize) == Some(&Cell { class, rule: *rule })
                })
                && cells.iter().filter(own(class)).count() == row.len();
            is_row.then_some(class)
        })
    }

    fn add(&mut self, row: &Row) -> Option<u32> {
        let places = self.array.len().checked_sub(self.columns as usize)?;
        let is_free =
            |index: usize| self.array[index].class == NOBODY && !self.filled.contains_key(&index);
        let fits = |place: &usize| {
            let mut columns = row.iter().map(|(column, _)| *column as usize);
            columns.all(|column| is_free(place + column))
        };
        let place = (1..=places).find(fits)?;
        let class = u32::try_from(place).ok()?;
        let cells = row.iter().map(|(column, rule)| {
            let cell = Cell { class, rule: *rule };
            (place + *column as usize, cell)
        });
        self.filled.extend(cells);
        Some(class)
    }

    /// The cells that are to be filled, by index.
    pub(super) fn into_filled(self) -> BTreeMap<usize, Cell> {
        self.filled
    }
}
