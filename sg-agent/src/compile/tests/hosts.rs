//! Single addresses that lie scattered: buckets of them, and what those have no
//! room for.

use super::*;
use sg_common::tables::{Bucket, Entry, Skip};

/// Where addresses are drawn from: the bits that they have in common, how many
/// of them, and how many of the next bits some of them have in common, too.
#[derive(Clone, Copy, Debug)]
struct Field {
    family: Family,
    base: u128,
    depth: u32,
    crowd: u32,
}

impl Field {
    /// One in eight addresses is of the crowd: its bucket has no room for it.
    fn address(self, bits: u64) -> IpNet {
        let [selector, .., last] = bits.to_be_bytes();
        let mut scattered = u128::from(bits.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64;
        scattered |= u128::from(bits.rotate_left(17));
        if selector.is_multiple_of(8) {
            scattered = u128::from(last) << 64 | u128::from(bits >> 32 & 0xfff);
            scattered <<= 64 - self.crowd.min(48);
        }
        let key = self.base | scattered >> self.depth;
        let address = match self.family {
            Family::V4 => IpAddr::V4(u32::try_from(key >> 96).expect("32 bits").into()),
            Family::V6 => IpAddr::V6(key.into()),
        };
        address.into()
    }
}

fn any_field() -> impl Strategy<Value = Field> {
    let v4 = prop_oneof![Just((0, 0)), Just((0x0a01 << 112, 16))];
    let v4 = v4.prop_map(|(base, depth)| (Family::V4, base, depth));
    let v6 = prop_oneof![0u32..1, 16u32..17, 32u32..33, 64u32..65];
    let v6 = v6.prop_map(|depth| {
        let base = 0x2001_0db8_0000_0001_u128 << 64;
        let kept = base.checked_shr(128 - depth).unwrap_or(0);
        (
            Family::V6,
            kept.checked_shl(128 - depth).unwrap_or(0),
            depth,
        )
    });
    (prop_oneof![v4, v6], 0u32..48).prop_map(|((family, base, depth), crowd)| Field {
        family,
        base,
        depth,
        crowd,
    })
}

/// What a service of everybody's is, for probes.
const SSH: classify::Service = classify::Service {
    protocol: 6,
    selector: 22,
};
const WEB: classify::Service = classify::Service {
    protocol: 6,
    selector: 80,
};

/// Two rules that share some of their addresses, so that there are three classes.
fn rules_of(first: &[IpNet], second: &[IpNet]) -> Vec<Rule> {
    vec![
        rule("ssh", ports(PortProtocol::Tcp, 22..=22), first),
        rule("web", ports(PortProtocol::Tcp, 80..=80), second),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Among hosts everybody is what the rules say, as are those who are not
    /// listed: neighbours, and who agrees with one in most bits.
    #[test]
    fn b12_b13_hosts_equal_brute_force(
        field in any_field(),
        drawn in proptest::collection::vec(any::<u64>(), 5..120),
        others in proptest::collection::vec(any::<u64>(), 40),
    ) {
        let hosts: Vec<IpNet> = drawn.iter().map(|bits| field.address(*bits)).collect();
        let rules = rules_of(&hosts[..hosts.len() * 2 / 3], &hosts[hosts.len() / 3..]);
        let compiled = compiled(&policy(rules.clone(), Vec::new()));
        let mut peers = edges_of_peers(&rules);
        peers.extend(others.iter().map(|bits| field.address(*bits).addr()));
        peers.extend(hosts.iter().map(|host| flipped(host.addr(), others[0])));
        for peer in peers {
            for service in [SSH, WEB] {
                let found = look_up(&compiled, Direction::Inbound, peer, service);
                let expected = brute_force(&rules, peer, service);
                prop_assert_eq!(found.is_some(), expected.is_some(), "{}", peer);
            }
        }
    }

    /// Hosts come and go, and prefixes around them, in place.
    #[test]
    fn hosts_can_be_changed_in_place(
        field in any_field(),
        drawn in proptest::collection::vec(any::<u64>(), 20..100),
        moves in proptest::collection::vec((any::<u64>(), any::<prop::sample::Index>(), 0u8..=24), 1..12),
    ) {
        let hosts: Vec<IpNet> = drawn.iter().map(|bits| field.address(*bits)).collect();
        let (in_set, constant) = hosts.split_at(hosts.len() / 2);
        let mut rules = rules_of(constant, &[]);
        let shared = Arc::new(AddressSet::new("shared", None, Vec::new()));
        rules[1].peers.push(Peer::Set(shared));
        let policy = policy(rules, Vec::new());
        let mut now = in_set.to_vec();
        let mut before = amend::with_sets(&policy, std::slice::from_ref(&now));
        let mut live = amend::Live::new(&before);
        for (bits, known, wider) in moves {
            // A host that is there, or a new one; alone, or all around it.
            let host = if bits % 3 == 0 { *known.get(&hosts) } else { field.address(bits) };
            let length = host.prefix_len() - if bits % 2 == 0 { wider } else { 0 };
            let prefix = IpNet::new_assert(host.addr(), length).trunc();
            match now.iter().position(|known| *known == prefix) {
                Some(place) => drop(now.remove(place)),
                None => now.push(prefix),
            }
            let after = amend::with_sets(&policy, std::slice::from_ref(&now));
            amend::change(&mut live, &before, &after, &[prefix]);
            before = after;
        }
    }
}

/// An address with one bit changed.
fn flipped(address: IpAddr, bits: u64) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4((u32::from(address) ^ 1 << (bits % 32)).into()),
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) ^ 1 << (bits % 128)).into()),
    }
}

