//! What the decision is judged by on the host, where a million packets take
//! seconds: [`reader`] reads frames without a line of the data path,
//! [`parser`] compares the two, and [`memory`] is a kernel in memory.
//!
//! Not here: what a rule file means (`sg-tests` has the oracle), and anything
//! that needs a kernel.

#![forbid(unsafe_code)]

pub mod memory;
pub mod mutate;
pub mod parser;
pub mod reader;
