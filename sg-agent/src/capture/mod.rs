//! Capture files: pcap and pcapng, as a sequence of packets.
//!
//! Not here: what becomes of a packet. Nothing in this module knows rules,
//! programs or the kernel.

mod damage;
mod file;
mod link_type;
mod packet;

pub use damage::Damage;
pub use file::read;
pub use link_type::LinkType;
pub use packet::Packet;

#[cfg(test)]
mod tests;