/// What hosts a policy of scattered ones has in its tables, once the bits are
/// skipped that they have in common.
fn hosts_entry(compiled: &Compiled, family: Family) -> Entry {
    let [inbound, _] = compiled.words.header().expect("a header").roots;
    let root = match family {
        Family::V4 => inbound.peers_v4,
        Family::V6 => inbound.peers_v6,
    };
    if root.kind() == Some(Kind::Skip) {
        let words = compiled.words.array::<{ Skip::WORDS }>(root.offset());
        let skip: Skip = bytemuck::cast(*words.expect("a skip"));
        return skip.inside;
    }
    root
}

#[test]
fn scattered_hosts_are_in_buckets_of_one_cache_line() {
    let mut numbers = numbers();
    for (family, base, depth) in [
        (Family::V4, 0, 0),
        (Family::V4, 0x0a01 << 112, 16),
        (Family::V6, 0x2001_0db8 << 96, 32),
    ] {
        let field = Field {
            family,
            base,
            depth,
            crowd: 0,
        };
        let hosts: Vec<IpNet> = numbers
            .by_ref()
            .take(100)
            .map(|bits| field.address(bits | 1 << 56))
            .collect();
        let compiled = compiled(&policy(vec![rule("r", Service::All, &hosts)], Vec::new()));
        let entry = hosts_entry(&compiled, family);
        assert_eq!(entry.kind(), Some(Kind::Hosts), "{field:?}");
        let buckets = 1 << entry.bucket_bits();
        assert!((16..=128).contains(&buckets), "{buckets} for 100 hosts");
        assert_eq!(entry.offset() % (Bucket::WORDS * 4), 0, "a cache line");
    }
}

/// Neighbours share the high bits of their unit: their buckets would be one.
#[test]
fn neighbours_are_not_taken_for_scattered() {
    let hosts: Vec<IpNet> = (0..100u8)
        .map(|last| IpAddr::from([10, 1, 2, 2 * last]).into())
        .collect();
    let compiled = compiled(&policy(vec![rule("r", Service::All, &hosts)], Vec::new()));
    let entry = hosts_entry(&compiled, Family::V4);
    assert!(
        !matches!(entry.kind(), Some(Kind::Hosts | Kind::Leaf)),
        "{:?}",
        entry.kind()
    );
}
