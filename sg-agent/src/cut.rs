//! Which connections a rule file would cut, before it is in force.

use std::{collections::HashMap, net::IpAddr};

use anyhow::{Context as _, Result};
use sg_common::classify::OnRevoke;

use crate::{
    compile::{self, Compiled},
    connection::{self, Addresses, Connection},
    dataplane::{live_flows, manifest::Manifest, store::Store},
    enforce::{self, Prepared},
    policy::{Attachment, Mode, Policy, Seed},
};

/// The caller's own session, if an attachment of the rule file decides about
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnSession {
    /// Its ends.
    pub connection: Connection,
    /// The number of that attachment.
    pub attachment: usize,
    /// Whether it would be cut.
    pub is_cut: bool,
}

impl OwnSession {
    /// What becomes of it.
    #[must_use]
    pub fn of(prepared: &Prepared) -> Option<Self> {
        let connection = connection::own_session()?;
        let rules = Rules::new(&prepared.loaded.policy, &prepared.compiled);
        let attachment = rules.attachment_at(&Addresses::of_this_host(), connection.local)?;
        Some(Self {
            connection,
            attachment,
            is_cut: !rules.allow(attachment, &connection),
        })
    }
}

/// The connections that go on now and that the rules of `prepared` would end.
///
/// Those that the flow tables remember are looked at, but for those that live
/// on without a rule, and, since untracked connections have no entry there, this
/// host's TCP sockets. `rules_in_force` is asked only if there is one that the
/// new rules don't allow; `None` means that they were not kept: then everything
/// that goes on is taken for allowed.
///
/// # Errors
/// The flow tables can't be read, or `rules_in_force` can't.
pub fn connections(
    store: &Store,
    prepared: &Prepared,
    in_force: Option<&Manifest>,
    rules_in_force: impl FnOnce() -> Result<Option<Policy>>,
) -> Result<Vec<Connection>> {
    let policy = &prepared.loaded.policy;
    let zones = enforce::assign_zones(&policy.attachments, in_force);
    let new = Rules::new(policy, &prepared.compiled);
    let addresses = Addresses::of_this_host();

    // The first enforcement of an attachment takes over what goes on.
    let takes_all = |attachment: usize| {
        policy.settings.seed == Seed::All
            && in_force.is_none_or(|manifest| manifest.in_zone(zones[attachment]).is_none())
    };
    let mut sockets = HashMap::new();
    for connection in connection::tcp_connections() {
        let after = new.attachment_at(&addresses, connection.local);
        if after.is_some_and(|after| !new.allow(after, &connection) && !takes_all(after)) {
            sockets.insert(connection.ends(), connection);
        }
    }
    let mut flows = Vec::new();
    live_flows::visit(store, &enforce::shared(prepared), |flow| {
        sockets.remove(&flow.connection.ends());
        let is_kept = flow.entry.on_revoke() == OnRevoke::Keep;
        // An attachment that goes leaves its interfaces unprotected.
        let after = zones.iter().position(|zone| *zone == flow.zone);
        if !is_kept && after.is_some_and(|after| !new.allow(after, &flow.connection)) {
            flows.push((flow.zone, flow.connection));
        }
        Ok(())
    })?;
    if flows.is_empty() && sockets.is_empty() {
        return Ok(Vec::new());
    }

    let rules_in_force = rules_in_force()?;
    let old = Old::new(in_force, rules_in_force.as_ref())?;
    let of_sockets = sockets.into_values();
    let of_sockets = of_sockets.filter(|connection| old.allow_at(&addresses, connection));
    let of_flows = flows.into_iter();
    let of_flows = of_flows.filter(|(zone, connection)| old.allow_in_zone(*zone, connection));
    let of_flows = of_flows.map(|(_, connection)| connection);
    let mut cut: Vec<Connection> = of_sockets.chain(of_flows).collect();
    cut.sort_unstable();
    Ok(cut)
}

/// Attachments with their tables.
struct Rules<'a> {
    attachments: &'a [Attachment],
    compiled: &'a [Compiled],
}

impl<'a> Rules<'a> {
    fn new(policy: &'a Policy, compiled: &'a [Compiled]) -> Self {
        Self {
            attachments: &policy.attachments,
            compiled,
        }
    }

    fn attachment_at(&self, addresses: &Addresses, address: IpAddr) -> Option<usize> {
        addresses.attachment_of(self.attachments, address)
    }

    fn allow(&self, attachment: usize, connection: &Connection) -> bool {
        let audits = |attachment: &Attachment| attachment.mode == Mode::Audit;
        self.attachments.get(attachment).is_none_or(audits)
            || self
                .compiled
                .get(attachment)
                .is_none_or(|tables| connection.passes(&tables.words))
    }
}

/// What is in force, compiled again.
struct Old<'a> {
    in_force: Option<(&'a Manifest, &'a Policy, Vec<Compiled>)>,
}

impl<'a> Old<'a> {
    fn new(manifest: Option<&'a Manifest>, policy: Option<&'a Policy>) -> Result<Self> {
        let known = manifest.zip(policy);
        let compile = |(manifest, policy): (&'a Manifest, &'a Policy)| {
            let slots = manifest.slots();
            let attachments = policy.attachments.iter();
            let compiled = attachments
                .map(|attachment| compile::compile(policy, attachment, &slots))
                .collect::<Result<Vec<_>, _>>()?;
            Ok::<_, compile::CompileError>((manifest, policy, compiled))
        };
        let in_force = known.map(compile).transpose();
        Ok(Self {
            in_force: in_force.context("compiling the rules in force")?,
        })
    }

    fn allow_in_zone(&self, zone: u16, connection: &Connection) -> bool {
        self.in_force
            .as_ref()
            .is_none_or(|(manifest, policy, compiled)| {
                let mut attachments = manifest.attachments.iter();
                let attachment = attachments.position(|attachment| attachment.zone == zone);
                attachment.is_none_or(|attachment| {
                    Rules::new(policy, compiled).allow(attachment, connection)
                })
            })
    }

    fn allow_at(&self, addresses: &Addresses, connection: &Connection) -> bool {
        self.in_force.as_ref().is_none_or(|(_, policy, compiled)| {
            let rules = Rules::new(policy, compiled);
            let attachment = rules.attachment_at(addresses, connection.local);
            attachment.is_none_or(|attachment| rules.allow(attachment, connection))
        })
    }
}
