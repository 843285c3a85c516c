//! Why one packet passes or is dropped.
//!
//! The verdict is the loaded program's. What leads to it is told from the
//! policy and the flows that the program was given, and decides nothing.

mod answer;
mod question;

pub use self::{
    answer::{Answer, Rules, Step},
    question::Question,
};
