//! What the first bytes of a captured packet are.

use std::fmt;

/// A link type, by its number in capture files (tcpdump.org, "Link-layer
/// header types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkType(pub u16);

/// Link types that people meet and that are no Ethernet.
const NAMES: &[(u16, &str)] = &[
    (0, "NULL, BSD loopback"),
    (105, "IEEE802_11"),
    (108, "LOOP, OpenBSD loopback"),
    (113, "LINUX_SLL, as from `tcpdump -i any`"),
    (127, "IEEE802_11_RADIOTAP"),
    (276, "LINUX_SLL2, as from `tcpdump -i any`"),
];

impl LinkType {
    /// Ethernet.
    pub const ETHERNET: Self = Self(1);
    /// IPv4 or IPv6, with nothing in front.
    pub const RAW: Self = Self(101);
    /// IPv4, with nothing in front.
    pub const IPV4: Self = Self(228);
    /// IPv6, with nothing in front.
    pub const IPV6: Self = Self(229);

    /// Whether a packet begins with its Ethernet header.
    #[must_use]
    pub const fn is_ethernet(self) -> bool {
        matches!(self, Self::ETHERNET)
    }

    /// Whether a packet begins with its IP header. Some systems write the
    /// number that `RAW` has in their memory, 12 or 14, into files.
    #[must_use]
    pub const fn is_ip(self) -> bool {
        matches!(self, Self::RAW | Self::IPV4 | Self::IPV6 | Self(12 | 14))
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((number, name)) => write!(f, "{number} ({name})"),
            None => self.0.fmt(f),
        }
    }
}
