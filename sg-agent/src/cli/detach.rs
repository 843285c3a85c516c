//! `sg-agent detach`.

use anyhow::{Context as _, Result};

use super::{Outcome, print};
use crate::dataplane::{generation, lock::Lock, manifest::Manifest, store::Store};

/// What is typed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only from this interface; the others stay protected
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

pub(super) async fn detach(args: &Args, store: &Store) -> Result<Outcome> {
    if !store.exists() && !store.run().exists() {
        print("nothing is attached\n")?;
        return Ok(Outcome::Done);
    }
    let _lock = Lock::take(store, "detach")?;
    // A description that can't be read must not keep anybody locked out.
    let manifest = Manifest::read(store).unwrap_or_else(|error| {
        log::warn!("{error:#}");
        None
    });
    if let Some(interface) = &args.interface {
        let manifest = manifest
            .with_context(|| format!("`{interface}` is not protected: no rules are applied"))?;
        generation::detach_interface(store, &manifest, interface)?;
        print(&format!("`{interface}` is no longer protected\n"))?;
    } else {
        generation::detach_all(store, manifest.as_ref()).await?;
        print("detached: no interface is protected any more\n")?;
    }
    Ok(Outcome::Done)
}
