//! The bytes of one frame, as the parser sees them.

use bytemuck::{Pod, Zeroable};

use crate::network::{self, Chain};

/// Read access to one frame.
///
/// The one contract: [`Packet::words`] returns bytes that are in the frame, or
/// nothing. No pointer into the frame leaves an implementation.
pub trait Packet {
    /// Length of the frame in bytes, with its link-layer header.
    fn len_bytes(&self) -> u32;

    /// `N` 16-bit words from byte `offset`, as they lie in memory, or `None`
    /// if they are not all in the frame.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]>;

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
    fn skip_extension(&self, chain: Chain, end: u32) -> Option<Chain> {
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
            bytes: packet.len_bytes(),
        }
    }
}

/// A word of a header, in host order.
#[inline(always)]
pub(crate) fn word<const N: usize>(words: &[u16; N], index: usize) -> u16 {
    words.get(index).map_or(0, |word| u16::from_be(*word))
}

/// Two words of a header from word `index` on, in host order.
#[inline(always)]
pub(crate) fn double_word<const N: usize>(words: &[u16; N], index: usize) -> u32 {
    u32::from(word(words, index)) << 16 | u32::from(word(words, index + 1))
}

/// The octet at byte `index` of a header.
#[inline(always)]
pub(crate) fn octet<const N: usize>(words: &[u16; N], index: usize) -> u8 {
    let [first, second] = word(words, index / 2).to_be_bytes();
    if index.is_multiple_of(2) {
        first
    } else {
        second
    }
}

/// A frame in a byte slice: for tests and for user space.
impl Packet for [u8] {
    fn len_bytes(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        let start = offset as usize;
        let bytes = self.get(start..start.checked_add(N * 2)?)?;
        let mut words = [0; N];
        for (word, pair) in words.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *word = u16::from_ne_bytes(*pair);
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
