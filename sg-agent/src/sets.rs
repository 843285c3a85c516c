//! Changes the sets of what is enforced: in the live tables where that is
//! possible, by a new generation where not.
//!
//! What is added is written first and what is removed last, so that meanwhile
//! each packet is judged as before or as after, and none by less than both.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    compile::{Amendment, Slots, Standing},
    dataplane::{
        generation::Applied, interfaces, live_tables::LiveTables, manifest::Manifest, store::Store,
    },
    enforce::{self, Missing, Prepared},
    enforced::{Difference, Enforced, Index, ListId, is_same_family},
    policy::{Loaded, MAX_SET_PREFIXES, Policy},
    reset,
};

/// More prefixes at once go into a new generation.
const MAX_AT_ONCE: usize = 256;

/// What a command does to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Put prefixes in.
    Add,
    /// Take prefixes out.
    Remove,
    /// Put prefixes in and take all others out.
    Replace,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edit {
    /// What is done.
    pub verb: Verb,
    /// To which set: `office`, `set:office`, or `group:caddy` for its members.
    pub name: String,
    /// With what.
    pub prefixes: Vec<IpNet>,
}

/// What became of it.
pub struct Outcome {
    /// For people, without a line feed at the end.
    pub text: String,
    /// The generation that had to be made for it, if one had.
    pub replaced: Option<Replaced>,
}

/// A generation that took the place of the one before.
pub struct Replaced {
    /// What was put into force.
    pub prepared: Prepared,
    /// How it went.
    pub applied: Applied,
}

/// What is in force, opened to have its sets changed.
///
/// To open it costs more than to change it, so who changes sets again and again
/// keeps it: as long as the lock is held, and until there is a new generation.
pub struct Opened {
    manifest: Manifest,
    slots: Slots,
    enforced: Enforced,
    /// Since the second change: to make it takes longer than one without it.
    index: Option<Index>,
    /// By attachment; those without programs have none.
    live: Vec<Option<Live>>,
}

/// An attachment that has programs.
struct Live {
    standing: Standing,
    tables: LiveTables,
}

/// Changes a set. The caller holds the lock. A new generation logs packets if
/// `logs_packets`.
///
/// # Errors
/// There is no such set, a test of the rule file would fail, or the kernel
/// refuses.
pub async fn edit(store: &Store, edit: &Edit, logs_packets: bool) -> Result<Outcome> {
    let mut opened = None;
    edit_opened(&mut opened, store, edit, logs_packets).await
}

/// As [`edit`], of what `opened` has open. What is left in it is good for the
/// next change.
///
/// # Errors
/// As [`edit`].
pub async fn edit_opened(
    opened: &mut Option<Opened>,
    store: &Store,
    edit: &Edit,
    logs_packets: bool,
) -> Result<Outcome> {
    // What an error leaves half done is read again.
    let mut update = match opened.take() {
        Some(mut opened) => {
            opened.make_index()?;
            opened
        }
        None => Opened::open(store)?,
    };
    let outcome = update.edit(store, edit, logs_packets).await?;
    *opened = outcome.replaced.is_none().then_some(update);
    Ok(outcome)
}

/// Puts the sets of `policy` into force if nothing else of it is new, and if
/// live tables can take them; says how many prefixes changed. The caller holds
/// the lock.
///
/// # Errors
/// What is kept is damaged, or the kernel refuses.
pub fn follow(store: &Store, manifest: &Manifest, policy: &Policy) -> Result<Option<usize>> {
    let Some(mut enforced) = Enforced::open(store, manifest.generation)? else {
        return Ok(None);
    };
    if serde_json::to_vec(enforced.frame())? != serde_json::to_vec(policy)? {
        return Ok(None);
    }
    let mut differences = Vec::new();
    for list in enforced.lists() {
        let wanted = list.of(policy).map_or(&[][..], |set| &set.prefixes);
        let difference = difference(&enforced.prefixes(list)?, wanted);
        enforced.set_edited(list, false);
        if !difference.is_empty() {
            differences.push((list, difference));
        }
    }
    let changed: usize = differences.iter().map(|(_, one)| one.len()).sum();
    if changed == 0 {
        return Ok(None);
    }
    let mut update = Opened::new(store, manifest.clone(), enforced)?;
    Ok(match update.in_place(store, &differences)? {
        Done::InPlace => {
            if let Some(note) = update.reset(store, &differences) {
                log::info!("{note}");
            }
            Some(changed)
        }
        Done::Not(_) => None,
    })
}

