//! The rule files that are measured, made anew for each run and always the
//! same; each also as nftables writes it.

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::random::Random;

/// The port that the peers of a shape may reach, unless they have one each.
pub(super) const PORT: u16 = 443;

/// The first port of the rules that have one each.
const FIRST_PORT: usize = 1024;
/// Ports of each rule, where rules have ranges.
const PORT_RANGE: usize = 5;
/// Sets of more prefixes lie in files of their own, as people keep them.
const INLINE: usize = 1000;
const SEED: u64 = 1;

/// How large a shape is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    /// Prefixes, both families together.
    pub(super) prefixes: usize,
    /// Rules.
    pub(super) rules: usize,
}

/// A rule file, and who may do what by it.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// What people call it.
    pub(super) name: &'static str,
    /// The rule file.
    pub(super) rules: PathBuf,
    /// The same for nftables.
    pub(super) nft: PathBuf,
    /// Every prefix of which somebody may connect, and to which port.
    pub(super) allowed: Vec<(IpNet, u16)>,
}

/// Sets of prefixes, and rules that refer to them.
#[derive(Default)]
struct Content {
    sets: Vec<Vec<IpNet>>,
    rules: Vec<Rule>,
}

/// TCP from some sets to a range of ports.
struct Rule {
    /// Indexes; none is everywhere.
    from: Vec<usize>,
    ports: (usize, usize),
}

impl Size {
    /// A tenth of it.
    pub(super) const fn tenth(self) -> Self {
        Self {
            prefixes: self.prefixes / 10,
            rules: self.rules / 10,
        }
    }
}

/// What people call the shapes with as many prefixes as there are.
pub(super) const ROUTING_TABLE: &str = "routing table";
/// See [`ROUTING_TABLE`].
pub(super) const SCATTERED: &str = "scattered hosts";
/// See [`ROUTING_TABLE`].
pub(super) const ADVERSARIAL: &str = "adversarial";

impl Shape {
    /// The three shapes of many prefixes.
    pub(super) fn all(directory: &Path, size: Size) -> Result<[Self; 3]> {
        Ok([
            Self::routing_table(directory, ROUTING_TABLE, size)?,
            Self::scattered(directory, SCATTERED, size.prefixes)?,
            Self::adversarial(directory, ADVERSARIAL, size)?,
        ])
    }

    /// As many rules as asked for, each for a port, from everywhere. The first
    /// is for [`PORT`].
    pub(super) fn rules_only(directory: &Path, name: &'static str, rules: usize) -> Result<Self> {
        let rule = |index| Rule {
            from: Vec::new(),
            ports: one_port(index),
        };
        let content = Content {
            sets: Vec::new(),
            rules: (0..rules).map(rule).collect(),
        };
        let everywhere = ["0.0.0.0/0", "::/0"].map(str::parse::<IpNet>);
        let everywhere = everywhere.into_iter().flatten();
        let allowed = everywhere.map(|net| (net, PORT)).collect();
        content.write(directory, name, allowed)
    }

    /// A routing table: prefixes of /16 to /24 (IPv6: /32 to /48), close
    /// together, most of them in a hundred large sets ("regions") and some in
    /// as many small ones ("customers"). The first rule opens [`PORT`] to all of
    /// them; the others have a port each, a hundred for a region and the rest
    /// for a customer.
    pub(super) fn routing_table(directory: &Path, name: &'static str, size: Size) -> Result<Self> {
        const REGIONS: usize = 100;
        const CUSTOMER_PREFIXES: usize = 10;

        let mut random = Random::new(SEED);
        let customers = (size.rules / 100).max(1);
        let mut table = RoutingTable::new(&mut random, size.prefixes);
        let mut content = Content::default();
        for _ in 0..REGIONS {
            content.sets.push(Vec::new());
        }
        for _ in 0..customers {
            let customer = table.block_v4(&mut random, CUSTOMER_PREFIXES);
            content.sets.push(customer);
        }
        let left = size.prefixes.saturating_sub(customers * CUSTOMER_PREFIXES);
        for _ in 0..left {
            // A block belongs to one region, as those of a country do.
            let (block, prefix) = table.prefix(&mut random);
            content.sets[block % REGIONS].push(prefix);
        }
        content.rules = (0..size.rules)
            .map(|index| Rule {
                from: match index {
                    0 => (0..REGIONS + customers).collect(),
                    1..=REGIONS => vec![index - 1],
                    _ => vec![REGIONS + index % customers],
                },
                ports: one_port(index),
            })
            .collect();
        let allowed = content.sets.iter().flatten();
        let allowed = allowed.map(|prefix| (*prefix, PORT)).collect();
        content.write(directory, name, allowed)
    }

