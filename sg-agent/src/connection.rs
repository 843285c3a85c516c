//! Connections as this host knows them: those that the flow tables remember,
//! those of its sockets, and the caller's own.

mod addresses;
mod conntrack;
mod session;
mod socket;

use std::{collections::HashMap, fmt, net::IpAddr};

use sg_common::{
    classify::{Match, Service},
    transport::{ICMP, ICMPV6},
};

pub use self::{addresses::Addresses, session::own_session, socket::tcp_connections};
use crate::{compile, policy::Direction};

/// `ICMPv6` and ICMP echo requests (RFC 4443 section 4.1, RFC 792).
const ECHO_REQUEST_V6: u16 = 128 << 8;
const ECHO_REQUEST_V4: u16 = 8 << 8;

/// Something that goes on between this host and a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// Whether the host opened it; else the peer did.
    pub opened_by_host: bool,
    /// The IP protocol number.
    pub protocol: u8,
    /// The protected side's address.
    pub local: IpAddr,
    /// Its port, or the identifier of an ICMP echo.
    pub local_port: u16,
    /// The peer's address.
    pub remote: IpAddr,
    /// Its port.
    pub remote_port: u16,
}

/// What goes on between this host and others, as its sockets and the kernel's
/// connection tracking know it. The latter knows who opened it, and those that
/// are only forwarded, where it is used.
#[must_use]
pub fn existing(addresses: &Addresses) -> Vec<Connection> {
    let mut found = HashMap::new();
    for connection in tcp_connections()
        .into_iter()
        .chain(socket::udp_connections())
    {
        found.insert(connection.ends(), connection);
    }
    match conntrack::connections(|address| addresses.has(address)) {
        Ok(tracked) => {
            for connection in tracked {
                found.insert(connection.ends(), connection);
            }
        }
        Err(error) => log::warn!("only sockets tell which connections go on: {error:#}"),
    }
    found.into_values().collect()
}

/// Protocol, and address and port here and there.
pub type Ends = (u8, IpAddr, u16, IpAddr, u16);

impl Connection {
    /// What tells it from others.
    #[must_use]
    pub const fn ends(&self) -> Ends {
        let here = (self.local, self.local_port);
        (self.protocol, here.0, here.1, self.remote, self.remote_port)
    }

    /// The rule of tables of these words that allows what opened it.
    #[must_use]
    pub fn rule(&self, tables: &[u32]) -> Option<Match> {
        let direction = self.direction();
        let service = self.service(direction);
        compile::first_match(tables, direction, self.remote, service)
    }

    /// The direction of the packet that opened it.
    #[must_use]
    pub fn direction(&self) -> Direction {
        if self.opened_by_host {
            Direction::Outbound
        } else {
            Direction::Inbound
        }
    }

    /// Whether its packets pass tables of these words: a rule allows what opened it, or
    /// it looks like a reply to what an untracked rule of the other direction
    /// allows.
    #[must_use]
    pub fn passes(&self, tables: &[u32]) -> bool {
        let asked = |direction| {
            let service = self.service(direction);
            compile::first_match(tables, direction, self.remote, service)
        };
        let (own, other) = match self.direction() {
            Direction::Inbound => (Direction::Inbound, Direction::Outbound),
            Direction::Outbound => (Direction::Outbound, Direction::Inbound),
        };
        asked(own).is_some() || asked(other).is_some_and(Match::is_untracked)
    }

    /// What a packet of it in `direction` asks for.
    fn service(&self, direction: Direction) -> Service {
        let selector = match (self.protocol, direction) {
            (ICMP, _) => ECHO_REQUEST_V4,
            (ICMPV6, _) => ECHO_REQUEST_V6,
            (_, Direction::Inbound) => self.local_port,
            (_, Direction::Outbound) => self.remote_port,
        };
        Service {
            protocol: self.protocol,
            selector,
        }
    }
}

/// As in "tcp 22 from 192.0.2.1".
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = self.service(self.direction());
        match service.protocol {
            ICMP => f.write_str("icmp echo")?,
            ICMPV6 => f.write_str("icmpv6 echo")?,
            6 => write!(f, "tcp {}", service.selector)?,
            17 => write!(f, "udp {}", service.selector)?,
            132 => write!(f, "sctp {}", service.selector)?,
            number => write!(f, "protocol {number}")?,
        }
        let way = if self.opened_by_host { "to" } else { "from" };
        write!(f, " {way} {}", self.remote)
    }
}
