//! How every interface stands: protected, by what, or not.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Serialize;

use super::FlowTableStatus;
use crate::{
    dataplane::{
        attach, generation,
        interfaces::{self, Interface},
        manifest::{AttachmentRecord, HookRecord, Manifest, Place},
        store::Store,
    },
    enforced::Enforced,
    policy::{Direction, Mode},
};

/// How things stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether every hook of the generation is in place, and there is one.
    pub protected: bool,
    /// The generation, if one is live.
    pub generation: Option<u32>,
    /// When it went live, RFC 3339.
    pub applied_at: Option<String>,
    /// The rule file it was made from.
    pub rule_file: Option<String>,
    /// Every interface but `lo`.
    pub interfaces: Vec<InterfaceStatus>,
    /// How many flows were taken over that were there before the programs.
    pub seeded: u32,
    /// Sets that a command changed: no longer what the rule file says.
    pub edited_sets: Vec<String>,
    /// How full the tables of established flows are.
    pub flow_tables: Vec<FlowTableStatus>,
    /// What is not as it should be.
    pub problems: Vec<String>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Whether it is up.
    pub up: bool,
    /// Whether both directions are judged.
    pub protected: bool,
    /// Enforced or only watched, where it is protected.
    pub mode: Option<Mode>,
    /// The groups on it.
    pub groups: Vec<String>,
    /// Where inbound packets are judged.
    pub inbound: Option<HookStatus>,
    /// Where outbound packets are judged.
    pub outbound: Option<HookStatus>,
    /// Other programs on its hooks.
    pub other_programs: Vec<String>,
}

/// One hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HookStatus {
    /// Where.
    pub place: Place,
    /// The program's number in the kernel.
    pub program: u32,
}

impl Status {
    /// Looks at the kernel, with the description of what should be there.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub async fn read(store: &Store, manifest: Option<&Manifest>) -> Result<Self> {
        let ours = generation::own_programs(store);
        let found = interfaces::list().await?;
        let mut problems = Vec::new();
        let mut rows = Vec::new();
        for interface in found.iter().filter(|interface| !interface.is_loopback) {
            rows.push(InterfaceStatus {
                other_programs: other_programs(store, interface, &ours),
                ..interface_status(store, manifest, interface, &mut problems)
            });
        }
        for hook in manifest.into_iter().flat_map(Manifest::hooks) {
            if !found.iter().any(|interface| interface.index == hook.index) {
                problems.push(format!(
                    "interface `{}` (index {}) is gone, its {} hook with it; `sg-agent apply` \
                     protects one that came back",
                    hook.interface, hook.index, hook.direction
                ));
            }
        }
        if manifest.is_none() && generation::has_links(store) {
            problems.push(
                "there are pins but no description of them; `sg-agent apply` makes it anew"
                    .to_owned(),
            );
        }
        let has_hooks = manifest.is_some_and(|manifest| manifest.hooks().next().is_some());
        Ok(Self {
            protected: has_hooks && problems.is_empty(),
            generation: manifest.map(|manifest| manifest.generation),
            applied_at: manifest.map(|manifest| manifest.applied_at.clone()),
            rule_file: manifest.map(|manifest| manifest.rule_file.clone()),
            interfaces: rows,
            seeded: manifest.map_or(0, |manifest| manifest.seeded),
            edited_sets: manifest.map_or_else(Vec::new, |manifest| {
                edited_sets(store, manifest, &mut problems)
            }),
            flow_tables: flow_tables(store, &mut problems),
            problems,
        })
    }
}

fn flow_tables(store: &Store, problems: &mut Vec<String>) -> Vec<FlowTableStatus> {
    FlowTableStatus::all(store).unwrap_or_else(|error| {
        problems.push(format!("{error:#}"));
        Vec::new()
    })
}

/// The sets that a command changed.
fn edited_sets(store: &Store, manifest: &Manifest, problems: &mut Vec<String>) -> Vec<String> {
    match Enforced::open(store, manifest.generation) {
        Ok(Some(enforced)) => enforced.edited().map(|list| enforced.name(list)).collect(),
        Ok(None) => Vec::new(),
        Err(error) => {
            problems.push(format!("{error:#}"));
            Vec::new()
        }
    }
}