impl Edit {
    fn difference(&self, enforced: &Enforced, list: ListId) -> Result<Difference> {
        let wanted: BTreeSet<IpNet> = self.prefixes.iter().copied().collect();
        let mut difference = Difference::default();
        match self.verb {
            Verb::Add => {
                for prefix in wanted {
                    if !enforced.contains(list, &prefix)? {
                        difference.added.push(prefix);
                    }
                }
            }
            Verb::Remove => {
                for prefix in wanted {
                    if enforced.contains(list, &prefix)? {
                        difference.removed.push(prefix);
                    }
                }
            }
            Verb::Replace => {
                let wanted: Vec<IpNet> = wanted.into_iter().collect();
                difference = self::difference(&enforced.prefixes(list)?, &wanted);
            }
        }
        let found = enforced.len(list)? + difference.added.len() - difference.removed.len();
        ensure!(
            found <= MAX_SET_PREFIXES,
            "`{}` would have {found} prefixes, the limit is {MAX_SET_PREFIXES}",
            self.name
        );
        Ok(difference)
    }
}

/// What makes the sorted list `before` the sorted list `after`.
fn difference(before: &[IpNet], after: &[IpNet]) -> Difference {
    let only = |a: &[IpNet], b: &[IpNet]| -> Vec<IpNet> {
        let mut rest = b.iter().peekable();
        let is_new = |prefix: &&IpNet| {
            while rest.next_if(|other| other < prefix).is_some() {}
            rest.peek() != Some(prefix)
        };
        a.iter().filter(is_new).copied().collect()
    };
    Difference {
        added: only(after, before),
        removed: only(before, after),
    }
}

fn how_to_make_it_last(enforced: &Enforced, list: ListId, manifest: &Manifest) -> String {
    let (what, file) = match &enforced.set(list).file {
        Some(file) => ("set file", file.display().to_string()),
        None => ("rule file", manifest.rule_file.clone()),
    };
    format!("it lasts until rules are applied again: edit the {what} `{file}` to keep it")
}

/// How an update of live tables ended.
enum Done {
    /// All of it is in force.
    InPlace,
    /// A new generation must take it up, because of this.
    Not(&'static str),
}

impl Opened {
    fn open(store: &Store) -> Result<Self> {
        let manifest = Manifest::read(store)?
            .context("no rules are applied, so there are no sets; `sg-agent apply FILE` starts")?;
        let enforced = Enforced::open(store, manifest.generation)?.with_context(|| {
            format!(
                "generation {} was made by a version that did not keep its sets; apply the rule \
                 file again",
                manifest.generation
            )
        })?;
        Self::new(store, manifest, enforced)
    }

    fn new(store: &Store, manifest: Manifest, enforced: Enforced) -> Result<Self> {
        let slots = manifest.slots();
        let attachments = enforced.frame().attachments.iter();
        let attachments = attachments.zip(enforced.openings());
        let records = manifest.attachments.iter();
        let live = records
            .zip(attachments)
            .map(|(record, (attachment, openings))| {
                let tables = LiveTables::of_zone(store, manifest.generation, record.zone)?;
                let Some(tables) = tables else {
                    return Ok(None);
                };
                let standing = Standing::new(enforced.frame(), attachment, &slots, openings)?;
                Ok(Some(Live { standing, tables }))
            });
        Ok(Self {
            live: live.collect::<Result<_>>()?,
            index: None,
            slots,
            manifest,
            enforced,
        })
    }

