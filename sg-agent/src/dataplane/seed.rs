//! Puts flows into the tables that were there before the programs.

use std::{net::IpAddr, os::fd::AsFd as _, sync::atomic::AtomicU8, sync::atomic::Ordering};

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use bytemuck::Pod;
use memmap2::MmapOptions;
use sg_common::{
    address::{Family, V4, V6},
    conntrack::{FlowState, State},
    flow::{Flow, FlowKey, Opener, PORTS, Stage},
    transport::TCP,
};

use super::{
    collect,
    flow_counts::LiveCounts,
    object::{self, FLOW_MAPS, FlowMap},
    plain::Plain,
    store::Store,
};
use crate::connection::Connection;

/// A flow that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The zone of its attachment.
    pub zone: u16,
    /// Its ends: TCP or UDP.
    pub connection: Connection,
    /// The word of the rule that allows it.
    pub rule: u32,
}

/// Makes entries, as if tables of this revision had allowed them just now; says
/// how many. What has an entry keeps it, and what finds no room is left out.
///
/// # Errors
/// The kernel refused for another reason.
pub(super) fn insert(store: &Store, seeds: &[Seed], revision: u32) -> Result<u32> {
    if seeds.is_empty() {
        return Ok(0);
    }
    mark_ports(store, seeds)?;
    let counts = LiveCounts::open(store)?;
    let now_ns = collect::now_ns()?;
    let mut all = 0;
    for map in FLOW_MAPS
        .iter()
        .filter(|map| map.stage == Stage::Established)
    {
        let entries = seeds
            .iter()
            .filter(|seed| seed.connection.opened_by_host == (map.opener == Opener::Host));
        let made = match map.family {
            Family::V4 => insert_into(
                store,
                map,
                &counts,
                entries.filter_map(|seed| v4(seed, now_ns, revision)),
            )?,
            Family::V6 => insert_into(
                store,
                map,
                &counts,
                entries.filter_map(|seed| v6(seed, now_ns, revision)),
            )?,
        };
        all += made;
    }
    Ok(all)
}

fn insert_into<A>(
    store: &Store,
    map: &FlowMap,
    counts: &LiveCounts,
    entries: impl Iterator<Item = (FlowKey<A>, Flow)>,
) -> Result<u32>
where
    FlowKey<A>: Pod,
{
    const BPF_NOEXIST: u64 = 1;

    let path = store.maps().join(map.name);
    let data = MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))?;
    let mut flows: HashMap<_, Plain<FlowKey<A>>, Plain<Flow>> =
        HashMap::try_from(Map::HashMap(data))?;
    let mut made = 0;
    for (key, flow) in entries {
        // Counted first: an agent that is killed in between leaves a table that
        // looks fuller than it is, and not one that looks empty, which nobody
        // would walk through.
        counts.seeded(map);
        match flows.insert(Plain(key), Plain(flow), BPF_NOEXIST) {
            Ok(()) => made += 1,
            // It may be there already, or there is no room.
            Err(_) => counts.not_seeded(map),
        }
    }
    Ok(made)
}

fn v4(seed: &Seed, now_ns: u64, revision: u32) -> Option<(FlowKey<V4>, Flow)> {
    match (seed.connection.remote, seed.connection.local) {
        (IpAddr::V4(remote), IpAddr::V4(local)) => {
            let ends = (V4::from(remote.octets()), V4::from(local.octets()));
            Some((seed.key(ends), seed.flow(now_ns, revision)))
        }
        _ => None,
    }
}

fn v6(seed: &Seed, now_ns: u64, revision: u32) -> Option<(FlowKey<V6>, Flow)> {
    match (seed.connection.remote, seed.connection.local) {
        (IpAddr::V6(remote), IpAddr::V6(local)) => {
            let ends = (V6::from(remote.octets()), V6::from(local.octets()));
            Some((seed.key(ends), seed.flow(now_ns, revision)))
        }
        _ => None,
    }
}

impl Seed {
    fn key<A>(&self, (remote, local): (A, A)) -> FlowKey<A> {
        FlowKey {
            remote,
            local,
            remote_port_be: self.connection.remote_port.to_be(),
            local_port_be: self.connection.local_port.to_be(),
            zone: self.zone,
            protocol: self.connection.protocol,
            reserved: 0,
        }
    }

    /// Nothing is known of a connection's numbers: its next segment tells.
    fn flow(&self, now_ns: u64, revision: u32) -> Flow {
        let state = if self.connection.protocol == TCP {
            State::TcpEstablished
        } else {
            State::UdpStream
        };
        Flow {
            last_seen_ns: now_ns,
            opened_ns: now_ns,
            state: FlowState::new(state).0,
            rule: self.rule,
            revision,
            ..Flow::default()
        }
    }
}

/// Programs look for flows of the host only at local ports that it had.
fn mark_ports(store: &Store, seeds: &[Seed]) -> Result<()> {
    let path = store.maps().join(object::HOST_PORTS);
    let map = MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))?;
    let mut options = MmapOptions::new();
    options.len(PORTS);
    // SAFETY: the kernel keeps a map's memory as long as it is mapped, at its
    // full size, and bytes of it are written one by one.
    let mut memory = unsafe { options.map_mut(&map.fd().as_fd()) }.context("mapping the ports")?;
    for seed in seeds.iter().filter(|seed| seed.connection.opened_by_host) {
        let byte: *mut u8 = &raw mut memory[usize::from(seed.connection.local_port.to_be())];
        // SAFETY: a byte of the mapped memory, which only grows to 1.
        unsafe { AtomicU8::from_ptr(byte) }.store(1, Ordering::Relaxed);
    }
    Ok(())
}
