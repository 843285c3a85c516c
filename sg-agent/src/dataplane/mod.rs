//! The kernel side of the agent: loads, pins, attaches and reads the eBPF
//! objects. The only place that imports aya.
//!
//! Not here: the rule file. What comes in is compiled.

pub mod attach;
pub mod collect;
pub mod counters;
pub mod flow_counts;
mod flow_table;
pub mod generation;
pub mod interfaces;
pub mod live_flows;
pub mod live_tables;
pub mod lock;
pub mod manifest;
pub mod namespace;
pub mod object;
pub mod packet_log;
pub mod plain;
pub mod record;
pub mod sandbox;
pub mod seed;
pub mod spare_memory;
pub mod store;
mod system_call;
pub mod table_sizes;
mod trace_memory;
pub mod twin;
mod unlink;
