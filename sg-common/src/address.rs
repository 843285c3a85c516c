//! IPv4 and IPv6 addresses as the data path holds them.

use bytemuck::{Pod, Zeroable};

use crate::tables::{Key, KeyV4, KeyV6};

/// The two address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// An address of either family.
///
/// Addresses are words as they lie in the packet.
pub trait Address: Copy + Eq {
    /// The family.
    const FAMILY: Family;
    /// What tries are walked with.
    type Key: Key;

    /// Its key.
    fn key(&self) -> Self::Key;

    /// Its octets as numbers, in their order, with zeros behind those of IPv4.
    fn wide(&self) -> [u64; 2];

    /// Whether it is an IPv6 link-local unicast address, `fe80::/10`
    /// (RFC 4291 section 2.5.6).
    fn is_link_local_v6(&self) -> bool;
}

/// An IPv4 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct V4(pub u32);

/// An IPv6 address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Pod, Zeroable)]
#[repr(transparent)]
pub struct V6(pub [u64; 2]);

impl Address for V4 {
    const FAMILY: Family = Family::V4;
    type Key = KeyV4;

    #[inline(always)]
    fn key(&self) -> KeyV4 {
        KeyV4(u64::from(u32::from_be(self.0)) << 32)
    }

    #[inline(always)]
    fn wide(&self) -> [u64; 2] {
        [self.key().0, 0]
    }

    #[inline(always)]
    fn is_link_local_v6(&self) -> bool {
        false
    }
}

impl Address for V6 {
    const FAMILY: Family = Family::V6;
    type Key = KeyV6;

    #[inline(always)]
    fn key(&self) -> KeyV6 {
        let [high, low] = self.0.map(u64::from_be);
        KeyV6 { high, low }
    }

    #[inline(always)]
    fn wide(&self) -> [u64; 2] {
        self.0.map(u64::from_be)
    }

    #[inline(always)]
    fn is_link_local_v6(&self) -> bool {
        let KeyV6 { high, .. } = self.key();
        high >> 54 == 0xfe80 >> 6
    }
}

impl From<[u8; 4]> for V4 {
    fn from(octets: [u8; 4]) -> Self {
        Self(bytemuck::cast(octets))
    }
}

impl From<[u8; 16]> for V6 {
    fn from(octets: [u8; 16]) -> Self {
        Self(bytemuck::cast(octets))
    }
}

impl From<V4> for [u8; 4] {
    fn from(address: V4) -> Self {
        bytemuck::cast(address.0)
    }
}

impl From<V6> for [u8; 16] {
    fn from(address: V6) -> Self {
        bytemuck::cast(address.0)
    }
}

impl From<V4> for core::net::IpAddr {
    fn from(address: V4) -> Self {
        <[u8; 4]>::from(address).into()
    }
}

impl From<V6> for core::net::IpAddr {
    fn from(address: V6) -> Self {
        <[u8; 16]>::from(address).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_begin_with_the_first_octet() {
        let key = V4::from([192, 0, 2, 7]).key();
        assert_eq!(key.0, 0xc000_0207_0000_0000);
        assert_eq!((key.unit(), key.after_unit().unit()), (0xc000, 0x0207));
        let octets = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let key = V6::from(octets).key();
        assert_eq!(key.high, 0x0102_0304_0506_0708);
        assert_eq!(key.low, 0x090a_0b0c_0d0e_0f10);
        assert_eq!(key.after_unit().low, 0x0b0c_0d0e_0f10_0102);
    }

    #[test]
    fn link_local_is_fe80_slash_10() {
        let mut octets = [0; 16];
        for (first, second, expected) in [
            (0xfe, 0x80, true),
            (0xfe, 0xbf, true),
            (0xfe, 0xc0, false),
            (0xff, 0x02, false),
        ] {
            octets[..2].copy_from_slice(&[first, second]);
            assert_eq!(
                V6::from(octets).is_link_local_v6(),
                expected,
                "{first:x}{second:x}"
            );
        }
    }
}
