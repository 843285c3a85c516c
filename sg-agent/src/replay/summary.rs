//! What became of all packets, for people.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use comfy_table::Table;

use super::{Conversation, Fate};
use crate::{
    observe::table::{align_right, finish, heading, new_table},
    policy::{Direction, Mode, Service},
};

/// At most so many rules and so many conversations are shown.
const SHOWN: usize = 20;

/// Counts of packets.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// By direction and verdict.
    verdicts: BTreeMap<(Option<Direction>, &'static str), u64>,
    /// By what let them pass.
    passed: BTreeMap<String, u64>,
    /// By direction and reason.
    dropped: BTreeMap<(Direction, &'static str), u64>,
    skipped: BTreeMap<String, u64>,
    cut: BTreeMap<Cut, Packets>,
    packets: u64,
}

/// Packets that would have been dropped for the same cause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cut {
    direction: Direction,
    about: Option<Conversation>,
    reason: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Packets {
    count: u64,
    /// Of the first one, counted as in JSON.
    first: u64,
}

impl Summary {
    /// Counts packet `n`.
    pub fn add(&mut self, n: u64, fate: &Fate) {
        self.packets += 1;
        match fate {
            Fate::Judged {
                direction,
                decision,
                about,
            } => {
                let reason = decision.reason.name();
                if decision.passes {
                    *self.passed.entry(what_passed(fate)).or_default() += 1;
                } else {
                    *self.dropped.entry((*direction, reason)).or_default() += 1;
                    let cut = Cut {
                        direction: *direction,
                        about: *about,
                        reason,
                    };
                    let packets = self.cut.entry(cut);
                    packets.or_insert(Packets { count: 0, first: n }).count += 1;
                }
                let verdict = if decision.passes { "pass" } else { "drop" };
                *self
                    .verdicts
                    .entry((Some(*direction), verdict))
                    .or_default() += 1;
            }
            Fate::Skipped(skip) => {
                *self.skipped.entry(skip.to_string()).or_default() += 1;
                *self.verdicts.entry((None, "skip")).or_default() += 1;
            }
        }
    }

    /// All of it as text.
    #[must_use]
    pub fn render(&self, mode: Mode, styled: bool) -> String {
        let mut text = format!("{} packets\n", self.packets);
        text += &self.verdicts(styled);
        text += &self.passed(styled);
        text += &self.dropped(mode, styled);
        text += &self.conversations(styled);
        text
    }

    fn verdicts(&self, styled: bool) -> String {
        let rows = self.verdicts.iter().map(|((direction, verdict), packets)| {
            let direction = direction.map_or_else(|| "-".to_owned(), |way| way.to_string());
            vec![direction, (*verdict).to_owned(), packets.to_string()]
        });
        let mut text = section("", &["direction", "verdict", "packets"], rows, 2..3, styled);
        for (why, packets) in &self.skipped {
            let _ = writeln!(text, " skipped {packets}: {why}");
        }
        text
    }

    fn passed(&self, styled: bool) -> String {
        let mut passed: Vec<_> = self.passed.iter().collect();
        passed.sort_by_key(|(_, packets)| std::cmp::Reverse(**packets));
        let rows = passed.iter().take(SHOWN);
        let rows = rows.map(|(what, packets)| vec![(*what).clone(), packets.to_string()]);
        let title = "what let them pass";
        section(title, &["rule", "packets"], rows, 1..2, styled) + &more(passed.len(), "")
    }

    fn dropped(&self, mode: Mode, styled: bool) -> String {
        let title = match mode {
            Mode::Enforce => "why they were dropped",
            Mode::Audit => "why they would have been dropped; audit mode lets them pass",
        };
        let rows = self.dropped.iter().map(|((direction, reason), packets)| {
            vec![
                direction.to_string(),
                (*reason).to_owned(),
                packets.to_string(),
            ]
        });
        section(
            title,
            &["direction", "reason", "packets"],
            rows,
            2..3,
            styled,
        )
    }

    fn conversations(&self, styled: bool) -> String {
        let mut cut: Vec<_> = self.cut.iter().collect();
        cut.sort_by_key(|(_, packets)| (std::cmp::Reverse(packets.count), packets.first));
        let rows = cut.iter().take(SHOWN).map(|(cut, packets)| {
            vec![
                cut.direction.to_string(),
                cut.to_string(),
                cut.reason.to_owned(),
                packets.count.to_string(),
                format!("#{}", packets.first),
            ]
        });
        section(
            "who would have been cut",
            &["direction", "packet", "reason", "packets", "first"],
            rows,
            3..5,
            styled,
        ) + &more(cut.len(), "; `--json` has every packet")
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(about) = &self.about else {
            return f.write_str("not IP, or not to be read");
        };
        match self.direction {
            Direction::Inbound => write!(f, "{} to {}", about.peer, about.local)?,
            Direction::Outbound => write!(f, "{} to {}", about.local, about.peer)?,
        }
        match about.service {
            Some((protocol, selector)) => {
                write!(f, ", {}", Service::asked_for(protocol, selector))
            }
            None => Ok(()),
        }
    }
}

/// The rule, or in brackets what passes without one.
fn what_passed(fate: &Fate) -> String {
    let Fate::Judged { decision, .. } = fate else {
        return String::new();
    };
    match (&decision.rule, decision.implicit) {
        (Some(rule), _) => rule.id.to_string(),
        (None, Some(implicit)) => format!("(implicit: {})", implicit.name()),
        (None, None) => format!("({})", decision.reason.name()),
    }
}

/// A titled table; nothing if it has no rows.
fn section(
    title: &str,
    columns: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
    numbers: std::ops::Range<usize>,
    styled: bool,
) -> String {
    let mut table: Table = new_table(styled);
    table.set_header(heading(columns));
    table.add_rows(rows);
    if table.is_empty() {
        return String::new();
    }
    align_right(&mut table, numbers);
    let title = if title.is_empty() {
        String::new()
    } else {
        format!("{title}:\n")
    };
    format!("\n{title}{}", finish(&table))
}

fn more(all: usize, hint: &str) -> String {
    match all.checked_sub(SHOWN) {
        None | Some(0) => String::new(),
        Some(rest) => format!(" and {rest} more{hint}\n"),
    }
}
