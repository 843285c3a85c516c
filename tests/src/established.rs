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
fn key(n: u32) -> FlowKey4 {
    let remote = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + n);
    FlowKey {
        remote: V4::from(remote.octets()),
        local: V4::from(HOST.v4.octets()),
        remote_port_be: 443_u16.to_be(),
        local_port_be: 40_000_u16.to_be(),
        zone: 0,
        protocol: TCP,
        reserved: 0,
    }
}
