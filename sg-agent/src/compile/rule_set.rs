//! Sets of rules, each stored once and named by a number.

use std::{collections::HashMap, rc::Rc};

use super::{CompileError, Family, peers::ListId};

/// A set in a [`RuleSets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SetId(u32);

/// The most rules that all sets together may hold: 64 MiB.
const MAX_MEMBERS: usize = 1 << 24;

/// Every set of rules that occurs, sorted by rule.
pub(super) struct RuleSets {
    sets: Vec<Rc<[u32]>>,
    ids: HashMap<Rc<[u32]>, SetId>,
    sums: HashMap<(SetId, ListId, Family), SetId>,
    members: usize,
}

impl RuleSets {
    /// The set with no rules.
    pub(super) const EMPTY: SetId = SetId(0);

    pub(super) fn new() -> Self {
        let empty: Rc<[u32]> = Rc::from([]);
        Self {
            sets: vec![Rc::clone(&empty)],
            ids: HashMap::from([(empty, Self::EMPTY)]),
            sums: HashMap::new(),
            members: 0,
        }
    }

    /// The set `set` ∪ `rules`, which are those of `list` for `family`, sorted.
    pub(super) fn with(
        &mut self,
        set: SetId,
        (list, family): (ListId, Family),
        rules: &[u32],
    ) -> Result<SetId, CompileError> {
        if let Some(known) = self.sums.get(&(set, list, family)) {
            return Ok(*known);
        }
        let sum = self.with_rules(set, rules)?;
        self.sums.insert((set, list, family), sum);
        Ok(sum)
    }

    /// The set `set` ∪ `rules`.
    pub(super) fn with_rules(&mut self, set: SetId, rules: &[u32]) -> Result<SetId, CompileError> {
        self.intern(union(self.rules(set), rules).into())
    }

    fn intern(&mut self, rules: Rc<[u32]>) -> Result<SetId, CompileError> {
        if let Some(id) = self.ids.get(&rules) {
            return Ok(*id);
        }
        self.members += rules.len();
        if self.members > MAX_MEMBERS {
            return Err(CompileError::TooManyOverlaps {
                found: self.members,
                limit: MAX_MEMBERS,
            });
        }
        let id = SetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.sets.push(Rc::clone(&rules));
        self.ids.insert(rules, id);
        Ok(id)
    }

    /// The rules of a set, ascending.
    pub(super) fn rules(&self, set: SetId) -> &[u32] {
        self.sets.get(set.0 as usize).map_or(&[], |rules| rules)
    }
}

fn union(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut all = [a, b].concat();
    all.sort_unstable();
    all.dedup();
    all
}
