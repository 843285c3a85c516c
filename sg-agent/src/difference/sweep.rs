//! The traffic that one list of rules allows and another does not: the address
//! space is walked once, and at each place the services of both are compared.

use std::collections::HashMap;

use ipnet::IpNet;
use serde::Serialize;

use super::{
    TooComplex,
    addresses::{Addresses, range},
    catalogue::{Catalogue, ListId},
    ranges::Ranges,
    region::{Area, Region},
    services::Services,
};
use crate::{compile::Family, policy::Rule};

/// The most ranges of services that all places together may have: 256 MiB.
/// Tests reach a smaller limit in less time.
pub(super) const MAX_RANGES: usize = if cfg!(test) { 1 << 16 } else { 1 << 25 };

/// What changes for the packets of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// Was denied, is allowed.
    pub allowed: Vec<Region>,
    /// Was allowed, is denied.
    pub denied: Vec<Region>,
}

impl Traffic {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allowed.is_empty() && self.denied.is_empty()
    }
}

/// [`Traffic`] before it is written down.
#[derive(Clone, Debug, Default)]
pub(super) struct Areas {
    pub(super) allowed: Vec<Area>,
    pub(super) denied: Vec<Area>,
}

impl Areas {
    /// What `new` allows beyond `old`, and the reverse.
    pub(super) fn between<'p>(
        catalogue: &mut Catalogue<'p>,
        old: &[&'p Rule],
        new: &[&'p Rule],
    ) -> Result<Self, TooComplex> {
        let mut arena = Arena::new();
        let mut found = [Vec::new(), Vec::new()];
        for family in Family::ALL {
            let members = members(catalogue, &mut arena, family, [old, new])?;
            let mut sweep = Sweep::new(&mut arena);
            for here in members.chunk_by(|a, b| (a.first, a.bits) == (b.first, b.bits)) {
                sweep.visit(here, family)?;
            }
            let [allowed, denied] = sweep.finish()?;
            found[0].push(allowed);
            found[1].push(denied);
        }
        let [allowed, denied] = found.map(|families| arena.areas(families));
        Ok(Self { allowed, denied })
    }

    pub(super) fn traffic(&self) -> Result<Traffic, TooComplex> {
        Ok(Traffic {
            allowed: Region::list(&self.allowed)?,
            denied: Region::list(&self.denied)?,
        })
    }
}

/// A set of services in an [`Arena`].
type Id = u32;

/// Before the change and after it.
type State = [Id; 2];

const NOTHING: Id = 0;

/// By services, where.
type Found = HashMap<Id, Vec<(u128, u128)>>;

/// Every set of services that occurs, once, so that comparing two is comparing
/// their numbers.
struct Arena {
    sets: Vec<Services>,
    ids: HashMap<Services, Id>,
    unions: HashMap<Box<[Id]>, Id>,
    differences: HashMap<State, [Id; 2]>,
    ranges: usize,
}

impl Arena {
    fn new() -> Self {
        Self {
            sets: vec![Services::default()],
            ids: HashMap::from([(Services::default(), NOTHING)]),
            unions: HashMap::new(),
            differences: HashMap::new(),
            ranges: 0,
        }
    }

    fn get(&self, id: Id) -> &Services {
        &self.sets[id as usize]
    }

    fn intern(&mut self, services: Services) -> Result<Id, TooComplex> {
        if let Some(id) = self.ids.get(&services) {
            return Ok(*id);
        }
        self.ranges += services.ranges().len();
        if self.ranges > MAX_RANGES {
            return Err(TooComplex { limit: MAX_RANGES });
        }
        let id = Id::try_from(self.sets.len()).unwrap_or(Id::MAX);
        self.sets.push(services.clone());
        self.ids.insert(services, id);
        Ok(id)
    }

    /// `ids` is sorted on the way.
    fn union(&mut self, ids: &mut Vec<Id>) -> Result<Id, TooComplex> {
        ids.sort_unstable();
        ids.dedup();
        if let [only] = ids.as_slice() {
            return Ok(*only);
        }
        if let Some(known) = self.unions.get(ids.as_slice()) {
            return Ok(*known);
        }
        let union = Services::union(ids.iter().map(|id| self.get(*id)));
        let id = self.intern(union)?;
        self.unions.insert(ids.as_slice().into(), id);
        Ok(id)
    }

    /// What is allowed and what is denied.
    fn difference(&mut self, state: State) -> Result<[Id; 2], TooComplex> {
        let [old, new] = state;
        if old == new {
            return Ok([NOTHING; 2]);
        }
        if let Some(known) = self.differences.get(&state) {
            return Ok(*known);
        }
        let allowed = self.get(new).without(self.get(old));
        let denied = self.get(old).without(self.get(new));
        let difference = [self.intern(allowed)?, self.intern(denied)?];
        self.differences.insert(state, difference);
        Ok(difference)
    }

