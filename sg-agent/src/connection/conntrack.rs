//! What the kernel's own connection tracking knows, as packets on the wire have
//! it: before it translates a peer's destination, after it translates a source.

use std::{net::IpAddr, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple,
        Protocol, Status, Tuple,
    },
};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use sg_common::transport::{TCP, UDP};

use super::Connection;

/// Only there while connection tracking is loaded. To ask without it would load
/// it.
const LOADED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// `TCP_CONNTRACK_ESTABLISHED` (`linux/netfilter/nf_conntrack_tcp.h`).
const ESTABLISHED: u8 = 3;

/// The established TCP connections and the answered UDP exchanges that it
/// tracks between others and an address for which `is_local`; none if it is not
/// loaded.
///
/// # Errors
/// The kernel refuses, or says what can't be read.
pub(super) fn connections(is_local: impl Fn(IpAddr) -> bool) -> Result<Vec<Connection>> {
    if !Path::new(LOADED).exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for family in [NetfilterProtoFamily::IPv4, NetfilterProtoFamily::IPv6] {
        dump(family, |attributes| {
            found.extend(connection(&attributes, &is_local));
        })?;
    }
    Ok(found)
}

fn dump(family: NetfilterProtoFamily, mut each: impl FnMut(Vec<ConntrackAttribute>)) -> Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER).context("opening a netlink socket")?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let question = NetfilterMessage::new(
        NetfilterHeader::new(family, 0, 0),
        ConntrackMessage::Get(Vec::new()),
    );
    let mut question = NetlinkMessage::new(header, NetlinkPayload::from(question));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                .context("reading what connection tracking says")?;
            let length = usize::try_from(message.header.length)?;
            ensure!(length > 0, "an empty message");
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => bail!("connection tracking: {}", error.to_io()),
                NetlinkPayload::InnerMessage(NetfilterMessage {
                    inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                    ..
                }) => each(attributes),
                _ => {}
            }
        }
    }
}

/// One way of a connection, by the packets that go it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

fn connection(
    attributes: &[ConntrackAttribute],
    is_local: impl Fn(IpAddr) -> bool,
) -> Option<Connection> {
    let (mut there, mut back) = (None, None);
    let (mut state, mut answered) = (None, false);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(tuples) => there = way(tuples),
            ConntrackAttribute::CtaTupleReply(tuples) => back = way(tuples),
            ConntrackAttribute::CtaProtoInfo(infos) => state = tcp_state(infos),
            ConntrackAttribute::CtaStatus(status) => answered = status.contains(Status::SeenReply),
            _ => {}
        }
    }
    let (there, back) = (there?, back?);
    let goes_on = match there.protocol {
        TCP => state == Some(ESTABLISHED),
        UDP => answered,
        _ => false,
    };
    if !goes_on {
        return None;
    }
    let between = |opened_by_host, local: (IpAddr, u16), remote: (IpAddr, u16)| Connection {
        opened_by_host,
        protocol: there.protocol,
        local: local.0,
        local_port: local.1,
        remote: remote.0,
        remote_port: remote.1,
    };
    match (is_local(there.destination.0), is_local(back.destination.0)) {
        // The host talks to itself, or forwards without translating: then which
        // side is protected is not known here.
        (true, true) | (false, false) => None,
        (true, false) => Some(between(false, there.destination, there.source)),
        (false, true) => Some(between(true, back.destination, back.source)),
    }
}

fn way(tuples: &[Tuple]) -> Option<Way> {
    let (mut source, mut destination) = (None, None);
    let (mut source_port, mut destination_port, mut protocol) = (None, None, None);
    for tuple in tuples {
        match tuple {
            Tuple::Ip(parts) => {
                for part in parts {
                    match part {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(Protocol::Tcp) => protocol = Some(TCP),
                        ProtoTuple::Protocol(Protocol::Udp) => protocol = Some(UDP),
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Way {
        source: (source?, source_port?),
        destination: (destination?, destination_port?),
        protocol: protocol?,
    })
}

fn tcp_state(infos: &[ProtoInfo]) -> Option<u8> {
    infos.iter().find_map(|info| match info {
        ProtoInfo::TCP(parts) => parts.iter().find_map(|part| match part {
            ProtoInfoTCP::State(state) => Some(*state),
            _ => None,
        }),
        _ => None,
    })
}
