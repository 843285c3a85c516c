//! Tables of packets: what each of them is, and what must become of it.
//!
//! A table runs on every hook, on programs of its own. After it, each counter
//! that its rows name has moved by exactly their packets, and no other has
//! moved at all.

use std::{collections::BTreeMap, path::Path};

use sg_agent::{
    dataplane::sandbox::Hook,
    policy::{self, Direction, Policy},
};

use crate::{
    packet::{Network, Packet},
    programs::{Count, HOOKS, Programs},
};

/// One packet and its end.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    direction: Direction,
    packet: Packet,
    end: End,
}

#[derive(Clone, Debug)]
struct End {
    pass: bool,
    reason: &'static str,
    /// `group/direction/name`
    rule: Option<&'static str>,
    /// The counter that moves.
    counter: String,
}

/// A packet towards the host, whose end is yet to be said.
#[must_use]
pub fn inbound(what: impl Into<String>, packet: Packet) -> Draft {
    Draft {
        what: what.into(),
        direction: Direction::Inbound,
        packet,
    }
}

/// A packet from the host, whose end is yet to be said.
#[must_use]
pub fn outbound(what: impl Into<String>, packet: Packet) -> Draft {
    Draft {
        what: what.into(),
        direction: Direction::Outbound,
        packet,
    }
}

/// A row without its end.
#[derive(Clone, Debug)]
pub struct Draft {
    what: String,
    direction: Direction,
    packet: Packet,
}

impl Draft {
    /// Passes by this rule, in the rule's own direction.
    #[must_use]
    pub fn by(self, rule: &'static str) -> Row {
        self.ends(End {
            pass: true,
            reason: "rule",
            rule: Some(rule),
            counter: rule.to_owned(),
        })
    }

    /// Passes in a flow that this rule allowed, the way the flow was opened.
    #[must_use]
    pub fn in_flow_of(self, rule: &'static str) -> Row {
        self.ends(End {
            pass: true,
            reason: "flow",
            rule: Some(rule),
            counter: rule.to_owned(),
        })
    }

    /// Passes as a reply to what this rule allowed.
    #[must_use]
    pub fn reply_to(self, rule: &'static str) -> Row {
        let counter = format!("{rule} (replies)");
        self.ends(End {
            pass: true,
            reason: "flow",
            rule: Some(rule),
            counter,
        })
    }

    /// Always passes, as this implicit allow.
    #[must_use]
    pub fn implicit(self, kind: &str) -> Row {
        let counter = format!("{} implicit {kind}", self.direction);
        self.ends(End {
            pass: true,
            reason: "implicit",
            rule: None,
            counter,
        })
    }

    /// Passes because it is not IP and the policy lets that pass.
    #[must_use]
    pub fn not_ip(self) -> Row {
        let counter = format!("{} implicit non_ip", self.direction);
        self.ends(End {
            pass: true,
            reason: "non_ip",
            rule: None,
            counter,
        })
    }

    /// Passes as an ICMP error about a flow.
    #[must_use]
    pub fn related(self) -> Row {
        let counter = format!("{} related", self.direction);
        self.ends(End {
            pass: true,
            reason: "related",
            rule: None,
            counter,
        })
    }

    /// Is dropped.
    #[must_use]
    pub fn drops(self, reason: &'static str) -> Row {
        let counter = format!("{} {reason}", self.direction);
        self.ends(End {
            pass: false,
            reason,
            rule: None,
            counter,
        })
    }

    fn ends(self, end: End) -> Row {
        Row {
            what: self.what,
            direction: self.direction,
            packet: self.packet,
            end,
        }
    }
}

/// The policy of a rule file's text, for one attachment on `eth0`.
///
/// # Panics
///
/// If it is no valid rule file.
#[must_use]
pub fn policy(text: &str) -> Policy {
    match policy::parse("table.toml", text, Path::new(".")) {
        Ok(loaded) => loaded.policy,
        Err(error) => panic!("{error}"),
    }
}

/// Runs a table on every hook.
///
/// # Panics
///
/// If a row ends otherwise, or a counter disagrees.
pub fn run(rules: &str, rows: &[Row]) {
    let policy = policy(rules);
    for (hook, _) in HOOKS
        .iter()
        .filter(|(_, direction)| *direction == Direction::Inbound)
    {
        run_on(&policy, *hook, rows);
    }
}

fn run_on(policy: &Policy, ingress: Hook, rows: &[Row]) {
    let mut programs = Programs::load(policy, 0).expect("the programs load");
    let mut counters = BTreeMap::new();
    for row in rows {
        let hook = match row.direction {
            Direction::Inbound => ingress,
            Direction::Outbound => Hook::TcEgress,
        };
        if !can_run(hook, &row.packet) {
            continue;
        }
        let found = programs
            .judge(hook, &row.packet.bytes())
            .unwrap_or_else(|error| panic!("{} on {hook:?}: {error:#}", row.what));
        let rule = found.rule.map(|rule| rule.to_string());
        assert_eq!(
            (found.pass, found.reason, rule.as_deref()),
            (row.end.pass, row.end.reason, row.end.rule),
            "{} on {hook:?}",
            row.what
        );
        let counter: &mut Count = counters.entry(row.end.counter.clone()).or_default();
        counter.add(row.packet.len());
    }
    let found = programs.counters().expect("the counters can be read");
    assert_eq!(found, counters, "counters after the table on {ingress:?}");
}

/// `BPF_PROG_TEST_RUN` on a tc hook refuses IP packets without a whole IP
/// header (`bpf_prog_test_run_skb`); the same code judges them at XDP.
#[must_use]
pub fn can_run(hook: Hook, packet: &Packet) -> bool {
    let header = match packet.network {
        _ if hook == Hook::Xdp || !packet.tags.is_empty() => 1,
        Network::V4(_) => 20,
        Network::V6(_) => 40,
        _ => 1,
    };
    packet.len() >= 14 + header
}