    fn make_index(&mut self) -> Result<()> {
        if self.index.is_none() {
            self.index = Some(self.enforced.index()?);
        }
        Ok(())
    }

    async fn edit(&mut self, store: &Store, edit: &Edit, logs_packets: bool) -> Result<Outcome> {
        let list = self.enforced.find(&edit.name)?;
        let difference = edit.difference(&self.enforced, list)?;
        let name = self.enforced.name(list);
        if difference.is_empty() && self.enforced.under_way().is_empty() {
            let text = format!("nothing to change in `{name}`");
            return Ok(Outcome {
                text,
                replaced: None,
            });
        }
        let lasting = how_to_make_it_last(&self.enforced, list, &self.manifest);
        let (added, removed) = (difference.added.len(), difference.removed.len());
        if !difference.is_empty() {
            self.enforced.set_edited(list, true);
        }
        let differences = [(list, difference)];
        let mut notes = Vec::new();
        let replaced = match self.in_place(store, &differences)? {
            Done::InPlace => {
                notes.extend(self.reset(store, &differences));
                None
            }
            Done::Not(why) => {
                log::info!("{why}: a new generation takes the change up");
                let replaced = self.recompile(store, logs_packets).await?;
                notes.extend(replaced.applied.notes.iter().cloned());
                Some(replaced)
            }
        };
        let how = match &replaced {
            None => "in place".to_owned(),
            Some(replaced) => format!("by generation {}", replaced.applied.manifest.generation),
        };
        notes.push(lasting);
        let notes = notes.join("\n");
        let text = format!("`{name}`: {added} added, {removed} removed, {how}\n{notes}");
        Ok(Outcome { text, replaced })
    }

    /// Changes the live tables. Whether or not it can be, the enforced policy
    /// has the changes afterwards.
    fn in_place(&mut self, store: &Store, differences: &[(ListId, Difference)]) -> Result<Done> {
        let mut why_not = self.obstacle(differences)?;
        let additions = differences.iter().map(|(list, difference)| {
            let added = difference.added.clone();
            (
                *list,
                Difference {
                    added,
                    ..Difference::default()
                },
            )
        });
        let removals = differences.iter().map(|(list, difference)| {
            let removed = difference.removed.clone();
            (
                *list,
                Difference {
                    removed,
                    ..Difference::default()
                },
            )
        });
        for step in [additions.collect::<Vec<_>>(), removals.collect::<Vec<_>>()] {
            for (list, difference) in &step {
                self.enforced.change(*list, difference);
            }
            if why_not.is_none() {
                why_not = self.write(store, &step)?;
            }
        }
        Ok(why_not.map_or(Done::InPlace, Done::Not))
    }

    /// Tells the ends of connections that were revoked, where that is wanted;
    /// says how many there were.
    fn reset(&self, store: &Store, differences: &[(ListId, Difference)]) -> Option<String> {
        if differences.iter().all(|(_, one)| one.removed.is_empty()) {
            return None;
        }
        let shared = enforce::shared_by(&self.enforced.frame().settings);
        reset::note(reset::revoked(store, &self.manifest, &shared))
    }

    /// Why live tables can't take this up, if they can't.
    fn obstacle(&self, differences: &[(ListId, Difference)]) -> Result<Option<&'static str>> {
        let changed: usize = differences.iter().map(|(_, one)| one.len()).sum();
        if changed > MAX_AT_ONCE || self.enforced.is_full() {
            return Ok(Some("many prefixes change"));
        }
        if self.manifest.attachments.len() != self.enforced.openings().len() {
            return Ok(Some("the attachments are others"));
        }
        for (list, difference) in differences {
            for prefix in difference.prefixes() {
                let before = self.enforced.count(*list, prefix)?;
                let is_like = |other: &&IpNet| is_same_family(other, prefix);
                let added = difference.added.iter().filter(is_like).count();
                let removed = difference.removed.iter().filter(is_like).count();
                // Whether rules have peers of a family is a constant of programs.
                if (before == 0) != (before + added == removed) {
                    return Ok(Some("a set gets its first prefix, or loses its last one"));
                }
                let tests = &self.enforced.frame().expectations;
                if tests.iter().any(|test| prefix.contains(&test.peer)) {
                    return Ok(Some("a test of the rule file asks for an address of it"));
                }
            }
        }
        Ok(None)
    }

