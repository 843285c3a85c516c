//! Reads the flows that the kernel remembers.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;
use bytemuck::Pod;
use sg_common::{
    address::{Family, V4, V6},
    flow::{Flow, FlowKey, Opener, Stage},
};

use super::{
    collect,
    flow_counts::LiveCounts,
    flow_table::FlowTable,
    object::{FLOW_MAPS, FlowMap, Shared},
    store::Store,
};
use crate::connection::Connection;

/// A flow that has not expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFlow {
    /// The zone of its attachment.
    pub zone: u16,
    /// Its ends.
    pub connection: Connection,
    /// What is remembered of it.
    pub entry: Flow,
    /// When it was read: the kernel's monotonic time.
    pub read_ns: u64,
}

impl LiveFlow {
    fn new<A: Into<IpAddr>>(map: &FlowMap, key: FlowKey<A>, entry: Flow, read_ns: u64) -> Self {
        Self {
            zone: key.zone,
            connection: Connection {
                opened_by_host: map.opener == Opener::Host,
                protocol: key.protocol,
                local: key.local.into(),
                local_port: u16::from_be(key.local_port_be),
                remote: key.remote.into(),
                remote_port: u16::from_be(key.remote_port_be),
            },
            entry,
            read_ns,
        }
    }

    /// For how long there has been no packet of it.
    #[must_use]
    pub fn idle(&self) -> Duration {
        Duration::from_nanos(self.read_ns.saturating_sub(self.entry.last_seen_ns))
    }

    /// How long ago it was opened.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_nanos(self.read_ns.saturating_sub(self.entry.opened_ns))
    }
}

/// Shows every flow of the pinned maps, until there is an error; none if there
/// are no maps. What is in memory at once does not depend on how many there
/// are.
///
/// # Errors
/// The maps can't be read, or `each` fails.
pub fn visit(
    store: &Store,
    shared: &Shared,
    mut each: impl FnMut(LiveFlow) -> Result<()>,
) -> Result<()> {
    for map in &FLOW_MAPS {
        match map.family {
            Family::V4 => visit_map::<V4>(store, map, shared, &mut each)?,
            Family::V6 => visit_map::<V6>(store, map, shared, &mut each)?,
        }
    }
    Ok(())
}

fn visit_map<A>(
    store: &Store,
    map: &FlowMap,
    shared: &Shared,
    each: &mut impl FnMut(LiveFlow) -> Result<()>,
) -> Result<()>
where
    A: Copy + Into<IpAddr>,
    FlowKey<A>: Pod,
{
    let Some(mut table) = FlowTable::<A>::open(store, map)? else {
        return Ok(());
    };
    loop {
        let (entries, is_last) = table.read()?;
        let now_ns = collect::now_ns()?;
        let live = entries.filter(|(_, flow)| !collect::is_expired(flow, shared, now_ns));
        for (key, flow) in live {
            each(LiveFlow::new(map, key, flow, now_ns))?;
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Forgets the live flows that `is_chosen`; returns how many there were.
///
/// # Errors
/// The maps can't be read, or the kernel refuses.
pub fn forget(
    store: &Store,
    shared: &Shared,
    is_chosen: impl Fn(&LiveFlow) -> bool,
) -> Result<usize> {
    let mut forgotten = 0;
    for map in &FLOW_MAPS {
        forgotten += match map.family {
            Family::V4 => forget_in::<V4>(store, map, shared, &is_chosen)?,
            Family::V6 => forget_in::<V6>(store, map, shared, &is_chosen)?,
        };
    }
    Ok(forgotten)
}

fn forget_in<A>(
    store: &Store,
    map: &FlowMap,
    shared: &Shared,
    is_chosen: &impl Fn(&LiveFlow) -> bool,
) -> Result<usize>
where
    A: Copy + Into<IpAddr>,
    FlowKey<A>: Pod,
{
    let Some(mut table) = FlowTable::<A>::open(store, map)? else {
        return Ok(0);
    };
    let mut forgotten = 0;
    loop {
        let (entries, is_last) = table.read()?;
        let now_ns = collect::now_ns()?;
        let chosen: Vec<FlowKey<A>> = entries
            .filter(|(_, flow)| !collect::is_expired(flow, shared, now_ns))
            .filter(|(key, flow)| is_chosen(&LiveFlow::new(map, *key, *flow, now_ns)))
            .map(|(key, _)| key)
            .collect();
        for key in &chosen {
            forgotten += usize::from(table.remove(key)?);
        }
        if is_last {
            break;
        }
    }
    // How full the other tables are, nobody asks.
    if forgotten > 0 && map.stage == Stage::Established {
        LiveCounts::open(store)?.collected(map, forgotten as u64);
    }
    Ok(forgotten)
}
