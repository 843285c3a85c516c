//! The addresses of this host and the interfaces that have them.

use std::net::IpAddr;

use crate::policy::{self, Attachment};

/// Addresses with the name of their interface.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Vec<(IpAddr, String)>);

impl Addresses {
    /// None if the kernel does not tell.
    #[must_use]
    pub fn of_this_host() -> Self {
        let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
        let addresses = addresses.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            let v6 = || address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
            Some((v4.or_else(v6)?, interface.interface_name))
        });
        Self(addresses.collect())
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        self.interface_of(address).is_some()
    }

    /// The number of the attachment of the interface that has an address.
    #[must_use]
    pub fn attachment_of(&self, attachments: &[Attachment], address: IpAddr) -> Option<usize> {
        // Nothing to choose from.
        if address.is_unspecified() && attachments.len() == 1 {
            return Some(0);
        }
        let name = self.interface_of(address)?;
        let covers = |pattern: &String| policy::covers(pattern, name);
        let mut attachments = attachments.iter();
        attachments.position(|attachment| attachment.interfaces.iter().any(covers))
    }

    fn interface_of(&self, address: IpAddr) -> Option<&str> {
        let mut addresses = self.0.iter();
        let found = addresses.find(|(known, _)| *known == address);
        found.map(|(_, name)| name.as_str())
    }
}
