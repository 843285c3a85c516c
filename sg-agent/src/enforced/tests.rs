//! What is kept is what is read back.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::{
    compile::{self, Slots},
    policy,
};

const RULES: &str = r#"
[[attach]]
interfaces = ["eth0"]
groups = ["web", "caddy"]
mode = "audit"
xdp = "tc"

[sets]
office = ["198.51.100.0/24", "192.0.2.7", "2001:db8::/32", "::/0", "0.0.0.0/0"]
nobody = []

[groups.web]
description = "a \"web\" server"
inbound = [
  { name = "http", protocol = "tcp", ports = [80, "8000-8010"], from = ["set:office", "203.0.113.0/24"] },
  { name = "ssh", protocol = "tcp", ports = 22, from = ["set:office", "group:caddy"], track = "always" },
  { name = "ping", protocol = "icmp", type = "echo-request", from = ["0.0.0.0/0"] },
]

[groups.caddy]
members = ["172.18.0.5", "fd00::5"]
inbound = [{ name = "nobody", protocol = 47, from = ["set:nobody"] }]
outbound = []

[flows]
tcp_established = 300

[[expect]]
packet = { from = "203.0.113.9", protocol = "tcp", port = 22 }
verdict = "drop"
"#;

fn policy() -> Policy {
    let loaded = policy::parse("rules.toml", RULES, Path::new(""));
    loaded.expect("the rules are good").policy
}

/// A policy as it lies in a run directory.
struct Kept {
    directory: TempDir,
    policy: Policy,
}

impl Kept {
    fn new() -> Self {
        let policy = policy();
        let slots = compile::assign_slots(&policy, &Slots::new()).expect("slots");
        let compiled = compile::compile(&policy, &policy.attachments[0], &slots);
        let compiled = [compiled.expect("it compiles")];
        let directory = tempfile::tempdir().expect("a directory");
        for record in records(&policy, &compiled, &BTreeSet::new()).expect("it can be written") {
            record.replace(directory.path()).expect("it can be written");
        }
        Self { directory, policy }
    }

    fn open(&self) -> Enforced {
        let enforced = Enforced::open_in(self.directory.path());
        enforced.expect("it is sound").expect("it is there")
    }

    /// Opens it after a file has become another one.
    fn damaged(&self, name: &str, damage: impl Fn(Vec<u8>) -> Vec<u8>) -> bool {
        let path = self.directory.path().join(name);
        let bytes = fs::read(&path).expect("it is there");
        fs::write(&path, damage(bytes.clone())).expect("it can be written");
        let enforced = Enforced::open_in(self.directory.path());
        let is_refused =
            enforced.and_then(|enforced| enforced.map(|enforced| enforced.policy()).transpose());
        fs::write(&path, bytes).expect("it can be written");
        is_refused.is_err()
    }
}

