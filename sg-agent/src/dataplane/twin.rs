//! A copy of what runs: the live tables, and of the live flows those that one
//! packet could belong to, in maps of its own. To ask it moves no counter and
//! makes no flow, because it has none of the live ones.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{Array, HashMap, Map, MapData},
    programs::ProgramInfo,
};
use bytemuck::Pod;
use sg_common::{
    address::{Family, V4, V6},
    flow::{Flow, FlowKey, Opener, PORTS},
};

use super::{
    generation,
    live_tables::LiveTables,
    manifest::{AttachmentRecord, HookRecord, Manifest},
    object::{self, FLOW_MAPS, Instance, Shared},
    plain::Plain,
    sandbox::Sandbox,
    store::Store,
};
use crate::compile::{Compiled, CompiledRule, Openings, Size};

/// The two ends of a flow, as the protected host sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The peer's address.
    pub remote: IpAddr,
    /// The protected side's; of the same family.
    pub local: IpAddr,
    /// The peer's port; 0 for protocols without.
    pub remote_port: u16,
    /// The protected side's port, or the identifier of an ICMP echo.
    pub local_port: u16,
    /// The IP protocol number.
    pub protocol: u8,
}

/// A flow that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveFlow {
    /// Whether the host opened it, not the peer.
    pub opened_by_host: bool,
    /// Its entry.
    pub entry: Flow,
}

/// Loads a copy of the programs that judge on `hook`, with the flows between
/// `ends`.
///
/// # Errors
/// The generation is no longer there, or the kernel refuses.
pub fn load(
    store: &Store,
    manifest: &Manifest,
    attachment: &AttachmentRecord,
    hook: &HookRecord,
    shared: &Shared,
    ends: &Ends,
) -> Result<(Sandbox, Vec<LiveFlow>)> {
    let name = hook.program_name();
    let pin = generation::program_pin(store, manifest.generation, attachment.zone, name);
    let (words, revision) = read_tables(&ProgramInfo::from_pin(&pin).with_context(|| {
        format!(
            "opening the program `{}`; was another generation applied just now?",
            pin.display()
        )
    })?)?;
    let compiled = Compiled {
        words,
        flags: attachment.flags,
        rules: rules(manifest, attachment),
        openings: Openings::default(),
        size: Size::default(),
    };
    let mut sandbox = Sandbox::load_instance(&Instance {
        compiled: &compiled,
        extra_flags: 0,
        revision,
        zone: attachment.zone,
        shared,
    })?;
    copy_ports(store, &mut sandbox)?;
    let flows = match (ends.remote, ends.local) {
        (IpAddr::V4(remote), IpAddr::V4(local)) => {
            let (remote, local) = (V4::from(remote.octets()), V4::from(local.octets()));
            copy_flows(
                store,
                &mut sandbox,
                Family::V4,
                &key(attachment.zone, ends, remote, local),
            )?
        }
        (IpAddr::V6(remote), IpAddr::V6(local)) => {
            let (remote, local) = (V6::from(remote.octets()), V6::from(local.octets()));
            copy_flows(
                store,
                &mut sandbox,
                Family::V6,
                &key(attachment.zone, ends, remote, local),
            )?
        }
        (remote, local) => anyhow::bail!("`{remote}` and `{local}` are not of one family"),
    };
    Ok((sandbox, flows))
}

/// The words of the tables that a program runs with, and their revision.
fn read_tables(program: &ProgramInfo) -> Result<(Vec<u32>, u32)> {
    /// Tables change in place, word by word. So often a change in the midst of
    /// reading is put up with.
    const TRIES: usize = 10;

    let mut tables = LiveTables::of_program(program)?;
    for _ in 0..TRIES {
        let before = *tables.header_mut();
        let words = tables.words_mut().to_vec();
        if *tables.header_mut() == before {
            return Ok((words, before.revision));
        }
    }
    anyhow::bail!("the tables changed {TRIES} times while they were read; try again")
}

/// The rules of an attachment. All that have a counter are named, so that each
/// verdict finds its own.
fn rules(manifest: &Manifest, attachment: &AttachmentRecord) -> Vec<CompiledRule> {
    let rules = manifest.rules.iter();
    rules
        .filter(|rule| attachment.groups.contains(&rule.group))
        .map(|rule| CompiledRule {
            id: rule.id(),
            slot: rule.slot,
            tracked: rule.tracked.unwrap_or(false),
        })
        .collect()
}

fn key<A>(zone: u16, ends: &Ends, remote: A, local: A) -> FlowKey<A> {
    FlowKey {
        remote,
        local,
        remote_port_be: ends.remote_port.to_be(),
        local_port_be: ends.local_port.to_be(),
        zone,
        protocol: ends.protocol,
        reserved: 0,
    }
}

/// Copies the entries of `key` from the maps of its family.
fn copy_flows<A>(
    store: &Store,
    sandbox: &mut Sandbox,
    family: Family,
    key: &FlowKey<A>,
) -> Result<Vec<LiveFlow>>
where
    FlowKey<A>: Pod,
{
    let mut found = Vec::new();
    for map in FLOW_MAPS.iter().filter(|map| map.family == family) {
        let live: HashMap<_, Plain<FlowKey<A>>, Plain<Flow>> =
            HashMap::try_from(Map::HashMap(open(store, map.name)?))?;
        let Ok(Plain(entry)) = live.get(&Plain(*key), 0) else {
            continue;
        };
        let mut copy: HashMap<_, Plain<FlowKey<A>>, Plain<Flow>> =
            HashMap::try_from(sandbox.map_mut(map.name)?)?;
        copy.insert(Plain(*key), Plain(entry), 0)?;
        found.push(LiveFlow {
            opened_by_host: map.opener == Opener::Host,
            entry,
        });
    }
    Ok(found)
}

/// Copies which local ports the host ever opened a flow from.
fn copy_ports(store: &Store, sandbox: &mut Sandbox) -> Result<()> {
    let data = open(store, object::HOST_PORTS)?;
    let live: Array<_, Plain<[u8; PORTS]>> = Array::try_from(Map::Array(data))?;
    let ports = live.get(&0, 0)?;
    let mut copy: Array<_, Plain<[u8; PORTS]>> =
        Array::try_from(sandbox.map_mut(object::HOST_PORTS)?)?;
    ensure!(copy.len() == 1, "found {} values of ports", copy.len());
    Ok(copy.set(0, ports, 0)?)
}

fn open(store: &Store, name: &str) -> Result<MapData> {
    let path = store.maps().join(name);
    MapData::from_pin(&path).with_context(|| format!("opening `{}`", path.display()))
}
