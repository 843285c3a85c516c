//! Sets that change in live tables: after each change, and each word of it, the
//! tables say what they should.

use super::*;

/// The policy with other prefixes in its sets.
fn with_sets(policy: &Policy, prefixes: &[IpNet]) -> Policy {
    let mut policy = policy.clone();
    let set = Arc::new(AddressSet::new("shared", None, prefixes.to_vec()));
    for group in &mut policy.groups {
        let rules = group.inbound.iter_mut().chain(&mut group.outbound);
        for peer in rules.flat_map(|rule| &mut rule.peers) {
            if let Peer::Set(shared) = peer {
                *shared = Arc::clone(&set);
            }
        }
    }
    policy
}

/// What differs between two lists, as [`amend`] wants it.
fn regions(before: &[IpNet], after: &[IpNet]) -> Vec<IpNet> {
    let only = |a: &[IpNet], b: &[IpNet]| -> Vec<IpNet> {
        a.iter()
            .filter(|prefix| !b.contains(prefix))
            .copied()
            .collect()
    };
    IpNet::aggregate(&[only(before, after), only(after, before)].concat())
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

/// Changes the sets of `live` in place, or compiles anew where it must be; says
/// whether it was done in place.
fn change(live: &mut Compiled, before: &Policy, after: &Policy, regions: &[IpNet]) -> bool {
    let slots = assign_slots(after, &Slots::new()).expect("slots");
    let attachment = &after.attachments[0];
    let whole = compile(after, attachment, &slots).expect("compiles");
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
    let amendment = amend(
        after,
        attachment,
        &slots,
        &live.openings,
        regions,
        &live.words,
    );
    let Some(amendment) = amendment.expect("no limit is passed") else {
        *live = whole;
        return false;
    };
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
    true
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Sets that change again and again, in place, are as if compiled.
    #[test]
    fn amended_tables_equal_compiled_ones(
        inbound in any_rules(),
        outbound in any_rules(),
        contents in proptest::collection::vec(proptest::collection::vec(any_prefix(), 0..6), 2..6),
    ) {
        let policy = policy(inbound, outbound);
        let mut before = with_sets(&policy, &contents[0]);
        let mut live = compiled(&before);
        for pair in contents.windows(2) {
            let after = with_sets(&policy, &pair[1]);
            change(&mut live, &before, &after, &regions(&pair[0], &pair[1]));
            before = after;
        }
    }
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
    let before = with_sets(&policy, &now);
    let mut live = compiled(&before);
    let slots = assign_slots(&policy, &Slots::new()).expect("slots");
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
        let after = with_sets(&policy, &now);
        let amended = amend(
            &after,
            &after.attachments[0],
            &slots,
            &live.openings,
            &[*prefix],
            &live.words,
        );
        let whole = compile(&after, &after.attachments[0], &slots).expect("compiles");
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
        match amended.expect("no limit is passed") {
            Some(amendment) => {
                words += write(&mut live, &amendment, &probes, &expected);
                in_place += 1;
            }
            None => live = whole,
        }
        let found = answers(&live, &probes);
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
    let slots = assign_slots(&policy, &Slots::new()).expect("slots");
    let halves = ["0.0.0.0/1", "128.0.0.0/1"].map(prefix);
    let amended = |before: &[IpNet], after: &[IpNet]| {
        let live = compiled(&with_sets(&policy, before));
        let after_policy = with_sets(&policy, after);
        let attachment = &after_policy.attachments[0];
        let regions = regions(before, after);
        amend(
            &after_policy,
            attachment,
            &slots,
            &live.openings,
            &regions,
            &live.words,
        )
        .expect("no limit is passed")
        .is_some()
    };
    assert!(!amended(&halves[..1], &halves), "now all outbound is open");
    assert!(!amended(&halves, &halves[1..]), "now it is not any more");
    assert!(amended(&[], &halves[1..]));
}
