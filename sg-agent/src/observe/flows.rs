//! One live flow on one line: what `flows` shows.

use std::collections::HashMap;

use serde::Serialize;
use sg_common::{
    conntrack::State,
    flow::Traffic,
    transport::{ICMP, ICMPV6},
};

use super::human;
use crate::{
    connection::Connection,
    dataplane::{live_flows::LiveFlow, manifest::Manifest},
    policy::{Direction, IcmpVersion, PortProtocol},
};

/// What a generation calls what flows have numbers for.
pub struct FlowNames {
    rules: HashMap<u32, String>,
    interfaces: HashMap<u16, Vec<String>>,
}

impl FlowNames {
    /// The names of a generation.
    #[must_use]
    pub fn new(manifest: &Manifest) -> Self {
        let rules = manifest.rules.iter();
        let attachments = manifest.attachments.iter();
        Self {
            rules: rules
                .map(|rule| (rule.slot, rule.id().to_string()))
                .collect(),
            interfaces: attachments
                .map(|attachment| (attachment.zone, attachment.interfaces.clone()))
                .collect(),
        }
    }

    /// The rule that allows a flow; `None` if it lives on without one, or if
    /// the rule is gone and no packet came since.
    #[must_use]
    pub fn rule_of(&self, flow: &LiveFlow) -> Option<&str> {
        let slot = flow.entry.rule()?.slot();
        self.rules.get(&slot).map(String::as_str)
    }
}

/// The state of a flow; `None` for a number that this version does not know.
#[must_use]
pub fn state_of(flow: &LiveFlow) -> Option<State> {
    flow.entry.connection().state.state()
}

/// One flow, as JSON has it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FlowLine<'a> {
    /// A time-out's name.
    pub state: &'static str,
    /// Of the packet that opened it.
    pub direction: Direction,
    /// A name, or a number.
    pub protocol: String,
    /// The protected side's address.
    pub local: String,
    /// Its port, or the identifier of an ICMP echo.
    pub local_port: u16,
    /// The peer's address.
    pub remote: String,
    /// Its port.
    pub remote_port: u16,
    /// Seconds since it was opened.
    pub age: f64,
    /// Seconds since its last packet.
    pub idle: f64,
    /// `group/direction/name`.
    pub rule: Option<&'a str>,
    /// Interfaces of its attachment, as written in the rule file.
    pub interfaces: &'a [String],
    /// What the peer sent.
    pub inbound: FlowVolume,
    /// What the host sent.
    pub outbound: FlowVolume,
}

/// What passed one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlowVolume {
    /// Packets.
    pub packets: u64,
    /// Their bytes, with link-layer headers.
    pub bytes: u64,
}

impl From<Traffic> for FlowVolume {
    fn from(Traffic { packets, bytes }: Traffic) -> Self {
        Self { packets, bytes }
    }
}

impl<'a> FlowLine<'a> {
    /// The line of a flow.
    #[must_use]
    pub fn new(flow: &LiveFlow, names: &'a FlowNames) -> Self {
        let Connection {
            opened_by_host,
            protocol,
            local,
            local_port,
            remote,
            remote_port,
        } = flow.connection;
        let (sent, received) = (flow.entry.sent.into(), flow.entry.received.into());
        let (outbound, inbound) = if opened_by_host {
            (sent, received)
        } else {
            (received, sent)
        };
        let interfaces = names.interfaces.get(&flow.zone);
        Self {
            state: state_of(flow).map_or("unknown", State::name),
            direction: flow.connection.direction(),
            protocol: protocol_name(protocol),
            local: local.to_string(),
            local_port,
            remote: remote.to_string(),
            remote_port,
            age: flow.age().as_secs_f64(),
            idle: flow.idle().as_secs_f64(),
            rule: names.rule_of(flow),
            interfaces: interfaces.map_or(&[], Vec::as_slice),
            inbound,
            outbound,
        }
    }
}

/// The heading of [`flow_row`]s.
#[must_use]
pub fn flow_heading() -> String {
    let (inbound, outbound) = ("inbound", "outbound");
    format!(
        "{:<15} {:<9} {:<6} {:<40} {:<40} {:>7} {:>7} {inbound:>16} {outbound:>16}  rule\n",
        "state", "opened", "proto", "local", "remote", "age", "idle"
    )
}

/// A flow for people. Columns have a fixed width: they are written before it is
/// known what is to come.
#[must_use]
pub fn flow_row(flow: &LiveFlow, names: &FlowNames) -> String {
    let line = FlowLine::new(flow, names);
    let opened = match line.direction {
        Direction::Inbound => "by peer",
        Direction::Outbound => "by host",
    };
    let [local, remote] = [
        (flow.connection.local, line.local_port),
        (flow.connection.remote, line.remote_port),
    ]
    .map(|(address, port)| match port {
        0 => address.to_string(),
        _ => std::net::SocketAddr::new(address, port).to_string(),
    });
    let volume = |volume: FlowVolume| {
        format!(
            "{} / {}",
            human::count(volume.packets),
            human::bytes(volume.bytes)
        )
    };
    format!(
        "{:<15} {opened:<9} {:<6} {local:<40} {remote:<40} {:>7} {:>7} {:>16} {:>16}  {}\n",
        line.state,
        line.protocol,
        human::span(flow.age()),
        human::span(flow.idle()),
        volume(line.inbound),
        volume(line.outbound),
        line.rule.unwrap_or("-")
    )
}

fn protocol_name(number: u8) -> String {
    let with_ports = [PortProtocol::Tcp, PortProtocol::Udp, PortProtocol::Sctp];
    let mut with_ports = with_ports.into_iter();
    match number {
        ICMP => IcmpVersion::V4.to_string(),
        ICMPV6 => IcmpVersion::V6.to_string(),
        _ => with_ports
            .find(|protocol| protocol.number() == number)
            .map_or_else(|| number.to_string(), |protocol| protocol.to_string()),
    }
}
