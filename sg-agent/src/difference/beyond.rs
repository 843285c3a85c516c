//! How much of each rule the other side does not allow.

use std::{collections::HashMap, sync::Arc};

use super::{
    TooComplex,
    catalogue::{Catalogue, Peers},
    region::{Area, Region},
    services::Services,
    sweep::{Areas, Traffic},
};
use crate::policy::Rule;

/// The rules of two sides, for one direction, compared with each other's
/// traffic: names do not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// What only the second side allows, and what only the first does.
    pub traffic: Traffic,
    /// Rules of the first side that allow what the second does not.
    pub first: Vec<Beyond>,
    /// Rules of the second side that allow what the first does not.
    pub second: Vec<Beyond>,
}

/// What a rule allows that the other side does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// Its place in the list that was given.
    pub rule: usize,
    /// Whether that is all it allows.
    pub is_whole: bool,
    /// What it is.
    pub regions: Vec<Region>,
}

/// Compares two sides.
///
/// # Errors
///
/// [`TooComplex`]
pub fn compare(first: &[&Rule], second: &[&Rule]) -> Result<Comparison, TooComplex> {
    let mut catalogue = Catalogue::default();
    let areas = Areas::between(&mut catalogue, first, second)?;
    Ok(Comparison {
        traffic: areas.traffic()?,
        first: beyond(first, &areas.denied, &mut catalogue)?,
        second: beyond(second, &areas.allowed, &mut catalogue)?,
    })
}

/// The rules that allow anything in `areas`.
fn beyond<'p>(
    rules: &[&'p Rule],
    areas: &[Area],
    catalogue: &mut Catalogue<'p>,
) -> Result<Vec<Beyond>, TooComplex> {
    if areas.is_empty() {
        return Ok(Vec::new());
    }
    // Rules that share their peers share where these lie, too.
    let mut places: HashMap<Peers, Arc<Vec<Area>>> = HashMap::new();
    let mut found = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let peers = catalogue.peers(rule);
        let addresses = catalogue.addresses(&peers);
        let places = places.entry(peers).or_insert_with(|| {
            let of_peers = areas.iter().map(|area| Area {
                addresses: area.addresses.intersect(&addresses),
                services: area.services.clone(),
            });
            Arc::new(of_peers.filter(|area| !area.addresses.is_empty()).collect())
        });
        let services = Services::of_any_family(&rule.service);
        let mine = within(places, &services);
        if !mine.is_empty() {
            let all_services = mine.iter().all(|area| area.services == services);
            let inside = mine.iter().fold((*addresses).clone(), |rest, area| {
                rest.without(&area.addresses)
            });
            found.push(Beyond {
                rule: number,
                is_whole: all_services && inside.is_empty(),
                regions: Region::list(&mine)?,
            });
        }
    }
    Ok(found)
}

/// The part of `areas` that has one of `services`.
fn within(areas: &[Area], services: &Services) -> Vec<Area> {
    let parts = areas.iter().map(|area| Area {
        addresses: area.addresses.clone(),
        services: area.services.intersect(services),
    });
    parts.filter(|area| !area.services.is_empty()).collect()
}
