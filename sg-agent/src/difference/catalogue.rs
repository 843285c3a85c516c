//! The lists of prefixes of two policies, each once, whichever of them names
//! it: two policies share nearly everything.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;

use super::addresses::Addresses;
use crate::{
    compile::Family,
    policy::{AddressSet, IcmpVersion, Peer, Rule, Service},
};

/// A list in a [`Catalogue`]. Equal lists have equal numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ListId(u32);

/// Whom a rule is for: its lists, and the prefixes that it has of its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peers {
    /// Ascending, each once.
    pub(super) lists: Vec<ListId>,
    /// Sorted, each once.
    pub(super) own: Vec<IpNet>,
    /// If its packets have only one of them.
    family: Option<Family>,
}

/// Every list that was asked for.
#[derive(Default)]
pub(super) struct Catalogue<'p> {
    lists: Vec<&'p [IpNet]>,
    by_place: HashMap<*const AddressSet, ListId>,
    by_content: HashMap<&'p [IpNet], ListId>,
    addresses: HashMap<Peers, Arc<Addresses>>,
}

impl<'p> Catalogue<'p> {
    /// The number of a set. It is looked at once, however many rules name it.
    fn list(&mut self, set: &'p Arc<AddressSet>) -> ListId {
        let place = Arc::as_ptr(set);
        if let Some(known) = self.by_place.get(&place) {
            return *known;
        }
        let next = ListId(u32::try_from(self.lists.len()).unwrap_or(u32::MAX));
        let id = *self.by_content.entry(&set.prefixes).or_insert(next);
        if id == next {
            self.lists.push(&set.prefixes);
        }
        self.by_place.insert(place, id);
        id
    }

    pub(super) fn prefixes(&self, list: ListId) -> &'p [IpNet] {
        self.lists.get(list.0 as usize).copied().unwrap_or_default()
    }

    pub(super) fn peers(&mut self, rule: &'p Rule) -> Peers {
        let mut peers = Peers {
            lists: Vec::new(),
            own: Vec::new(),
            family: family(&rule.service),
        };
        for peer in &rule.peers {
            match peer {
                Peer::Prefix(prefix) => peers.own.push(*prefix),
                Peer::Set(set) | Peer::Group(set) => peers.lists.push(self.list(set)),
            }
        }
        peers.lists.sort_unstable();
        peers.lists.dedup();
        peers.own.sort_unstable();
        peers.own.dedup();
        peers
    }

    /// The addresses of peers, worked out once.
    pub(super) fn addresses(&mut self, peers: &Peers) -> Arc<Addresses> {
        if let Some(known) = self.addresses.get(peers) {
            return Arc::clone(known);
        }
        let lists = peers.lists.iter().flat_map(|list| self.prefixes(*list));
        let all = Addresses::new(lists.chain(&peers.own));
        let addresses = Arc::new(match peers.family {
            Some(family) => all.only(family),
            None => all,
        });
        self.addresses.insert(peers.clone(), Arc::clone(&addresses));
        addresses
    }
}

fn family(service: &Service) -> Option<Family> {
    match service {
        Service::Icmp {
            version: IcmpVersion::V4,
            ..
        } => Some(Family::V4),
        Service::Icmp {
            version: IcmpVersion::V6,
            ..
        } => Some(Family::V6),
        Service::All | Service::Protocol(_) | Service::Ports { .. } => None,
    }
}
