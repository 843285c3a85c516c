//! What is fuzzed, one function a target: it takes any bytes and panics if
//! something is wrong. `cargo xtask fuzz` feeds it what covers new code; the
//! tests of this crate feed it the corpus, on any toolchain.

#![forbid(unsafe_code)]

mod decision;
mod files;

pub use self::{
    decision::decision,
    files::{capture, import, rules, set},
};

/// A frame: the data path's parser sees what the reader sees.
pub fn parser(bytes: &[u8]) {
    sg_judge::parser::agree(bytes);
}

/// A target: its name, which is its directory in the corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("parser", parser),
    ("decision", decision),
    ("rules", rules),
    ("set", set),
    ("import", import),
    ("capture", capture),
];
