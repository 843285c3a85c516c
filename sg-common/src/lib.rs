//! What the kernel and user space share: the ABI and the decision logic.
//!
//! The decision is generic over four small traits ([`packet::Packet`],
//! [`tables::Tables`], [`flow::FlowTables`], [`decide::Kernel`]), so the code
//! that runs in the kernel is the code that the host's tests run.
//!
//! Not here: anything that needs a kernel, an allocator or a rule file.
#![no_std]
#![deny(unsafe_code)]
#![warn(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

pub mod address;
pub mod classify;
pub mod collection;
pub mod config;
pub mod conntrack;
pub mod counter;
pub mod decide;
pub mod flow;
mod flow_query;
pub mod fragment;
pub mod implicit;
mod layout;
pub mod life;
pub mod link;
pub mod network;
pub mod occupancy;
pub mod packet;
mod query;
pub mod related;
pub mod tables;
pub mod trace;
pub mod transport;
pub mod verdict;

/// The version of everything that crosses the kernel boundary. Pins live under
/// a directory that carries it; no type in this crate changes without it.
pub const ABI_VERSION: u32 = 6;
