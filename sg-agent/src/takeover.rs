//! Which connections the first enforcement takes over: those that went on
//! before there were programs to remember them.

use sg_common::classify::Match;

use crate::{
    connection::{self, Addresses},
    dataplane::seed::Seed,
    enforce::Prepared,
    policy,
};

/// What goes on now at the interfaces of attachments for which `is_new`, where
/// `zones` are those of all attachments, and that needs an entry to go on.
#[must_use]
pub fn seeds(prepared: &Prepared, zones: &[u16], is_new: impl Fn(u16) -> bool) -> Vec<Seed> {
    let policy = &prepared.loaded.policy;
    let wanted = policy.settings.seed;
    if wanted == policy::Seed::None || !zones.iter().any(|zone| is_new(*zone)) {
        return Vec::new();
    }
    let addresses = Addresses::of_this_host();
    let mut seeds = Vec::new();
    for connection in connection::existing(&addresses) {
        let attachment = addresses.attachment_of(&policy.attachments, connection.local);
        let Some((attachment, zone)) =
            attachment.and_then(|number| Some((number, *zones.get(number)?)))
        else {
            continue;
        };
        if !is_new(zone) {
            continue;
        }
        let words = &prepared.compiled[attachment].words;
        let rule = match connection.rule(words) {
            Some(rule) if rule.is_untracked() => continue,
            Some(rule) => rule.word(),
            None if wanted == policy::Seed::All && !connection.passes(words) => Match::kept(),
            None => continue,
        };
        seeds.push(Seed {
            zone,
            connection,
            rule,
        });
    }
    seeds
}

/// What a person is told of it.
#[must_use]
pub fn note(seeded: u32) -> Option<String> {
    match seeded {
        0 => None,
        1 => Some("1 connection was taken over that was there before".to_owned()),
        number => Some(format!(
            "{number} connections were taken over that were there before"
        )),
    }
}