fn interface_status(
    store: &Store,
    manifest: Option<&Manifest>,
    interface: &Interface,
    problems: &mut Vec<String>,
) -> InterfaceStatus {
    let record = manifest.and_then(|manifest| record_of(manifest, interface.index));
    let hook = |direction| {
        record.and_then(|record| {
            record
                .hooks
                .iter()
                .find(|hook| hook.index == interface.index && hook.direction == direction)
        })
    };
    let mut live = [None, None];
    for (slot, direction) in live
        .iter_mut()
        .zip([Direction::Inbound, Direction::Outbound])
    {
        let Some(hook) = hook(direction) else {
            continue;
        };
        *slot = live_hook(store, interface, hook);
        if slot.is_none() {
            problems.push(format!(
                "the {direction} hook of `{}` ({}) is not in place; `sg-agent apply` puts it back",
                interface.name,
                hook.place.name()
            ));
        }
    }
    let [inbound, outbound] = live;
    InterfaceStatus {
        name: interface.name.clone(),
        index: interface.index,
        up: interface.is_up,
        protected: inbound.is_some() && outbound.is_some(),
        mode: record.map(|record| record.mode),
        groups: record
            .map(|record| record.groups.clone())
            .unwrap_or_default(),
        inbound,
        outbound,
        other_programs: Vec::new(),
    }
}

fn record_of(manifest: &Manifest, index: u32) -> Option<&AttachmentRecord> {
    manifest
        .attachments
        .iter()
        .find(|attachment| attachment.hooks.iter().any(|hook| hook.index == index))
}

/// What the kernel says of a hook; the description is only where to look.
fn live_hook(store: &Store, interface: &Interface, hook: &HookRecord) -> Option<HookStatus> {
    let program = match hook.place {
        Place::Clsact => Some(hook.program),
        // One that the kernel does not show is as good as none.
        _ => attach::linked_program(store, hook.direction, hook.index)
            .ok()
            .flatten(),
    };
    let program = program?;
    let place = match hook.place {
        Place::XdpNative | Place::XdpGeneric => interface
            .xdp
            .filter(|xdp| xdp.program == program)
            .map(|xdp| {
                if xdp.native {
                    Place::XdpNative
                } else {
                    Place::XdpGeneric
                }
            }),
        Place::Tcx => attach::tcx_programs(&interface.name, hook.direction)
            .iter()
            .any(|(id, _)| *id == program)
            .then_some(Place::Tcx),
        Place::Clsact => interface
            .filters(hook.direction)
            .contains(&program)
            .then_some(Place::Clsact),
    };
    place.map(|place| HookStatus { place, program })
}

/// Programs on an interface that are not ours. Those that are about to be live
/// are ours, too: they are pinned before they are attached, and as long as they
/// are.
fn other_programs(store: &Store, interface: &Interface, ours: &BTreeSet<u32>) -> Vec<String> {
    let xdp = interface
        .xdp
        .map(|xdp| (xdp.program, attach::name_of_program(xdp.program)))
        .into_iter()
        .map(|program| ("xdp", program));
    let tcx = [Direction::Inbound, Direction::Outbound]
        .into_iter()
        .flat_map(|direction| {
            let side = if direction == Direction::Inbound {
                "tcx ingress"
            } else {
                "tcx egress"
            };
            attach::tcx_programs(&interface.name, direction)
                .into_iter()
                .map(move |program| (side, program))
        });
    let unknown: Vec<_> = xdp
        .chain(tcx)
        .filter(|(_, (id, _))| !ours.contains(id))
        .collect();
    if unknown.is_empty() {
        return Vec::new();
    }
    // Some may have come since.
    let ours = generation::own_programs(store);
    unknown
        .into_iter()
        .filter(|(_, (id, _))| !ours.contains(id))
        .map(|(side, (id, name))| format!("{side}: {name} (id {id})"))
        .collect()
}
