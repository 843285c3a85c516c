//! From a rule file to a running generation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use sg_common::classify::Match;

use crate::{
    compile::{
        self, Compiled, Slots,
        expect::{self, Failure},
    },
    dataplane::{
        generation::{self, Applied, AttachmentRequest, Request},
        interfaces::Interface,
        manifest::{Manifest, RuleRecord},
        object::Shared,
        store::Store,
        table_sizes::TableSizes,
    },
    enforced::{self, ListId},
    policy::{self, Attachment, Direction, Expectation, Loaded, OnRevoke, Policy, Settings},
    reset, takeover,
};

/// A rule file that could be enforced.
#[derive(Debug)]
pub struct Prepared {
    /// What it says.
    pub loaded: Loaded,
    /// The counter of each rule.
    pub slots: Slots,
    /// The tables, one for each attachment.
    pub compiled: Vec<Compiled>,
    /// Which of its own tests fail.
    pub failures: Vec<Failure>,
    /// Whether the programs write a line for each packet to the developers' log.
    pub logs_packets: bool,
    /// The sets that are no longer what the rule file says.
    pub edited: BTreeSet<ListId>,
    path: PathBuf,
}

impl Prepared {
    /// The number of the attachment of `interface`; without one, that of the
    /// only attachment.
    ///
    /// # Errors
    /// There is none, or several.
    pub fn attachment_of(&self, interface: Option<&str>) -> Result<usize> {
        attachment_of(&self.loaded.policy, interface)
    }
}

/// See [`Prepared::attachment_of`].
///
/// # Errors
/// There is none, or several.
pub fn attachment_of(policy: &Policy, interface: Option<&str>) -> Result<usize> {
    let is_meant = |attachment: &Attachment| {
        interface.is_none_or(|name| {
            let mut patterns = attachment.interfaces.iter();
            patterns.any(|pattern| pattern == name || policy::covers(pattern, name))
        })
    };
    let attachments = policy.attachments.iter().enumerate();
    let mut meant = attachments.filter(|(_, attachment)| is_meant(attachment));
    match (meant.next(), meant.next(), interface) {
        (Some((number, _)), None, _) => Ok(number),
        (None, _, Some(name)) => bail!(
            "no attachment has the interface `{name}`; there are {}",
            patterns(policy)
        ),
        _ => bail!(
            "{} attachments, expected one: choose it with `--interface`, of {}",
            policy.attachments.len(),
            patterns(policy)
        ),
    }
}

/// The interfaces of all attachments, as written.
#[must_use]
pub fn patterns(policy: &Policy) -> String {
    let patterns = policy.attachments.iter().flat_map(|one| &one.interfaces);
    let patterns: Vec<String> = patterns.map(|pattern| format!("`{pattern}`")).collect();
    patterns.join(", ")
}

/// Reads, compiles and tests a rule file. Rules in `slots` keep their counters.
///
/// # Errors
/// The file is bad; nothing was touched.
pub fn prepare(path: &Path, slots: &Slots) -> Result<Prepared> {
    let loaded = policy::load(path)?;
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    compile(path, loaded, slots)
}

/// Compiles and tests what a rule file says, or said.
///
/// # Errors
/// A limit that it exceeds.
pub fn compile(path: PathBuf, loaded: Loaded, slots: &Slots) -> Result<Prepared> {
    let slots = compile::assign_slots(&loaded.policy, slots)?;
    let compiled = loaded
        .policy
        .attachments
        .iter()
        .map(|attachment| compile::compile(&loaded.policy, attachment, &slots))
        .collect::<Result<Vec<_>, _>>()?;
    let failures = expect::failures(&loaded.policy, &compiled);
    Ok(Prepared {
        loaded,
        slots,
        compiled,
        failures,
        logs_packets: false,
        edited: BTreeSet::new(),
        path,
    })
}

impl Prepared {
    /// Runs the tests of other files, too.
    ///
    /// # Errors
    /// One of the files is bad.
    pub fn add_tests(&mut self, files: &[PathBuf]) -> Result<()> {
        for file in files {
            let tests = policy::load_tests(file, &self.loaded.policy)?;
            self.loaded.policy.expectations.extend(tests);
        }
        self.failures = expect::failures(&self.loaded.policy, &self.compiled);
        Ok(())
    }
}

/// Brings a prepared rule file live on the interfaces it names.
///
/// # Errors
/// One of its tests fails, an interface is missing, or the kernel refuses. In
/// every case what was live stays.
pub fn enforce(
    store: &Store,
    prepared: &Prepared,
    interfaces: &[Interface],
    missing: Missing,
    previous: Option<&Manifest>,
) -> Result<Applied> {
    check_tests(prepared)?;
    let matched = match_interfaces(&prepared.loaded.policy, interfaces, missing)?;
    let request = request(prepared, matched, previous)?;
    let mut applied = generation::apply(store, &request, previous)?;
    let seeded = applied.manifest.seeded - previous.map_or(0, |previous| previous.seeded);
    applied.notes.extend(takeover::note(seeded));
    let reset = reset::revoked(store, &applied.manifest, &request.shared);
    applied.notes.extend(reset::note(reset));
    Ok(applied)
}