    /// Single addresses with nothing in common, half of each family, in one
    /// set of one rule: a list of hosts.
    pub(super) fn scattered(directory: &Path, name: &'static str, prefixes: usize) -> Result<Self> {
        let mut random = Random::new(SEED);
        let mut seen = HashSet::new();
        while seen.len() < prefixes {
            let v6 = seen.len() % 2 == 1;
            seen.insert(any_prefix(&mut random, v6, if v6 { 128 } else { 32 }));
        }
        let mut hosts: Vec<IpNet> = seen.into_iter().collect();
        hosts.sort();
        let allowed = hosts.iter().map(|host| (*host, PORT)).collect();
        let content = Content {
            sets: vec![hosts],
            rules: vec![Rule {
                from: vec![0],
                ports: one_port(0),
            }],
        };
        content.write(directory, name, allowed)
    }

    /// What a compiler can merge nothing of: every rule has prefixes and ports
    /// that no other has, of any length and anywhere.
    pub(super) fn adversarial(directory: &Path, name: &'static str, size: Size) -> Result<Self> {
        let mut random = Random::new(SEED);
        let mut content = Content::default();
        let mut seen = HashSet::new();
        let mut allowed = Vec::new();
        for index in 0..size.rules {
            let first = FIRST_PORT + index * PORT_RANGE;
            let mut set = Vec::new();
            while set.len() < size.prefixes / size.rules {
                let v6 = set.len() % 2 == 1;
                let len = if v6 {
                    random.between(40, 128)
                } else {
                    random.between(20, 32)
                };
                let prefix = any_prefix(&mut random, v6, octet(len));
                if seen.insert(prefix) {
                    set.push(prefix);
                    allowed.push((prefix, port(first)));
                }
            }
            content.sets.push(set);
            content.rules.push(Rule {
                from: vec![index],
                ports: (first, first + PORT_RANGE - 1),
            });
        }
        content.write(directory, name, allowed)
    }
}

/// A rule file whose one rule for [`PORT`] makes an entry for each flow.
pub(super) fn tracked(directory: &Path) -> Result<PathBuf> {
    let text = format!(
        "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"bench\"]\n[groups.bench]\n\
         inbound = [{{ name = \"r0\", protocol = \"tcp\", ports = {PORT}, \
         from = [\"0.0.0.0/0\", \"::/0\"], track = \"always\" }}]\n"
    );
    write(directory, "tracked.toml", &text)
}

/// Where the prefixes of a routing table lie.
struct RoutingTable {
    /// /16s.
    blocks_v4: Vec<u32>,
    /// /32s.
    blocks_v6: Vec<u32>,
    seen: HashSet<IpNet>,
}

impl RoutingTable {
    fn new(random: &mut Random, prefixes: usize) -> Self {
        /// The regional registries' parts of `2000::/3`, 12 bits each.
        const REGISTRIES: [u32; 5] = [0x200, 0x240, 0x260, 0x280, 0x2a0];
        let v4 = (prefixes / 33).clamp(8, 30_000);
        let v6 = (prefixes / 100).max(8);
        let slash_16 = |random: &mut Random| word(random.between(0x0100, 0xdfff)) << 16;
        let slash_32 =
            |random: &mut Random| *random.pick(&REGISTRIES) << 20 | word(random.below(1 << 20));
        let blocks_v4: BTreeSet<u32> = (0..v4).map(|_| slash_16(random)).collect();
        let blocks_v6: BTreeSet<u32> = (0..v6).map(|_| slash_32(random)).collect();
        Self {
            blocks_v4: blocks_v4.into_iter().collect(),
            blocks_v6: blocks_v6.into_iter().collect(),
            seen: HashSet::new(),
        }
    }

    /// A prefix that was not there yet, and its block; one in five is IPv6.
    fn prefix(&mut self, random: &mut Random) -> (usize, IpNet) {
        loop {
            let (block, prefix) = if random.chance(20) {
                let block = random.below(self.blocks_v6.len());
                (block, in_block_v6(random, self.blocks_v6[block]))
            } else {
                let block = random.below(self.blocks_v4.len());
                (block, in_block_v4(random, self.blocks_v4[block]))
            };
            if self.seen.insert(prefix) {
                return (block, prefix);
            }
        }
    }

    /// New prefixes of one block, except that a crowded one may have fewer.
    fn block_v4(&mut self, random: &mut Random, count: usize) -> Vec<IpNet> {
        let block = *random.pick(&self.blocks_v4);
        let drawn = (0..count).map(|_| in_block_v4(random, block));
        drawn.filter(|prefix| self.seen.insert(*prefix)).collect()
    }
}

/// The lengths of a routing table, roughly as the Internet's are: more than
/// half are /24.
fn in_block_v4(random: &mut Random, block: u32) -> IpNet {
    const LENGTHS: [u8; 20] = [
        16, 17, 18, 19, 20, 20, 21, 21, 22, 22, 22, 23, 23, 24, 24, 24, 24, 24, 24, 24,
    ];
    let len = if random.chance(40) {
        24
    } else {
        *random.pick(&LENGTHS)
    };
    prefix_v4(block | word(random.below(1 << 16)), len)
}