fn prefix(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

#[test]
fn what_is_kept_is_what_is_read() {
    let kept = Kept::new();
    let read = kept.open().policy().expect("it is sound");
    assert_eq!(read, kept.policy);
    let set = read.sets.first().expect("there is a set");
    let sharing = read.groups.iter().flat_map(|group| &group.inbound);
    let sharing = sharing.flat_map(|rule| &rule.peers).filter(
        |peer| matches!(peer, Peer::Set(named) if std::ptr::eq(named.as_ref(), set.as_ref())),
    );
    assert_eq!(sharing.count(), 2, "rules share a set, not copies of it");
}

#[test]
fn damage_is_found() {
    let kept = Kept::new();
    assert!(!kept.damaged(PREFIXES, |bytes| bytes), "no damage");
    assert!(kept.damaged(PREFIXES, |_| Vec::new()), "no prefixes");
    assert!(
        kept.damaged(PREFIXES, |bytes| bytes[1..].to_vec()),
        "one octet less"
    );
    assert!(
        kept.damaged(POLICY, |bytes| bytes[..bytes.len() / 2].to_vec()),
        "half a policy"
    );
    let length_of_33 = |mut bytes: Vec<u8>| {
        bytes[4] = 33;
        bytes
    };
    assert!(kept.damaged(PREFIXES, length_of_33), "a length of 33");
}

#[test]
fn changes_are_kept_beside() {
    let kept = Kept::new();
    let mut enforced = kept.open();
    let office = enforced.find("office").expect("there is such a set");
    assert_eq!(enforced.find("set:office").expect("the same"), office);
    assert!(enforced.find("caddy").is_err());
    let members = enforced.find("group:caddy").expect("there are members");
    let [old, new, member] = ["192.0.2.7/32", "203.0.113.0/28", "172.18.0.9/32"].map(prefix);
    enforced.change(
        office,
        &Difference {
            added: vec![new],
            removed: vec![old],
        },
    );
    let added = Difference {
        added: vec![member],
        removed: Vec::new(),
    };
    enforced.change(members, &added);
    enforced.set_edited(office, true);
    enforced
        .write_in(kept.directory.path(), &[new])
        .expect("it can be written");

    let again = kept.open();
    assert_eq!(again.under_way(), [new]);
    assert_eq!(again.edited().collect::<Vec<_>>(), [office]);
    assert_eq!(again.len(office).expect("sound"), 5);
    assert!(again.contains(office, &new).expect("sound"));
    assert!(!again.contains(office, &old).expect("sound"));
    let policy = again.policy().expect("sound");
    let expected: BTreeSet<IpNet> = kept.policy.sets[0]
        .prefixes
        .iter()
        .copied()
        .filter(|prefix| *prefix != old)
        .chain([new])
        .collect();
    assert_eq!(
        policy.sets[0].prefixes,
        expected.into_iter().collect::<Vec<_>>()
    );
    assert!(policy.groups[1].members.prefixes.contains(&member));

    let mut back = again;
    let undo = Difference {
        added: vec![old],
        removed: vec![new],
    };
    back.change(office, &undo);
    assert_eq!(
        back.prefixes(office).expect("sound"),
        kept.policy.sets[0].prefixes
    );
}

/// What is read for one prefix says of its addresses what the whole does.
#[test]
fn a_part_of_the_lists_is_enough() {
    let kept = Kept::new();
    let mut enforced = kept.open();
    let index = enforced.index().expect("sound");
    let members = enforced.find("group:caddy").expect("there are members");
    let [new, old] = ["198.51.100.64/26", "172.18.0.5/32"].map(prefix);
    enforced.change(
        members,
        &Difference {
            added: vec![new],
            removed: vec![old],
        },
    );
    let whole = enforced.policy().expect("sound");
    for region in [
        "192.0.2.0/24",
        "192.0.2.7/32",
        "198.51.100.128/25",
        "198.51.100.65/32",
        "198.51.0.0/16",
        "172.18.0.5/32",
        "203.0.113.0/32",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "2001:db8:1::/48",
        "fd00::/8",
        "::/0",
    ]
    .map(prefix)
    {
        let near = enforced.near(Some(&index), &[region]).expect("sound");
        let near = near.expect("little");
        let all = enforced.near(None, &[region]).expect("sound");
        let with_some = all
            .expect("little")
            .into_iter()
            .filter(|(_, some)| !some.is_empty());
        assert!(with_some.eq(near.iter().filter(|(_, some)| !some.is_empty()).cloned()));
        for address in [region.network(), region.broadcast()] {
            let holds =
                |prefixes: &[IpNet]| prefixes.iter().any(|prefix| prefix.contains(&address));
            for (list, whole) in lists(enforced.frame()).zip(lists(&whole)) {
                let found = near.iter().find(|(near, _)| Arc::ptr_eq(near, list));
                assert_eq!(
                    found.is_some_and(|(_, prefixes)| holds(prefixes)),
                    holds(&whole.prefixes),
                    "{region}: {address} in {}",
                    list.name
                );
            }
        }
    }
}