/// Refuses a rule file whose own tests fail.
///
/// # Errors
/// One does; all of them are in the message.
pub fn check_tests(prepared: &Prepared) -> Result<()> {
    if prepared.failures.is_empty() {
        return Ok(());
    }
    bail!(
        "a policy test fails\n{}nothing was changed",
        describe(&prepared.failures)
    )
}

/// Says which expectations failed, a line each.
#[must_use]
pub fn describe(failures: &[Failure]) -> String {
    let mut text = String::new();
    for failure in failures {
        let expectation = &failure.expectation;
        let wanted = if expectation.allowed { "pass" } else { "drop" };
        let (way, peer) = match expectation.direction {
            Direction::Inbound => ("from", expectation.peer),
            Direction::Outbound => ("to", expectation.peer),
        };
        let found = match &failure.rule {
            Some(rule) => format!("`pass`: rule `{}` allows it", rule.id),
            None => "`drop`: no rule allows it".to_owned(),
        };
        let _ = writeln!(
            text,
            "{}: expected `{wanted}` for {} {way} `{peer}` on {}, found {found}",
            expectation.place,
            service_of(expectation),
            failure.interfaces.join(", "),
        );
    }
    text
}

/// The service that an expectation's packet asks for, as the rule file says it.
fn service_of(expectation: &Expectation) -> String {
    let [kind, code] = expectation.port.to_be_bytes();
    match expectation.protocol {
        1 => format!("`icmp` type {kind} code {code}"),
        6 => format!("`tcp` port {}", expectation.port),
        17 => format!("`udp` port {}", expectation.port),
        58 => format!("`icmpv6` type {kind} code {code}"),
        132 => format!("`sctp` port {}", expectation.port),
        number => format!("protocol {number}"),
    }
}

/// What to do about an interface that the rule file names and that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Refuse the rule file: somebody is looking.
    Refuse,
    /// Protect the others: nobody is looking.
    Skip,
}

/// The interfaces of each attachment, in file order.
///
/// # Errors
/// A named interface does not exist or a glob matches none (and `missing` says
/// to refuse), two attachments match the same one, or one is of a type that
/// can't be protected.
pub fn match_interfaces(
    policy: &Policy,
    interfaces: &[Interface],
    missing: Missing,
) -> Result<Vec<Vec<Interface>>> {
    let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
    let mut all = Vec::new();
    for (number, attachment) in policy.attachments.iter().enumerate() {
        let found = interfaces_of(attachment, interfaces, missing)?;
        for interface in &found {
            interface.link_layer()?;
            if owners.insert(interface.index, number).is_some() {
                bail!(
                    "interface `{}` is matched by two attachments",
                    interface.name
                );
            }
        }
        all.push(found);
    }
    if owners.is_empty() {
        bail!("none of the interfaces that the rule file names is there");
    }
    Ok(all)
}

fn interfaces_of(
    attachment: &Attachment,
    interfaces: &[Interface],
    missing: Missing,
) -> Result<Vec<Interface>> {
    let mut found: Vec<Interface> = Vec::new();
    for pattern in &attachment.interfaces {
        let matching: Vec<&Interface> = interfaces
            .iter()
            .filter(|interface| !interface.is_loopback && policy::covers(pattern, &interface.name))
            .collect();
        if matching.is_empty() && missing == Missing::Refuse {
            bail!(
                "no interface matches `{pattern}`; there are {}",
                names(interfaces)
            );
        }
        for interface in matching {
            if !found.iter().any(|known| known.index == interface.index) {
                found.push(interface.clone());
            }
        }
    }
    Ok(found)
}

fn names(interfaces: &[Interface]) -> String {
    let names: Vec<String> = interfaces
        .iter()
        .filter(|interface| !interface.is_loopback)
        .map(|interface| format!("`{}`", interface.name))
        .collect();
    if names.is_empty() {
        "none but `lo`".to_owned()
    } else {
        names.join(", ")
    }
}

fn request<'a>(
    prepared: &'a Prepared,
    matched: Vec<Vec<Interface>>,
    previous: Option<&Manifest>,
) -> Result<Request<'a>> {
    let policy = &prepared.loaded.policy;
    let zones = assign_zones(&policy.attachments, previous);
    let is_new = |zone| previous.is_none_or(|manifest| manifest.in_zone(zone).is_none());
    let seeds = takeover::seeds(prepared, &zones, is_new);
    let keeps_all = seeds.iter().any(|seed| seed.rule == Match::kept());
    let attachments = policy
        .attachments
        .iter()
        .zip(&prepared.compiled)
        .zip(matched)
        .zip(zones)
        .map(|(((attachment, compiled), interfaces), zone)| {
            let before = previous.and_then(|manifest| manifest.in_zone(zone));
            AttachmentRequest {
                zone,
                patterns: attachment.interfaces.clone(),
                groups: attachment.groups.clone(),
                mode: attachment.mode,
                xdp: attachment.xdp,
                keeps: before.is_some_and(|before| before.keeps)
                    || has(policy, attachment, OnRevoke::Keep)
                    || keeps_all,
                resets: before.is_some_and(|before| before.resets)
                    || has(policy, attachment, OnRevoke::Reset),
                compiled,
                interfaces,
            }
        })
        .collect();
    Ok(Request {
        attachments,
        shared: shared(prepared),
        seeds,
        rule_file: prepared.path.display().to_string(),
        rules: rule_records(prepared),
        records: enforced::records(policy, &prepared.compiled, &prepared.edited)?,
    })
}