fn in_block_v6(random: &mut Random, block: u32) -> IpNet {
    const LENGTHS: [u8; 10] = [32, 36, 40, 44, 44, 46, 47, 48, 48, 48];
    let host = u128::from(random.bits()) << 32;
    prefix_v6(u128::from(block) << 96 | host, *random.pick(&LENGTHS))
}

/// A prefix anywhere.
fn any_prefix(random: &mut Random, v6: bool, len: u8) -> IpNet {
    if v6 {
        let bits = u128::from(random.bits()) << 64 | u128::from(random.bits());
        return prefix_v6(bits >> 3 | 1 << 125, len);
    }
    prefix_v4(word(random.between(0x0100_0000, 0xdfff_ffff)), len)
}

fn prefix_v4(bits: u32, len: u8) -> IpNet {
    let net = Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), len);
    IpNet::V4(net.trunc())
}

fn prefix_v6(bits: u128, len: u8) -> IpNet {
    let net = Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), len);
    IpNet::V6(net.trunc())
}

/// The one port of the rule of that index.
fn one_port(index: usize) -> (usize, usize) {
    let port = match index {
        0 => usize::from(PORT),
        _ => FIRST_PORT + index,
    };
    (port, port)
}

fn word(value: usize) -> u32 {
    u32::try_from(value).expect("bounded by 32 bits")
}

fn port(value: usize) -> u16 {
    u16::try_from(value).expect("there are not that many rules")
}

fn octet(value: usize) -> u8 {
    u8::try_from(value).expect("a prefix length")
}

impl Content {
    /// Writes both files.
    fn write(
        &self,
        directory: &Path,
        name: &'static str,
        allowed: Vec<(IpNet, u16)>,
    ) -> Result<Shape> {
        let stem = name.replace([' ', ','], "-");
        Ok(Shape {
            name,
            rules: write(
                directory,
                &format!("{stem}.toml"),
                &self.toml(directory, &stem)?,
            )?,
            nft: write(directory, &format!("{stem}.nft"), &self.nft()?)?,
            allowed,
        })
    }

    fn toml(&self, directory: &Path, stem: &str) -> Result<String> {
        let mut text = "[[attach]]\ninterfaces = [\"eth0\"]\ngroups = [\"bench\"]\n".to_owned();
        text += "[sets]\n";
        for (index, set) in self.sets.iter().enumerate() {
            if set.len() > INLINE {
                let file = format!("{stem}-s{index}.txt");
                write(directory, &file, &joined(set.iter(), "", "\n"))?;
                writeln!(text, "s{index} = {{ file = \"{file}\" }}")?;
            } else {
                let list = joined(set.iter(), "\"", ", ");
                writeln!(text, "s{index} = [{list}]")?;
            }
        }
        text += "[groups.bench]\ninbound = [\n";
        for (index, Rule { from, ports }) in self.rules.iter().enumerate() {
            let sets = from.iter().map(|set| format!("set:s{set}"));
            let from = if from.is_empty() {
                "\"0.0.0.0/0\", \"::/0\"".to_owned()
            } else {
                joined(sets, "\"", ", ")
            };
            let (first, last) = ports;
            writeln!(
                text,
                "{{ name = \"r{index}\", protocol = \"tcp\", ports = \"{first}-{last}\", from = [{from}] }},"
            )?;
        }
        text += "]\n";
        Ok(text)
    }

    /// nftables matches one family at a time.
    fn nft(&self) -> Result<String> {
        let mut text = "table inet bench {\n".to_owned();
        for (index, set) in self.sets.iter().enumerate() {
            for (family, v6) in [(4, false), (6, true)] {
                let elements = set.iter().filter(|net| matches!(net, IpNet::V6(_)) == v6);
                let mut elements = joined(elements, "", ", ");
                if !elements.is_empty() {
                    elements = format!(" elements = {{ {elements} }}");
                }
                let kind = format!("type ipv{family}_addr; flags interval; auto-merge;");
                writeln!(text, "set s{index}v{family} {{ {kind}{elements} }}")?;
            }
        }
        text += "chain input {\ntype filter hook input priority 0; policy drop;\n\
                 ct state established,related accept\n";
        for Rule { from, ports } in &self.rules {
            let accept = format!("tcp dport {}-{} accept", ports.0, ports.1);
            if from.is_empty() {
                writeln!(text, "{accept}")?;
            }
            for set in from {
                writeln!(text, "ip saddr @s{set}v4 {accept}")?;
                writeln!(text, "ip6 saddr @s{set}v6 {accept}")?;
            }
        }
        text += "}\n}\n";
        Ok(text)
    }
}

fn joined(items: impl Iterator<Item: ToString>, quote: &str, separator: &str) -> String {
    let items = items.map(|item| format!("{quote}{}{quote}", item.to_string()));
    items.collect::<Vec<_>>().join(separator)
}

fn write(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("can't write `{}`", path.display()))?;
    Ok(path)
}
