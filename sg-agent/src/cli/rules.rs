//! The rule file of a command, and the tests that it must pass.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    compile::Slots,
    dataplane::manifest::Manifest,
    enforce::{self, Prepared},
};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Rules {
    /// The rule file
    pub(super) file: PathBuf,
    /// More policy tests, as `[[expect]]` in a file of their own; may be given
    /// several times
    #[arg(long, value_name = "FILE")]
    tests: Vec<PathBuf>,
}

impl Rules {
    /// Reads and compiles the file and runs the tests. Rules that `running` has
    /// keep their counters.
    pub(super) fn prepare(&self, running: Option<&Manifest>) -> Result<Prepared> {
        let slots = running.map_or_else(Slots::new, Manifest::slots);
        let mut prepared = enforce::prepare(&self.file, &slots)?;
        prepared.add_tests(&self.tests)?;
        Ok(prepared)
    }
}
