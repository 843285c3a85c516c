//! What is asked of the rules about one packet.

use crate::{
    address::Address,
    classify::{Answer, Match, Service},
    config::{Direction, flag},
    conntrack::{End, State},
    decide::{Host, Kernel},
    flow::{FlowKey, Opener},
    flow_query::{FlowQuery, Found},
    network::Headers,
    packet::Size,
    tables::BrokenTables,
    transport::{ICMP, ICMPV6, IcmpRole, TCP, TcpFlags, Transport, UDP},
    verdict::{FlowKind, Reason, Verdict},
};

/// One IP packet, seen from the protected host: what is asked of the tables.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a, A> {
    pub(crate) direction: Direction,
    pub(crate) sender: Opener,
    pub(crate) headers: &'a Headers<A>,
    pub(crate) size: Size,
}

pub(crate) type Step<T> = Result<T, BrokenTables>;

impl<'a, A: Address> Query<'a, A> {
    #[inline(always)]
    pub(crate) fn new(direction: Direction, headers: &'a Headers<A>, size: Size) -> Self {
        Self {
            direction,
            sender: Opener::sender(direction),
            headers,
            size,
        }
    }

    #[inline(always)]
    pub(crate) fn transport(&self) -> &'a Transport {
        &self.headers.transport
    }

    /// The key of its flow, if it has one.
    #[inline(always)]
    pub(crate) fn key<K: Kernel>(&self, kernel: &K) -> FlowKey<A> {
        let Self {
            direction, headers, ..
        } = *self;
        let transport = self.transport();
        let (source, destination) = match (transport.icmp_role(), direction) {
            (IcmpRole::NotIcmp, _) => (transport.source_port_be, transport.destination_port_be),
            (_, Direction::Inbound) => (0, transport.icmp_identifier_be),
            (_, Direction::Outbound) => (transport.icmp_identifier_be, 0),
        };
        let (remote, local, remote_port_be, local_port_be) = match direction {
            Direction::Inbound => (headers.source, headers.destination, source, destination),
            Direction::Outbound => (headers.destination, headers.source, destination, source),
        };
        FlowKey {
            remote,
            local,
            remote_port_be,
            local_port_be,
            zone: kernel.zone(),
            protocol: transport.protocol,
            reserved: 0,
        }
    }

    #[inline(always)]
    fn peer(&self) -> &'a A {
        match self.direction {
            Direction::Inbound => &self.headers.source,
            Direction::Outbound => &self.headers.destination,
        }
    }

    /// What untracked rules allow has no entry of its own: its replies would
    /// have been untracked replies. So where a packet is likely to be of that
    /// kind the tables are asked before the flows, and the outcome is the same.
    #[inline(always)]
    pub(crate) fn decide<K: Host<A>>(self, kernel: &K) -> Step<Verdict> {
        let of_a_server = self.is_of_a_server(kernel);
        let mut answer = Answer::none();
        if of_a_server {
            if let Some(verdict) = self.untracked_reply(kernel)? {
                return Ok(verdict);
            }
            answer = self.rule(kernel);
            match answer.rule()? {
                Some(rule) if rule.is_untracked() => return Ok(self.untracked(rule)),
                None if !self.may_have_entry(kernel) => return Ok(Verdict::drop(Reason::NoRule)),
                _ => {}
            }
        }
        let revision = if of_a_server {
            answer.revision()
        } else {
            kernel.revision()
        };
        let key = self.key(kernel);
        let query = FlowQuery::new(kernel, self, &key, revision);
        let found = query.find_flow(kernel, of_a_server)?;
        if let Found::Live(verdict) = found {
            return Ok(verdict);
        }
        if !of_a_server {
            if let Some(verdict) = self.untracked_reply(kernel)? {
                return Ok(verdict);
            }
            answer = self.rule(kernel);
        }
        let after_another = matches!(found, Found::Ended);
        Ok(match answer.rule()? {
            Some(rule) if rule.is_untracked() => self.untracked(rule),
            Some(rule) => query.allowed(kernel, rule, answer.revision(), after_another),
            None if matches!(found, Found::Revoked) => Verdict::drop(Reason::Revoked),
            None => Verdict::drop(Reason::NoRule),
        })
    }

    /// Whether the local port is one that the host does not open flows from. An
    /// ICMP reply can have an entry and be allowed by an untracked rule, too.
    #[inline(always)]
    fn is_of_a_server<K: Kernel>(&self, kernel: &K) -> bool {
        self.transport().icmp_role() == IcmpRole::NotIcmp && !self.is_of_ephemeral_port(kernel)
    }

    /// Whether a flow with a server's port can have an entry. Most servers' ports
    /// are none that the host ever opened a flow from.
    #[inline(always)]
    fn may_have_entry<K: Kernel>(&self, kernel: &K) -> bool {
        has(kernel, flag::TRACKS_INBOUND)
            || has(kernel, flag::TRACKS_OUTBOUND)
                && kernel.has_opened_from(self.local_port().to_be())
    }

    /// Whether the local port is one that the host opens flows from.
    #[inline(always)]
    fn is_of_ephemeral_port<K: Kernel>(&self, kernel: &K) -> bool {
        let (first, last) = kernel.ephemeral_ports();
        self.local_port().wrapping_sub(first) <= last.wrapping_sub(first)
    }

    #[inline(always)]
    fn local_port(&self) -> u16 {
        let transport = self.transport();
        u16::from_be(match self.direction {
            Direction::Inbound => transport.destination_port_be,
            Direction::Outbound => transport.source_port_be,
        })
    }

    /// The first rule that allows this packet.
    #[inline(always)]
    fn rule<K: Host<A>>(&self, kernel: &K) -> Answer {
        kernel.classify(self.direction, self.peer(), self.transport().service())
    }

    /// A rule allows it that needs no entries.
    #[inline(always)]
    fn untracked(&self, rule: Match) -> Verdict {
        let transport = self.transport();
        let is_syn = transport.protocol == TCP && transport.tcp_flags.opens();
        Verdict::rule(rule.slot(), FlowKind::Untracked, is_syn)
    }

    /// A reply to what an untracked rule of the other direction allows.
    #[inline(always)]
    pub(crate) fn untracked_reply<K: Host<A>>(&self, kernel: &K) -> Step<Option<Verdict>> {
        let flag = match self.direction {
            Direction::Inbound => flag::UNTRACKED_OUTBOUND,
            Direction::Outbound => flag::UNTRACKED_INBOUND,
        };
        if !has(kernel, flag) {
            return Ok(None);
        }
        Ok(
            match self.rule_of_flow(kernel, self.sender.other()).rule()? {
                Some(rule) if rule.is_untracked() => {
                    Some(Verdict::reply(rule.slot(), FlowKind::Untracked))
                }
                _ => None,
            },
        )
    }

    /// The rule that allows the packet that opened this packet's flow.
    #[inline(always)]
    pub(crate) fn rule_of_flow<K: Host<A>>(&self, kernel: &K, opener: Opener) -> Answer {
        match self.service_asked_of(opener) {
            Some(service) => kernel.classify(opener.direction(), self.peer(), service),
            None => Answer::none(),
        }
    }

    #[inline(always)]
    fn service_asked_of(&self, opener: Opener) -> Option<Service> {
        if opener == self.sender {
            Some(self.transport().service())
        } else {
            self.transport().requested_service()
        }
    }

    /// Whether this packet can be part of a flow that `opener` opened. An echo
    /// request never matches as a reply, nor a reply as a request.
    #[inline(always)]
    pub(crate) fn can_belong_to(&self, opener: Opener) -> bool {
        match self.transport().icmp_role() {
            IcmpRole::NotIcmp => true,
            IcmpRole::EchoRequest => opener == self.sender,
            IcmpRole::EchoReply => opener != self.sender,
            IcmpRole::Other => false,
        }
    }

    /// Which end of a flow that `opener` opened sent this packet.
    #[inline(always)]
    pub(crate) fn end_of(&self, opener: Opener) -> End {
        if self.sender == opener {
            End::Opener
        } else {
            End::Other
        }
    }

    #[inline(always)]
    pub(crate) fn is_reset(&self) -> bool {
        self.transport().protocol == TCP && self.transport().tcp_flags.has(TcpFlags::RST)
    }

    /// What an allowed packet without an entry begins.
    #[inline(always)]
    pub(crate) fn beginning<K: Kernel>(&self, kernel: &K) -> Beginning {
        match (self.transport().icmp_role(), self.transport().protocol) {
            (IcmpRole::EchoRequest, _) => Beginning::Flow(State::Icmp),
            (IcmpRole::NotIcmp, TCP) => self.tcp_beginning(kernel),
            (IcmpRole::NotIcmp, UDP) => Beginning::Flow(State::UdpSingle),
            // ICMP that asks for nothing, or is of the other family.
            (IcmpRole::EchoReply | IcmpRole::Other, _) | (_, ICMP | ICMPV6) => Beginning::NoEntry,
            (IcmpRole::NotIcmp, _) => Beginning::Flow(State::Other),
        }
    }

    #[inline(always)]
    fn tcp_beginning<K: Kernel>(&self, kernel: &K) -> Beginning {
        let flags = self.transport().tcp_flags;
        if flags.opens() {
            return Beginning::Flow(State::TcpHalfOpen);
        }
        match self.direction {
            Direction::Inbound if has(kernel, flag::TCP_STRICT) => Beginning::Refused,
            _ if !flags.is_mid_stream() => Beginning::NoEntry,
            Direction::Inbound => Beginning::Flow(State::TcpEstablished),
            Direction::Outbound => {
                // Data that the host still sends on a connection that a
                // forbidden peer once opened must not open the way back.
                if self.is_of_ephemeral_port(kernel) {
                    Beginning::Flow(State::TcpEstablished)
                } else {
                    Beginning::NoEntry
                }
            }
        }
    }
}

/// What an allowed packet that belongs to no flow leaves behind.
pub(crate) enum Beginning {
    /// An entry in this state.
    Flow(State),
    /// Nothing.
    NoEntry,
    /// Nothing, and it does not pass.
    Refused,
}

/// Whether the attachment has one of these flags.
#[inline(always)]
pub(crate) fn has<K: Kernel>(kernel: &K, flag: u32) -> bool {
    kernel.flags() & flag != 0
}
