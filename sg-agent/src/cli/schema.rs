//! `sg-agent schema`.

use anyhow::Result;

use super::{Outcome, print_json};
use crate::policy;

pub(super) fn schema() -> Result<Outcome> {
    print_json(&policy::schema())?;
    Ok(Outcome::Done)
}
