//! Writes capture files, as the format's description has it: the agent reads
//! them with a crate of somebody else.

/// Link type of Ethernet frames (tcpdump.org, "Link-layer header types").
pub const ETHERNET: u32 = 1;
/// Link type of IP packets with nothing in front.
pub const RAW: u32 = 101;

/// A pcap file of packets, a second apart, with their length on the wire if it
/// is another.
#[must_use]
pub fn pcap<'p>(
    link_type: u32,
    packets: impl IntoIterator<Item = (&'p [u8], Option<usize>)>,
) -> Vec<u8> {
    let mut file = header(link_type);
    for (second, (bytes, wire)) in packets.into_iter().enumerate() {
        record(&mut file, second, bytes, wire.unwrap_or(bytes.len()));
    }
    file
}

/// A pcap file of whole packets, each with the second when it was seen.
#[must_use]
pub fn pcap_at<'p>(
    link_type: u32,
    packets: impl IntoIterator<Item = (usize, &'p [u8])>,
) -> Vec<u8> {
    let mut file = header(link_type);
    for (second, bytes) in packets {
        record(&mut file, second, bytes, bytes.len());
    }
    file
}

fn header(link_type: u32) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_be_bytes());
    file.extend([0, 2, 0, 4]);
    for word in [0, 0, 262_144, link_type] {
        file.extend(word.to_be_bytes());
    }
    file
}

fn record(file: &mut Vec<u8>, second: usize, bytes: &[u8], wire: usize) {
    for word in [second, 0, bytes.len(), wire] {
        let word = u32::try_from(word).expect("a field of 32 bits");
        file.extend(word.to_be_bytes());
    }
    file.extend_from_slice(bytes);
}
