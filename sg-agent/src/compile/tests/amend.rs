//! Sets that change in live tables: after each change, and each word of it, the
//! tables say what they should.

use super::*;

/// The policy with other prefixes in its sets, which its rules name in turn.
pub(super) fn with_sets(policy: &Policy, contents: &[Vec<IpNet>]) -> Policy {
    let mut policy = policy.clone();
    let set = |prefixes: &Vec<IpNet>| Arc::new(AddressSet::new("shared", None, prefixes.clone()));
    policy.sets = contents.iter().map(set).collect();
    for group in &mut policy.groups {
        let rules = group.inbound.iter_mut().chain(&mut group.outbound);
        for (number, rule) in rules.enumerate() {
            for peer in &mut rule.peers {
                if let Peer::Set(shared) = peer {
                    *shared = Arc::clone(&policy.sets[number % policy.sets.len()]);
                }
            }
        }
    }
    policy
}

/// Tables that are amended, and what is kept for that.
pub(super) struct Live {
    /// The policy that the tables were compiled from.
    policy: Policy,
    standing: Standing,
    tables: Compiled,
}

impl Live {
    pub(super) fn new(policy: &Policy) -> Self {
        let slots = assign_slots(policy, &Slots::new()).expect("slots");
        let tables = compiled(policy);
        let attachment = &policy.attachments[0];
        let standing = Standing::new(policy, attachment, &slots, &tables.openings);
        Self {
            standing: standing.expect("no limit is passed"),
            policy: policy.clone(),
            tables,
        }
    }

    /// What `after` changes, of which no more is told than has to be.
    fn amendment(&self, after: &Policy, regions: &[IpNet]) -> Option<Amendment> {
        let meets = |prefix: &&IpNet| {
            let mut regions = regions.iter();
            regions.any(|region| region.contains(*prefix) || prefix.contains(region))
        };
        let near = self
            .policy
            .sets
            .iter()
            .zip(&after.sets)
            .map(|(set, after)| {
                let prefixes: Vec<IpNet> = after.prefixes.iter().filter(meets).copied().collect();
                (set, prefixes)
            });
        let near: Vec<_> = near.filter(|(_, prefixes)| !prefixes.is_empty()).collect();
        let amendment = self.standing.amend(&near, regions, &self.tables.words);
        amendment.expect("no limit is passed")
    }
}

/// What differs between the sets, as [`Standing::amend`] wants it.
fn regions(before: &[Vec<IpNet>], after: &[Vec<IpNet>]) -> Vec<IpNet> {
    let only = |a: &[IpNet], b: &[IpNet]| -> Vec<IpNet> {
        a.iter()
            .filter(|prefix| !b.contains(prefix))
            .copied()
            .collect()
    };
    let pairs = before.iter().zip(after);
    let differing = pairs.flat_map(|(a, b)| [only(a, b), only(b, a)].concat());
    IpNet::aggregate(&differing.collect())
}

/// A question and its answer.
type Probe = (Direction, IpAddr, classify::Service);

fn probes(rules: [&[Rule]; 2], changed: &[IpNet]) -> Vec<Probe> {
    let changed = rule("changed", Service::All, changed);
    let mut probes = Vec::new();
    for (rules, direction) in rules
        .into_iter()
        .zip([Direction::Inbound, Direction::Outbound])
    {
        let mut peers = edges_of_peers(rules);
        peers.extend(edges_of_peers(std::slice::from_ref(&changed)));
        peers.sort_unstable();
        peers.dedup();
        let services = edges_of_services(rules);
        for peer in peers {
            probes.extend(services.iter().map(|service| (direction, peer, *service)));
        }
    }
    probes
}

fn answers(compiled: &Compiled, probes: &[Probe]) -> Vec<Option<Match>> {
    let answer =
        |(direction, peer, service): &Probe| look_up(compiled, *direction, *peer, *service);
    probes.iter().map(answer).collect()
}

/// Writes the amendment word by word; after each word every answer is the old
/// one or the new one. Says how many were written.
fn write(
    live: &mut Compiled,
    amendment: &Amendment,
    probes: &[Probe],
    new: &[Option<Match>],
) -> usize {
    let old = answers(live, probes);
    let mut differing: Vec<usize> = (0..probes.len()).collect();
    // Looking at all of them after each word would take minutes.
    differing.retain(|index| old[*index] != new[*index]);
    let watched: Vec<usize> = differing
        .into_iter()
        .take(20)
        .chain((0..probes.len()).step_by(97))
        .collect();
    let words = amendment.writes().collect::<Vec<_>>();
    let (silent, switches) = words.split_at(words.len() - amendment.switches());
    for (index, word) in silent {
        live.words[*index] = *word;
    }
    assert_eq!(
        answers(live, probes),
        old,
        "nothing leads to what is not switched"
    );
    for (index, word) in switches {
        live.words[*index] = *word;
        for probe in &watched {
            let (direction, peer, service) = probes[*probe];
            let found = look_up(live, direction, peer, service);
            assert!(
                found == old[*probe] || found == new[*probe],
                "{peer} {service:?}: {found:?} is neither"
            );
        }
    }
    words.len()
}