    /// Writes a step, which the enforced policy has already, into the live
    /// tables; says why if that can't be.
    fn write(
        &mut self,
        store: &Store,
        step: &[(ListId, Difference)],
    ) -> Result<Option<&'static str>> {
        let changed = step.iter().flat_map(|(_, one)| one.prefixes());
        let unfinished = self.enforced.under_way();
        let regions: Vec<IpNet> = changed.chain(unfinished).copied().collect();
        if regions.is_empty() {
            return Ok(None);
        }
        let regions = IpNet::aggregate(&regions);
        let is_redone = !unfinished.is_empty();
        let revokes = is_redone || step.iter().any(|(_, one)| !one.removed.is_empty());
        let lists = step.iter().map(|(list, _)| self.enforced.set(*list));
        let concerns =
            |live: &Live| is_redone || lists.clone().any(|list| live.standing.names(list));
        let Some(amendments) = self.amendments(&regions, concerns)? else {
            return Ok(Some("the tables have no room left for it"));
        };
        let generation = self.manifest.generation;
        self.enforced.write(store, generation, &regions)?;
        for (live, amendment) in self.live.iter_mut().zip(&amendments) {
            if let (Some(live), Some(amendment)) = (live, amendment) {
                live.tables.amend(amendment)?;
                if revokes {
                    live.tables.renew_revision()?;
                }
            }
        }
        self.enforced.write(store, generation, &[])?;
        Ok(None)
    }

    /// What is to be written into the tables of each attachment, if anything;
    /// `None` if one of them can't take it.
    fn amendments(
        &self,
        regions: &[IpNet],
        concerns: impl Fn(&Live) -> bool,
    ) -> Result<Option<Vec<Option<Amendment>>>> {
        let Some(near) = self.enforced.near(self.index.as_ref(), regions)? else {
            return Ok(None);
        };
        let mut amendments = Vec::new();
        for live in &self.live {
            let Some(live) = live.as_ref().filter(|live| concerns(live)) else {
                amendments.push(None);
                continue;
            };
            let amendment = live.standing.amend(&near, regions, live.tables.words())?;
            if amendment.is_none() {
                return Ok(None);
            }
            amendments.push(amendment);
        }
        Ok(Some(amendments))
    }

    /// Puts the enforced policy into force anew, as it is now.
    async fn recompile(&self, store: &Store, logs_packets: bool) -> Result<Replaced> {
        let policy = self.enforced.policy()?;
        let rule_file = self.manifest.rule_file.clone().into();
        let loaded = Loaded {
            policy,
            warnings: Vec::new(),
            sessions: Vec::new(),
            files: Vec::new(),
        };
        let mut prepared = enforce::compile(rule_file, loaded, &self.slots)?;
        prepared.logs_packets = logs_packets;
        prepared.edited = self.enforced.edited().collect();
        let interfaces = interfaces::list().await?;
        let previous = Some(&self.manifest);
        let applied = enforce::enforce(store, &prepared, &interfaces, Missing::Skip, previous)?;
        Ok(Replaced { prepared, applied })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_what_is_only_in_one() {
        let list = |text: &str| -> Vec<IpNet> {
            text.split_whitespace()
                .map(|prefix| prefix.parse().expect("a prefix"))
                .collect()
        };
        let before = list("10.0.0.0/8 10.0.0.0/16 192.0.2.1/32 ::/0");
        let after = list("10.0.0.0/8 10.0.0.0/24 192.0.2.1/32 2001:db8::/32");
        let found = difference(&before, &after);
        assert_eq!(found.added, list("10.0.0.0/24 2001:db8::/32"));
        assert_eq!(found.removed, list("10.0.0.0/16 ::/0"));
        assert!(difference(&before, &before).is_empty());
    }
}
