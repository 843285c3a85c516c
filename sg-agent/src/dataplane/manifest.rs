//! What the running generation is: readable with no daemon.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use sg_common::ABI_VERSION;

use super::{attach, store::Store};
use crate::{
    compile::Slots,
    policy::{Direction, Mode, RuleId},
};

/// The description of one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`ABI_VERSION`].
    pub abi: u32,
    /// Its number; it counts up from 1.
    pub generation: u32,
    /// When it went live, RFC 3339.
    pub applied_at: String,
    /// The rule file it was made from.
    pub rule_file: String,
    /// Its attachments, in file order.
    pub attachments: Vec<AttachmentRecord>,
    /// How many flows were taken over that were there before the programs.
    #[serde(default)]
    pub seeded: u32,
    /// Every rule of the file, in file order.
    pub rules: Vec<RuleRecord>,
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachmentRecord {
    /// The number that its flows carry.
    pub zone: u16,
    /// Interfaces as written in the file.
    pub interfaces: Vec<String>,
    /// Groups in accounting order.
    pub groups: Vec<String>,
    /// Enforced or only watched.
    pub mode: Mode,
    /// What its programs are told: `sg_common::config::flag`s.
    pub flags: u32,
    /// Whether flows may live on whose rule is gone.
    #[serde(default)]
    pub keeps: bool,
    /// Whether there may be flows whose ends are told when their rule goes.
    #[serde(default)]
    pub resets: bool,
    /// Where its packets are judged.
    pub hooks: Vec<HookRecord>,
}

/// One direction of one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookRecord {
    /// The interface's name when it was attached.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// Which packets.
    pub direction: Direction,
    /// Where.
    pub place: Place,
    /// What packets begin with there.
    pub layer: LinkLayer,
    /// The program's number in the kernel.
    pub program: u32,
}

impl HookRecord {
    /// The name of the program that its packets need.
    #[must_use]
    pub const fn program_name(&self) -> &'static str {
        attach::program_name(self.direction, self.place, self.layer)
    }
}

/// What packets on an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// Their IP header.
    Bare,
}

/// Where packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// XDP in the driver.
    XdpNative,
    /// XDP after the driver.
    XdpGeneric,
    /// tc, as a link (Linux 6.6 and later).
    Tcx,
    /// tc, as a filter of the clsact qdisc.
    Clsact,
}

impl Place {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "xdp-native",
            Self::XdpGeneric => "xdp-generic",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleRecord {
    /// Its group.
    pub group: String,
    /// Of the two lists of the group.
    pub direction: Direction,
    /// Its name.
    pub name: String,
    /// Its counter.
    pub slot: u32,
    /// Whether its flows have entries; `None` if no attachment has its group.
    pub tracked: Option<bool>,
}

impl RuleRecord {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> RuleId {
        RuleId {
            group: self.group.clone(),
            direction: self.direction,
            name: self.name.clone(),
        }
    }
}

const CURRENT: &str = "generation.json";
const NEXT: &str = "generation.next.json";
/// Nobody reads it: a description is whole before it has a name that counts.
const DRAFT: &str = "generation.draft.json";

impl Manifest {
    /// The generation that runs, if one does. One that was interrupted after
    /// its programs went live counts: what the kernel runs is what is true.
    ///
    /// # Errors
    /// The description can't be read or is of another version.
    pub fn read(store: &Store) -> Result<Option<Self>> {
        // In this order: the one becomes the other.
        let next = Self::read_file(store, NEXT)?;
        let current = Self::read_file(store, CURRENT)?;
        Ok(match next {
            Some(next) if store.generation(next.generation).exists() && next.is_live(store)? => {
                Some(next)
            }
            _ => current,
        })
    }

    /// The attachment whose flows have this zone.
    #[must_use]
    pub fn in_zone(&self, zone: u16) -> Option<&AttachmentRecord> {
        self.attachments.iter().find(|record| record.zone == zone)
    }

    fn read_file(store: &Store, name: &str) -> Result<Option<Self>> {
        let path = store.run().join(name);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("reading `{}`", path.display()));
            }
        };
        let manifest: Self = serde_json::from_slice(&text).with_context(|| {
            format!(
                "`{}` is damaged; remove it and apply the rule file again",
                path.display()
            )
        })?;
        ensure!(
            manifest.abi == ABI_VERSION,
            "`{}` has version {}, expected {ABI_VERSION}; `detach` with the version that wrote it, or \
             remove it and apply the rule file again",
            path.display(),
            manifest.abi
        );
        Ok(Some(manifest))
    }

    /// Whether every hook runs this generation's program.
    fn is_live(&self, store: &Store) -> Result<bool> {
        for hook in self.hooks().filter(|hook| hook.place != Place::Clsact) {
            let found = attach::linked_program(store, hook.direction, hook.index)?;
            if found != Some(hook.program) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Announces a generation that is about to go live.
    ///
    /// # Errors
    /// The run directory can't be written.
    pub fn announce(&self, store: &Store) -> Result<()> {
        let (draft, next) = (store.run().join(DRAFT), store.run().join(NEXT));
        self.write(&draft)
            .and_then(|()| fs::rename(&draft, &next))
            .with_context(|| format!("writing `{}`", next.display()))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)
    }

    /// Makes the announced generation the current one.
    ///
    /// # Errors
    /// The run directory can't be written.
    pub fn commit(store: &Store) -> Result<()> {
        let (next, current) = (store.run().join(NEXT), store.run().join(CURRENT));
        fs::rename(&next, &current).with_context(|| format!("replacing `{}`", current.display()))
    }

    /// Takes an announcement back.
    pub fn withdraw(store: &Store) {
        for name in [DRAFT, NEXT] {
            let _ = fs::remove_file(store.run().join(name));
        }
    }

    /// The counter of each rule.
    #[must_use]
    pub fn slots(&self) -> Slots {
        self.rules
            .iter()
            .map(|rule| (rule.id(), rule.slot))
            .collect()
    }

    /// All hooks.
    pub fn hooks(&self) -> impl Iterator<Item = &HookRecord> {
        self.attachments
            .iter()
            .flat_map(|attachment| &attachment.hooks)
    }
}
