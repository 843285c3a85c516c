//! Many established flows at once, written into the pinned table.

use std::net::Ipv4Addr;

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData};
use sg_agent::dataplane::{
    collect,
    plain::Plain,
    store::{Places, Store},
};
use sg_common::{
    address::V4,
    classify::{Match, OnRevoke},
    conntrack::State,
    flow::{Flow, FlowKey, FlowKey4},
    transport::TCP,
};

use crate::{netns::Netns, topology::HOST};

/// Of the first attachment.
const ZONE: u16 = 1;
/// The host's port of all of them.
pub const LOCAL_PORT: u16 = 40_000;
/// The peers' port of all of them.
pub const REMOTE_PORT: u16 = 7000;

/// Adds so many TCP connections that the host of a namespace opened, each with
/// a peer of its own: 10.0.0.0 and so on.
///
/// # Errors
///
/// If nothing is enforced there, or if there is no room.
pub fn by_host(namespace: &Netns, count: u32) -> Result<()> {
    namespace.enter(|| {
        let store = Store::locate(&Places::default())?;
        let map = MapData::from_pin(store.maps().join("HOST_FLOWS_4"))?;
        let mut map: HashMap<_, Plain<FlowKey4>, Plain<Flow>> =
            HashMap::try_from(Map::HashMap(map))?;
        let now_ns = collect::now_ns()?;
        let flow = Flow {
            last_seen_ns: now_ns,
            opened_ns: now_ns,
            state: State::TcpEstablished as u32,
            rule: Match::new(0, false, OnRevoke::Recheck).word(),
            ..Flow::default()
        };
        for n in 0..count {
            map.insert(Plain(key(n)), Plain(flow), 0)?;
        }
        Ok(())
    })
}

/// The nth peer.
#[must_use]
pub fn peer(n: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + n)
}

fn key(n: u32) -> FlowKey4 {
    FlowKey {
        remote: V4::from(peer(n).octets()),
        local: V4::from(HOST.v4.octets()),
        remote_port_be: REMOTE_PORT.to_be(),
        local_port_be: LOCAL_PORT.to_be(),
        zone: ZONE,
        protocol: TCP,
        reserved: 0,
    }
}
