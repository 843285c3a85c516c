//! The lab: a protected host, and an internet around it.
//!
//! ```text
//!  internet 203.0.113.9  2001:db8:2::9  ──┐
//!  office   198.51.100.10 2001:db8:1::10 ─┼─ router ── eth0 host 192.0.2.2 2001:db8::2
//!  caddy    172.18.0.5 ───────────────────┘
//! ```
//!
//! All of it is veth between namespaces; nothing leaves the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::netns::{Netns, veth};

/// The protected host's interface.
pub const INTERFACE: &str = "eth0";
/// The router's end of the host's link: what it sends, the host's hook sees.
pub const UPLINK: &str = "to-host";

/// The protected host.
pub const HOST: Ends = ends([192, 0, 2, 2], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2]);
/// Anybody.
pub const INTERNET: Ends = ends([203, 0, 113, 9], [0x2001, 0xdb8, 2, 0, 0, 0, 0, 9]);
/// The people who administer the host.
pub const OFFICE: Ends = ends([198, 51, 100, 10], [0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x10]);
/// The container in front of the backend. It has no IPv6 address in the seed's
/// table; this one is of no rule.
pub const CADDY: Ends = ends([172, 18, 0, 5], [0x2001, 0xdb8, 3, 0, 0, 0, 0, 5]);

/// A machine's two addresses.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Ends {
    /// Both, IPv4 first.
    #[must_use]
    pub const fn both(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)]
    }
}

const fn ends(v4: [u8; 4], v6: [u16; 8]) -> Ends {
    Ends {
        v4: Ipv4Addr::from_octets(v4),
        v6: Ipv6Addr::from_segments(v6),
    }
}

/// Five namespaces and the links between them.
#[derive(Debug)]
pub struct Topology {
    /// Anybody.
    pub internet: Netns,
    /// The administrators.
    pub office: Netns,
    /// The backend's front.
    pub caddy: Netns,
    /// The protected host.
    pub host: Netns,
    /// Between all of them.
    pub router: Netns,
}

impl Topology {
    /// Builds the lab. Nothing is protected yet.
    ///
    /// # Errors
    ///
    /// If not root, or without iproute2.
    pub fn new() -> Result<Self> {
        let this = Self {
            internet: Netns::new("internet")?,
            office: Netns::new("office")?,
            caddy: Netns::new("caddy")?,
            host: Netns::new("host")?,
            router: Netns::new("router")?,
        };
        this.router.sysctl("net/ipv4/ip_forward", "1")?;
        this.router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        for (machine, uplink, addresses, router) in [
            (
                &this.internet,
                "to-internet",
                INTERNET,
                ("203.0.113.1", "2001:db8:2::1"),
            ),
            (
                &this.office,
                "to-office",
                OFFICE,
                ("198.51.100.1", "2001:db8:1::1"),
            ),
            (
                &this.caddy,
                "to-caddy",
                CADDY,
                ("172.18.0.1", "2001:db8:3::1"),
            ),
            (&this.host, UPLINK, HOST, ("192.0.2.1", "2001:db8::1")),
        ] {
            this.connect(machine, uplink, addresses, router)?;
        }
        Ok(this)
    }

    fn connect(
        &self,
        machine: &Netns,
        uplink: &str,
        addresses: Ends,
        router: (&str, &str),
    ) -> Result<()> {
        veth((machine, INTERFACE), (&self.router, uplink))?;
        for (namespace, interface, v4, v6) in [
            (
                machine,
                INTERFACE,
                addresses.v4.to_string(),
                addresses.v6.to_string(),
            ),
            (
                &self.router,
                uplink,
                router.0.to_owned(),
                router.1.to_owned(),
            ),
        ] {
            namespace.ip(&format!("addr add {v4}/24 dev {interface}"))?;
            namespace.ip(&format!("addr add {v6}/64 dev {interface} nodad"))?;
        }
        // One packet of the sender is one on the wire, so that counters on
        // both sides of a hook can be compared to the packet.
        machine.ip(&format!("link set {INTERFACE} gso_max_segs 1"))?;
        machine.ip(&format!("route add default via {}", router.0))?;
        machine.ip(&format!("route add default via {}", router.1))
    }
}