    /// What was found for each family, as areas of both.
    fn areas(&self, families: Vec<Found>) -> Vec<Area> {
        let mut by_services: HashMap<Id, [Ranges<u128>; 2]> = HashMap::new();
        for (family, found) in families.into_iter().enumerate() {
            for (id, ranges) in found {
                by_services.entry(id).or_default()[family] = Ranges::new(ranges);
            }
        }
        let mut areas: Vec<(Id, [Ranges<u128>; 2])> = by_services.into_iter().collect();
        areas.sort_unstable_by_key(|(id, _)| *id);
        areas
            .into_iter()
            .map(|(id, ranges)| Area {
                addresses: Addresses::from_families(ranges),
                services: self.get(id).clone(),
            })
            .collect()
    }
}

/// A prefix, and what it allows before and after.
struct Member {
    first: u128,
    bits: u8,
    state: State,
}

/// The prefixes of `family` that rules of either side name, outer ones before
/// inner ones.
fn members<'p>(
    catalogue: &mut Catalogue<'p>,
    arena: &mut Arena,
    family: Family,
    sides: [&[&'p Rule]; 2],
) -> Result<Vec<Member>, TooComplex> {
    let mut lists: HashMap<ListId, [Vec<Id>; 2]> = HashMap::new();
    let mut members = Vec::new();
    for (side, rules) in sides.into_iter().enumerate() {
        for rule in rules {
            let services = arena.intern(Services::new(&rule.service, family))?;
            if services == NOTHING {
                continue;
            }
            let peers = catalogue.peers(rule);
            for list in peers.lists {
                lists.entry(list).or_default()[side].push(services);
            }
            let mut state = [NOTHING; 2];
            state[side] = services;
            add(&mut members, &peers.own, family, state);
        }
    }
    for (list, [mut old, mut new]) in lists {
        let state = [arena.union(&mut old)?, arena.union(&mut new)?];
        add(&mut members, catalogue.prefixes(list), family, state);
    }
    members.sort_unstable_by_key(|member| (member.first, member.bits));
    Ok(members)
}

fn add(members: &mut Vec<Member>, prefixes: &[IpNet], family: Family, state: State) {
    members.extend(prefixes.iter().filter_map(|prefix| {
        let (of, first, _) = range(prefix);
        let bits = prefix.prefix_len();
        (of == family).then_some(Member { first, bits, state })
    }));
}

/// Goes through prefixes that lie in each other or apart.
struct Sweep<'a> {
    arena: &'a mut Arena,
    /// Those around the present place, with their last address.
    open: Vec<(u128, State)>,
    /// Up to here everything is compared; `None` beyond the last address.
    from: Option<u128>,
    /// What is allowed and what is denied.
    found: [Found; 2],
    scratch: Vec<Id>,
}

impl<'a> Sweep<'a> {
    fn new(arena: &'a mut Arena) -> Self {
        Self {
            arena,
            open: Vec::new(),
            from: Some(0),
            found: [HashMap::new(), HashMap::new()],
            scratch: Vec::new(),
        }
    }

    fn state(&self) -> State {
        self.open.last().map_or([NOTHING; 2], |(_, state)| *state)
    }

    /// Takes in the members of one prefix.
    fn visit(&mut self, here: &[Member], family: Family) -> Result<(), TooComplex> {
        let Some(Member { first, bits, .. }) = here.first() else {
            return Ok(());
        };
        while let Some((last, _)) = self.open.last().filter(|(last, _)| last < first) {
            let last = *last;
            self.compare_until(last)?;
            self.open.pop();
        }
        if let Some(before) = first.checked_sub(1) {
            self.compare_until(before)?;
        }
        let mut state = self.state();
        for (side, id) in state.iter_mut().enumerate() {
            self.scratch.clear();
            self.scratch.push(*id);
            self.scratch
                .extend(here.iter().map(|member| member.state[side]));
            *id = self.arena.union(&mut self.scratch)?;
        }
        self.open.push((last_of(*first, *bits, family), state));
        Ok(())
    }

    /// Notes what changes from where the last comparison ended to `last`.
    fn compare_until(&mut self, last: u128) -> Result<(), TooComplex> {
        let Some(first) = self.from.filter(|from| *from <= last) else {
            return Ok(());
        };
        self.from = last.checked_add(1);
        let difference = self.arena.difference(self.state())?;
        for (found, services) in self.found.iter_mut().zip(difference) {
            if services != NOTHING {
                found.entry(services).or_default().push((first, last));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<[Found; 2], TooComplex> {
        while let Some((last, _)) = self.open.last() {
            self.compare_until(*last)?;
            self.open.pop();
        }
        Ok(self.found)
    }
}

fn last_of(first: u128, bits: u8, family: Family) -> u128 {
    let all = match family {
        Family::V4 => u128::from(u32::MAX),
        Family::V6 => u128::MAX,
    };
    first | all.checked_shr(bits.into()).unwrap_or(0)
}
