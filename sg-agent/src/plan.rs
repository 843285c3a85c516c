//! What putting a rule file into force would change.

mod words;

use anyhow::Result;
use serde::Serialize;

use self::words::settings;
pub use self::words::{connections, rule_words, words};
use crate::{
    connection::Connection,
    cut::{self, OwnSession},
    dataplane::{manifest::Manifest, store::Store},
    difference::{self, Difference},
    enforce::Prepared,
    enforced,
    policy::{Policy, Settings},
};

/// The difference between what is in force and a rule file.
#[derive(Debug)]
pub struct Plan {
    /// The generation in force; `None` if nothing is.
    pub generation: Option<u32>,
    /// What changes for packets and rules.
    pub difference: Difference,
    /// Settings that change.
    pub settings: Vec<SettingChange>,
    /// Connections that would be cut.
    pub cut: Vec<Connection>,
    /// The caller's own session, if the rule file decides about it.
    pub session: Option<OwnSession>,
}

/// A setting of `[flows]` or of a group, or `non_ip`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingChange {
    /// Its key.
    pub key: String,
    /// Its value before.
    pub old: String,
    /// Its value after.
    pub new: String,
}

impl Plan {
    /// Compares what is in force with `prepared`.
    ///
    /// # Errors
    /// What is in force can't be read, or is too complex to be compared.
    pub fn new(store: &Store, prepared: &Prepared, manifest: Option<&Manifest>) -> Result<Self> {
        let kept = kept_policy(store, manifest)?;
        let nothing = nothing_in_force();
        let old = kept.as_ref().unwrap_or(&nothing);
        let new = &prepared.loaded.policy;
        Ok(Self {
            generation: manifest.map(|manifest| manifest.generation),
            difference: difference::of(old, new)?,
            settings: settings(old, new),
            cut: cut::connections(store, prepared, manifest, || Ok(kept.clone()))?,
            session: OwnSession::of(prepared),
        })
    }

    /// Whether anything would change.
    #[must_use]
    pub fn is_change(&self) -> bool {
        self.generation.is_none() || !self.difference.is_empty() || !self.settings.is_empty()
    }
}

/// The connections that putting `prepared` into force cuts.
///
/// # Errors
/// What is in force can't be read.
pub fn cut(
    store: &Store,
    prepared: &Prepared,
    manifest: Option<&Manifest>,
) -> Result<Vec<Connection>> {
    cut::connections(store, prepared, manifest, || kept_policy(store, manifest))
}

fn kept_policy(store: &Store, manifest: Option<&Manifest>) -> Result<Option<Policy>> {
    let kept = manifest.map(|manifest| enforced::read(store, manifest));
    Ok(kept.transpose()?.flatten())
}

/// No attachment: every packet passes, as without any rule file.
fn nothing_in_force() -> Policy {
    Policy {
        attachments: Vec::new(),
        groups: Vec::new(),
        sets: Vec::new(),
        settings: Settings::default(),
        expectations: Vec::new(),
    }
}
