//! Tells both ends of TCP connections that their rule is gone
//! (`on_revoke = "reset"`): each gets a RST that looks like the other's.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail};
use etherparse::PacketBuilder;
use sg_common::{
    classify::OnRevoke,
    conntrack::{Sequence, State},
    transport::TCP,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    connection::Connection,
    dataplane::{
        live_flows::{self, LiveFlow},
        live_tables::LiveTables,
        manifest::Manifest,
        object::Shared,
        store::Store,
    },
    policy::Mode,
};

/// `IPPROTO_RAW`: what is sent has its IP header (raw(7)).
const WITH_HEADER: i32 = 255;
/// As Linux sends RSTs.
const HOP_LIMIT: u8 = 64;

/// Resets the connections that the tables in force no longer allow; says how
/// many.
///
/// The programs let a RST of such a connection pass. The end at this host is
/// reached over the loopback device, one behind it by its route.
///
/// # Errors
/// The flows or the tables can't be read, or packets can't be sent at all.
pub fn revoked(store: &Store, manifest: &Manifest, shared: &Shared) -> Result<usize> {
    let mut tables = HashMap::new();
    for attachment in &manifest.attachments {
        if attachment.resets
            && attachment.mode == Mode::Enforce
            && let Some(live) = LiveTables::of_zone(store, manifest.generation, attachment.zone)?
        {
            tables.insert(attachment.zone, live);
        }
    }
    if tables.is_empty() {
        return Ok(0);
    }
    let mut revoked = Vec::new();
    live_flows::visit(store, shared, |flow| {
        let tables = tables.get(&flow.zone).map(LiveTables::words);
        let is_revoked = |tables| is_open(&flow) && !flow.connection.passes(tables);
        if flow.entry.on_revoke() == OnRevoke::Reset && tables.is_some_and(is_revoked) {
            revoked.push(flow);
        }
        Ok(())
    })?;
    if !revoked.is_empty() {
        let sender = Sender::new()?;
        for flow in &revoked {
            sender.reset(flow);
        }
    }
    Ok(revoked.len())
}

/// What a person is told of it.
#[must_use]
pub fn note(reset: Result<usize>) -> Option<String> {
    match reset {
        Ok(0) => None,
        Ok(1) => Some("1 connection was reset".to_owned()),
        Ok(number) => Some(format!("{number} connections were reset")),
        Err(error) => Some(format!("no connection could be reset: {error:#}")),
    }
}

fn is_open(flow: &LiveFlow) -> bool {
    let state = flow.entry.connection().state.state();
    flow.connection.protocol == TCP
        && matches!(state, Some(State::TcpEstablished | State::TcpClosing))
}

struct Sender {
    v4: Socket,
    v6: Option<Socket>,
}

impl Sender {
    fn new() -> Result<Self> {
        let protocol = Some(Protocol::from(WITH_HEADER));
        let open = |domain| Socket::new(domain, Type::RAW, protocol);
        Ok(Self {
            v4: open(Domain::IPV4).context("opening a raw socket")?,
            // There are hosts without IPv6.
            v6: open(Domain::IPV6).ok(),
        })
    }

    fn reset(&self, flow: &LiveFlow) {
        let Connection {
            local,
            local_port,
            remote,
            remote_port,
            opened_by_host,
            ..
        } = flow.connection;
        let (opener, other) = (flow.entry.opener, flow.entry.other);
        let (ours, theirs) = if opened_by_host {
            (opener, other)
        } else {
            (other, opener)
        };
        let (here, there) = ((local, local_port), (remote, remote_port));
        for (from, to, sent, received) in [(here, there, ours, theirs), (there, here, theirs, ours)]
        {
            for number in numbers(sent) {
                if let Err(error) = self.send(from, to, number, received.sent) {
                    log::debug!("no RST to {}: {error:#}", to.0);
                }
            }
        }
    }

    fn send(&self, from: (IpAddr, u16), to: (IpAddr, u16), number: u32, ack: u32) -> Result<()> {
        let (socket, builder) = match (from.0, to.0) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => (
                Some(&self.v4),
                PacketBuilder::ipv4(source.octets(), destination.octets(), HOP_LIMIT),
            ),
            (IpAddr::V6(source), IpAddr::V6(destination)) => (
                self.v6.as_ref(),
                PacketBuilder::ipv6(source.octets(), destination.octets(), HOP_LIMIT),
            ),
            _ => bail!("the ends are not of one family"),
        };
        let mut packet = Vec::new();
        builder
            .tcp(from.1, to.1, number, 0)
            .rst()
            .ack(ack)
            .write(&mut packet, &[])?;
        let socket = socket.context("no raw socket")?;
        // Of a raw socket's address only the host counts.
        socket.send_to(&packet, &SocketAddr::new(to.0, 0).into())?;
        Ok(())
    }
}

/// The numbers that the receiver may expect next: a RST counts only with that
/// very one (RFC 5961 section 3.2), and what was sent last may not be there.
fn numbers(sequence: Sequence) -> impl Iterator<Item = u32> {
    let last = (sequence.sent != sequence.acknowledged).then_some(sequence.sent);
    [sequence.acknowledged].into_iter().chain(last)
}
