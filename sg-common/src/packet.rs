//! The bytes of one frame, as the parser sees them.

use bytemuck::{Pod, Zeroable};

use crate::network::{self, Chain};

/// Bytes that are read at once: 2, 4 or 8. Headers lie where they lie, so a
/// word may be at any offset.
pub trait Word: Pod {
    /// The low bits of a number.
    fn truncate(bits: u64) -> Self;
}

impl Word for u16 {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "that is its purpose")]
    fn truncate(bits: u64) -> Self {
        bits as Self
    }
}

impl Word for u32 {
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "that is its purpose")]
    fn truncate(bits: u64) -> Self {
        bits as Self
    }
}

impl Word for u64 {
    #[inline(always)]
    fn truncate(bits: u64) -> Self {
        bits
    }
}

/// Read access to one frame.
///
/// The one contract: [`Packet::words`] returns bytes that are in the frame, or
/// nothing. No pointer into the frame leaves an implementation.
pub trait Packet {
    /// Length of the frame in bytes, with its link-layer header.
    fn len_bytes(&self) -> usize;

    /// `N` words from byte `offset`, as they lie in memory, or `None` if they
    /// are not all in the frame.
    fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]>;

    /// The ethertype of a packet that begins with no link-layer header, because
    /// its device has none; `None` for an Ethernet frame, which says it itself.
    #[inline(always)]
    fn bare_ethertype(&self) -> Option<u16> {
        None
    }

    /// As [`network::skip_extension`]. The kernel's programs put a call here:
    /// the verifier would walk each way through one header again for each way
    /// through those before it.
    #[inline(always)]
    fn skip_extension(&self, chain: Chain, end: usize) -> Option<Chain> {
        network::skip_extension(self, chain, end)
    }

    /// Makes more of the frame readable, where the hook had only its start at
    /// hand. Whether it did: then a header that was not there may be now.
    fn extend(&mut self) -> bool;

    /// How many packets it is on the wire: more than one if the stack or the
    /// device has yet to cut it into segments.
    fn packets(&self) -> u32;

    /// Whether the stack has yet to cut this packet into segments, so that its
    /// IP length field may be 0 (BIG TCP, `net/ipv4/ip_output.c`).
    fn is_aggregate(&self) -> bool;
}

/// How much one frame is on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Size {
    /// See [`Packet::packets`].
    pub packets: u32,
    /// See [`Packet::len_bytes`].
    pub bytes: u32,
}

impl Size {
    /// A frame's.
    #[inline(always)]
    pub(crate) fn of<P: Packet + ?Sized>(packet: &P) -> Self {
        Self {
            packets: packet.packets(),
            bytes: narrow(packet.len_bytes()),
        }
    }
}

/// A length in a frame, or a place in it.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "frames are shorter than 4 GiB"
)]
pub(crate) const fn narrow(bytes: usize) -> u32 {
    bytes as u32
}

/// A frame in a byte slice: for tests and for user space.
impl Packet for [u8] {
    fn len_bytes(&self) -> usize {
        self.len()
    }

    fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        let bytes = self.get(offset..offset.checked_add(size_of::<[W; N]>())?)?;
        let mut words = [W::zeroed(); N];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(size_of::<W>())) {
            *word = bytemuck::pod_read_unaligned(bytes);
        }
        Some(words)
    }

    fn extend(&mut self) -> bool {
        false
    }

    fn packets(&self) -> u32 {
        1
    }

    fn is_aggregate(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn the_size_of_a_frame_is_what_it_says() {
        let expected = Size {
            packets: 1,
            bytes: 60,
        };
        assert_eq!(Size::of(&[0; 60][..]), expected);
    }
}