/// Whether a group of an attachment says this of its revoked rules' flows.
fn has(policy: &Policy, attachment: &Attachment, on_revoke: OnRevoke) -> bool {
    let mut groups = policy.groups.iter();
    groups.any(|group| group.on_revoke == on_revoke && attachment.groups.contains(&group.name))
}

/// An attachment keeps its zone, and so its flows, as long as one of its
/// interfaces is named as before.
pub(crate) fn assign_zones(attachments: &[Attachment], previous: Option<&Manifest>) -> Vec<u16> {
    let known = previous
        .map(|manifest| manifest.attachments.as_slice())
        .unwrap_or_default();
    let mut zones: Vec<Option<u16>> = Vec::new();
    for attachment in attachments {
        let kept = known
            .iter()
            .find(|record| {
                record
                    .interfaces
                    .iter()
                    .any(|pattern| attachment.interfaces.contains(pattern))
            })
            .map(|record| record.zone)
            .filter(|zone| !zones.contains(&Some(*zone)));
        zones.push(kept);
    }
    let taken: Vec<u16> = zones
        .iter()
        .flatten()
        .copied()
        .chain(known.iter().map(|record| record.zone))
        .collect();
    let mut free = (1..=u16::MAX).filter(|zone| !taken.contains(zone));
    zones
        .into_iter()
        .map(|zone| zone.or_else(|| free.next()).unwrap_or(u16::MAX))
        .collect()
}

/// What all attachments of a rule file are told.
#[must_use]
pub fn shared(prepared: &Prepared) -> Shared {
    Shared {
        log: prepared.logs_packets,
        ..shared_by(&prepared.loaded.policy.settings)
    }
}

/// What a policy's settings tell all attachments.
#[must_use]
pub fn shared_by(settings: &Settings) -> Shared {
    let timeouts = settings.timeouts;
    let fitting = TableSizes::of_machine();
    let seconds = [
        timeouts.tcp_half_open,
        timeouts.tcp_established,
        timeouts.tcp_closing,
        timeouts.tcp_time_wait,
        timeouts.tcp_reset,
        timeouts.udp_single,
        timeouts.udp_stream,
        timeouts.icmp,
        timeouts.other,
    ];
    Shared {
        ephemeral_ports: ephemeral_ports(),
        timeouts_ns: seconds.map(|seconds| u64::from(seconds) * 1_000_000_000),
        max_host_flows: settings.max_outbound.unwrap_or(fitting.established),
        max_peer_flows: settings.max_inbound.unwrap_or(fitting.established),
        max_opening_flows: settings.max_half_open.unwrap_or(fitting.opening),
        log: false,
    }
}

/// The ports that this namespace opens connections from.
fn ephemeral_ports() -> (u16, u16) {
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| {
            let mut ports = text.split_whitespace().map(str::parse);
            Some((ports.next()?.ok()?, ports.next()?.ok()?))
        })
        .unwrap_or(Shared::default().ephemeral_ports)
}

fn rule_records(prepared: &Prepared) -> Vec<RuleRecord> {
    let mut tracked: BTreeMap<u32, bool> = BTreeMap::new();
    for rule in prepared
        .compiled
        .iter()
        .flat_map(|compiled| &compiled.rules)
    {
        *tracked.entry(rule.slot).or_default() |= rule.tracked;
    }
    let groups = prepared.loaded.policy.groups.iter();
    groups
        .flat_map(compile::group_rules)
        .filter_map(|(id, _)| {
            let slot = *prepared.slots.get(&id)?;
            Some(RuleRecord {
                group: id.group,
                direction: id.direction,
                name: id.name,
                slot,
                tracked: tracked.get(&slot).copied(),
            })
        })
        .collect()
}

/// Whether the interfaces that `prepared` names are still those that
/// `manifest` protects.
#[must_use]
pub fn covers_interfaces(
    prepared: &Prepared,
    manifest: &Manifest,
    interfaces: &[Interface],
) -> bool {
    let Ok(matched) = match_interfaces(&prepared.loaded.policy, interfaces, Missing::Skip) else {
        // Nothing there to protect, or nothing that could be.
        return true;
    };
    let wanted = matched.iter().flatten().map(|interface| interface.index);
    let mut wanted: Vec<u32> = wanted.collect();
    let mut found: Vec<u32> = manifest.hooks().map(|hook| hook.index).collect();
    wanted.sort_unstable();
    found.sort_unstable();
    found.dedup();
    wanted == found
}
