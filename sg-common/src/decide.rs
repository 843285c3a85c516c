//! The decision for one packet: the contract's section 3, in its order.
//!
//! Each step returns a verdict or leaves the packet to the next.

use crate::{
    address::{Address, V4, V6},
    classify::{Answer, Service},
    config::Direction,
    conntrack::State,
    flow::FlowTables,
    fragment::Fragment,
    implicit::implicit,
    link::{self, Link},
    network::{Headers, Network, Payload},
    packet::{Packet, Size},
    query::Query,
    tables::BrokenTables,
    verdict::{Reason, Verdict},
};

/// What the decision asks of the place where it runs: the kernel's maps and
/// clock, or a test's.
pub trait Kernel {
    /// The revision of the tables.
    fn revision(&self) -> u32;
    /// Coarse monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;
    /// The attachment's [`flag`](crate::config::flag)s.
    fn flags(&self) -> u32;
    /// The attachment's zone.
    fn zone(&self) -> u16;
    /// The idle time-out of a state, in nanoseconds.
    fn timeout_ns(&self, state: State) -> u64;
    /// The first and the last local port that the host opens flows from
    /// (`net.ipv4.ip_local_port_range`).
    fn ephemeral_ports(&self) -> (u16, u16);
    /// Whether a flow of the host may have this local port, in network order:
    /// one had it once.
    fn has_opened_from(&self, port_be: u16) -> bool;
    /// The host is about to open a flow from this local port, in network order.
    fn opens_from(&self, port_be: u16);
}

/// The tables of one address family.
pub trait Classifier<A: Address> {
    /// The first rule of a direction that allows `service` with `peer`; see
    /// [`classify`](crate::classify::classify).
    fn classify(&self, direction: Direction, peer: &A, service: Service) -> Answer;
}

/// All that packets of one address family are judged with.
pub trait Host<A: Address>: Kernel + Classifier<A> + FlowTables<A> {}

impl<A: Address, K: Kernel + Classifier<A> + FlowTables<A>> Host<A> for K {}

/// Judges parsed packets of one address family, found in frames of one kind.
/// The kernel's programs put calls here that the verifier looks at from both
/// sides, so that what it must try is the sum of the parser's paths and the
/// decision's, not their product.
pub trait Judge<A, P: ?Sized> {
    /// As [`judge`].
    fn judge(&self, headers: &Headers<A>, size: Size) -> Verdict;
    /// As [`Network::read`], of a whole packet.
    ///
    /// # Errors
    /// As [`Network::read`].
    fn read(
        &self,
        packet: &P,
        headers: &mut Headers<A>,
        fragment: &mut Fragment,
        offset: usize,
    ) -> Result<Payload, Reason>;
    /// As [`quoted`](crate::related::quoted).
    fn quoted(&self, packet: &mut P, headers: &mut Headers<A>, payload: Payload) -> bool;
    /// As [`has_flow`](crate::related::has_flow).
    fn has_flow(&self, quoted: &Headers<A>) -> bool;
    /// Remembers a first fragment that passes; see [`fragment`](crate::fragment).
    fn remember(&self, headers: &Headers<A>, fragment: &Fragment, verdict: Verdict);
    /// The verdict for a later fragment.
    fn follow(&self, headers: &Headers<A>, fragment: &Fragment) -> Verdict;
}

/// Decides one frame; `drop_non_ip` says what to do with one that is not IP.
#[inline(always)]
pub fn decide<P, J>(packet: &mut P, drop_non_ip: bool, judge: &J) -> Verdict
where
    P: Packet + ?Sized,
    J: Judge<V4, P> + Judge<V6, P>,
{
    loop {
        let verdict = decide_once(packet, drop_non_ip, judge);
        // A malformed packet left no state behind, so it can be judged again.
        if !verdict.is_for(Reason::Malformed) || !packet.extend() {
            return verdict;
        }
    }
}

#[inline(always)]
fn decide_once<P, J>(packet: &mut P, drop_non_ip: bool, judge: &J) -> Verdict
where
    P: Packet + ?Sized,
    J: Judge<V4, P> + Judge<V6, P>,
{
    let decided = match link::parse(packet) {
        Ok(Link::V4(offset)) => decide_ip::<V4, P, J>(packet, offset as usize, judge),
        Ok(Link::V6(offset)) => decide_ip::<V6, P, J>(packet, offset as usize, judge),
        Ok(Link::Always(kind)) => Ok(Verdict::implicit(kind)),
        Ok(Link::NonIp) => Ok(Verdict::non_ip(!drop_non_ip)),
        Err(reason) => Err(reason),
    };
    decided.unwrap_or_else(Verdict::drop)
}

/// A later fragment has nothing to be judged by but the first.
#[inline(always)]
fn decide_ip<A, P, J>(packet: &mut P, offset: usize, judge: &J) -> Result<Verdict, Reason>
where
    A: Network,
    P: Packet + ?Sized,
    J: Judge<A, P>,
{
    let (mut headers, mut fragment) = (Headers::default(), Fragment::default());
    let payload = judge.read(packet, &mut headers, &mut fragment, offset)?;
    if fragment.is_later() {
        return Ok(judge.follow(&headers, &fragment));
    }
    let verdict = judge.judge(&headers, Size::of(packet));
    if fragment.is_first() {
        if verdict.passes() {
            judge.remember(&headers, &fragment, verdict);
        }
        return Ok(verdict);
    }
    // That it is about a flow comes before a rule, but an error has no flow of
    // its own and leaves nothing behind, so it may be judged first. Then its
    // headers can make room for those that it quotes: the stack is short.
    if headers.transport.is_icmp_error()
        && judge.quoted(packet, &mut headers, payload)
        && judge.has_flow(&headers)
    {
        return Ok(Verdict::related());
    }
    Ok(verdict)
}

/// Judges one parsed packet, which came in a frame of this size.
#[inline(always)]
pub fn judge<A, K>(kernel: &K, direction: Direction, headers: &Headers<A>, size: Size) -> Verdict
where
    A: Network,
    K: Host<A>,
{
    if let Some(kind) = implicit(direction, headers) {
        return Verdict::implicit(kind);
    }
    Query::new(direction, headers, size)
        .decide(kernel)
        .unwrap_or_else(|BrokenTables| Verdict::drop(Reason::Internal))
}
