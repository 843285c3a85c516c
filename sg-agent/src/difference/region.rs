//! Changes as people read them: for each service, the peers.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Serialize;

use super::{TooComplex, addresses::Addresses, services::Services};

/// The most peers that all regions of a list may have before they are put
/// together. Tests reach a smaller limit in less time.
pub(super) const MAX_PEERS: usize = if cfg!(test) { 1 << 18 } else { 1 << 24 };

/// Some services and who may use them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// All that the peers may.
    pub services: Services,
    /// The fewest prefixes that hold exactly those who may, sorted, IPv4
    /// first.
    pub peers: Vec<IpNet>,
}

/// Some addresses and what they may: how changes are found.
#[derive(Clone, Debug)]
pub(super) struct Area {
    pub(super) addresses: Addresses,
    pub(super) services: Services,
}

impl Region {
    /// The regions of areas that share no address. A service is in one of
    /// them at most, so every change has one form.
    pub(super) fn list(areas: &[Area]) -> Result<Vec<Self>, TooComplex> {
        let mut peers = 0;
        let mut regions = Vec::new();
        for (numbers, services) in by_service(areas)? {
            let of_services = numbers.iter().filter_map(|number| areas.get(*number));
            let addresses: Vec<_> = of_services.map(|area| &area.addresses).collect();
            peers += addresses.iter().map(|list| list.len()).sum::<usize>();
            if peers > MAX_PEERS {
                return Err(TooComplex { limit: MAX_PEERS });
            }
            regions.push(Self {
                services: Services::from_ranges(services),
                peers: Addresses::union(&addresses).prefixes(),
            });
        }
        regions.sort_by(|a, b| a.services.cmp(&b.services));
        Ok(regions)
    }
}

/// First and last service of a range.
type Range = (u32, u32);

/// For each list of areas, by number, the services that these have and no others.
fn by_service(areas: &[Area]) -> Result<BTreeMap<Vec<usize>, Vec<Range>>, TooComplex> {
    let mut changes = Vec::new();
    for (number, area) in areas.iter().enumerate() {
        for (first, last) in area.services.ranges() {
            changes.push((*first, true, number));
            changes.push((last + 1, false, number));
        }
    }
    changes.sort_unstable();
    let mut found: BTreeMap<Vec<usize>, Vec<Range>> = BTreeMap::new();
    let mut active: BTreeSet<usize> = BTreeSet::new();
    let (mut from, mut places) = (0, 0);
    for here in changes.chunk_by(|a, b| a.0 == b.0) {
        let at = here[0].0;
        if !active.is_empty() {
            places += active.len();
            if places > MAX_PEERS {
                return Err(TooComplex { limit: MAX_PEERS });
            }
            let areas = active.iter().copied().collect();
            found.entry(areas).or_default().push((from, at - 1));
        }
        for (_, begins, number) in here {
            if *begins {
                active.insert(*number);
            } else {
                active.remove(number);
            }
        }
        from = at;
    }
    Ok(found)
}
