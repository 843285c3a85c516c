//! The agent's parts: `policy` → `compile` → `dataplane`, put together by
//! `enforce`, kept by `enforced` and changed by `sets`, with `observe`, `daemon` and `cli` around them. ARCHITECTURE.md
//! has the map.

pub mod capture;
pub mod cli;
pub mod cloud;
pub mod compile;
pub mod connection;
pub mod cut;
pub mod daemon;
pub mod dataplane;
pub mod difference;
pub mod enforce;
pub mod enforced;
pub mod explain;
mod logger;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod replay;
pub mod reset;
pub mod sets;
pub mod takeover;