/// Changes the sets of `live` in place, or compiles anew where it must be.
pub(super) fn change(live: &mut Live, before: &Policy, after: &Policy, regions: &[IpNet]) {
    let whole = compiled(after);
    let rules = |policy: &Policy| {
        [
            policy.groups[0].inbound.clone(),
            policy.groups[0].outbound.clone(),
        ]
    };
    let [inbound, outbound] = rules(before);
    let [new_inbound, new_outbound] = rules(after);
    let probes = probes(
        [
            &[inbound, new_inbound].concat(),
            &[outbound, new_outbound].concat(),
        ],
        regions,
    );
    let expected = answers(&whole, &probes);
    let Some(amendment) = live.amendment(after, regions) else {
        *live = Live::new(after);
        return;
    };
    let live = &mut live.tables;
    write(live, &amendment, &probes, &expected);
    for (probe, (found, expected)) in probes
        .iter()
        .zip(answers(live, &probes).iter().zip(&expected))
    {
        assert_eq!(found, expected, "{probe:?}");
    }
    let is_open = |opening: Opening| opening == Opening::Everything;
    assert_eq!(
        live.openings.map(|side| side.map(is_open)),
        whole.openings.map(|side| side.map(is_open)),
        "what is open for everybody changes only by a compile"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Sets that change again and again, in place, are as if compiled.
    #[test]
    fn amended_tables_equal_compiled_ones(
        inbound in any_rules(),
        outbound in any_rules(),
        contents in proptest::collection::vec(any_sets(), 2..6),
    ) {
        let policy = policy(inbound, outbound);
        let mut before = with_sets(&policy, &contents[0]);
        let mut live = Live::new(&before);
        for pair in contents.windows(2) {
            let after = with_sets(&policy, &pair[1]);
            change(&mut live, &before, &after, &regions(&pair[0], &pair[1]));
            before = after;
        }
    }
}

/// What three sets hold.
fn any_sets() -> impl Strategy<Value = Vec<Vec<IpNet>>> {
    proptest::collection::vec(proptest::collection::vec(any_prefix(), 0..6), 3)
}

/// One prefix after the other, in and out of tables with every kind of node.
#[test]
fn every_kind_of_node_can_be_changed() {
    let all = prefixes_of_all_shapes();
    let (kept, moved) = all.split_at(all.len() - 100);
    let mut rules = vec![rule("set", ports(PortProtocol::Tcp, 80..=80), &[])];
    rules[0].peers.push(Peer::Set(Arc::new(AddressSet::new(
        "shared",
        None,
        Vec::new(),
    ))));
    rules.push(rule(
        "other",
        ports(PortProtocol::Tcp, 22..=22),
        &all[..2000],
    ));
    let policy = policy(rules, Vec::new());
    let mut now = kept.to_vec();
    let mut live = Live::new(&with_sets(&policy, std::slice::from_ref(&now)));
    let (mut in_place, mut words) = (0, 0);
    let wide = [
        "10.0.0.0/13",
        "10.1.0.0/17",
        "10.1.2.0/28",
        "2001:db8::/29",
        "::/0",
        "172.16.0.0/12",
    ]
    .map(prefix);
    for prefix in moved
        .iter()
        .step_by(5)
        .chain(&wide)
        .flat_map(|prefix| [prefix; 2])
    {
        match now.iter().position(|known| known == prefix) {
            Some(place) => drop(now.remove(place)),
            None => now.push(*prefix),
        }
        let after = with_sets(&policy, std::slice::from_ref(&now));
        let amended = live.amendment(&after, &[*prefix]);
        let whole = compiled(&after);
        let near = rule("near", Service::All, &[*prefix]);
        let everybody = rule("all", Service::All, &now);
        let service = |selector| classify::Service {
            protocol: 6,
            selector,
        };
        let peers = edges_of_peers(&[near])
            .into_iter()
            .chain(edges_of_peers(&[everybody]).into_iter().step_by(41));
        let probes: Vec<Probe> = peers
            .flat_map(|peer| [80, 22].map(|port| (Direction::Inbound, peer, service(port))))
            .collect();
        let expected = answers(&whole, &probes);
        match amended {
            Some(amendment) => {
                words += write(&mut live.tables, &amendment, &probes, &expected);
                in_place += 1;
            }
            None => live = Live::new(&after),
        }
        let found = answers(&live.tables, &probes);
        for (index, probe) in probes.iter().enumerate() {
            assert_eq!(found[index], expected[index], "{prefix}: {probe:?}");
        }
    }
    assert!(in_place > 40, "{in_place} were changed in place");
    assert!(words / in_place < 400, "{} words each", words / in_place);
}

/// What takes or gives everybody everything changes which rules are tracked:
/// that is not for live tables.
#[test]
fn what_changes_tracking_is_compiled() {
    let mut rules = vec![rule("set", Service::All, &[])];
    rules[0].peers.push(Peer::Set(Arc::new(AddressSet::new(
        "shared",
        None,
        Vec::new(),
    ))));
    let policy = policy(
        vec![rule("in", Service::All, &[prefix("10.0.0.0/8")])],
        rules,
    );
    let halves = ["0.0.0.0/1", "128.0.0.0/1"].map(prefix);
    let amended = |before: &[IpNet], after: &[IpNet]| {
        let [before, after] = [before, after].map(|one| [one.to_vec()]);
        let live = Live::new(&with_sets(&policy, &before));
        let regions = regions(&before, &after);
        live.amendment(&with_sets(&policy, &after), &regions)
            .is_some()
    };
    assert!(!amended(&halves[..1], &halves), "now all outbound is open");
    assert!(!amended(&halves, &halves[1..]), "now it is not any more");
    assert!(amended(&[], &halves[1..]));
}
