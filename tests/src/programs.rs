//! The loaded programs of a policy, one frame at a time, in the words of the
//! oracle.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use sg_agent::{
    compile::{CompiledRule, Slots, assign_slots, compile},
    dataplane::{
        object::{FLOW_MAPS, Shared},
        sandbox::{Hook, ProgramSize, Sandbox},
    },
    policy::{Direction, Policy},
};
use sg_common::{
    config,
    counter::{Tally, tally},
    flow::{Flow, Opener, Stage},
    verdict::{Implicit, Reason, cause},
};

use crate::oracle::Judgement;

/// The host's ephemeral ports in these tests; Linux's default.
pub const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// No time-out ends a flow while a test runs, however busy the machine is: the
/// oracle has no clock.
const DAY_NS: u64 = 86_400_000_000_000;

/// Every hook, with the direction of its packets.
pub const HOOKS: [(Hook, Direction); 3] = [
    (Hook::Xdp, Direction::Inbound),
    (Hook::TcIngress, Direction::Inbound),
    (Hook::TcEgress, Direction::Outbound),
];

/// The programs of one attachment in the kernel, attached to nothing.
pub struct Programs {
    sandbox: Sandbox,
    rules: Vec<CompiledRule>,
}

impl Programs {
    /// Compiles and loads.
    ///
    /// # Errors
    ///
    /// If the policy exceeds a limit, or what the kernel refused.
    pub fn load(policy: &Policy, attachment: usize) -> Result<Self> {
        let shared = Shared {
            ephemeral_ports: EPHEMERAL,
            timeouts_ns: [DAY_NS; _],
            ..Shared::default()
        };
        Self::load_with(policy, attachment, &shared)
    }

    /// As [`Programs::load`], with other time-outs and table sizes.
    ///
    /// # Errors
    ///
    /// As [`Programs::load`].
    pub fn load_with(policy: &Policy, attachment: usize, shared: &Shared) -> Result<Self> {
        let attachment = policy
            .attachments
            .get(attachment)
            .context("no such attachment")?;
        let slots = assign_slots(policy, &Slots::default())?;
        let compiled = compile(policy, attachment, &slots)?;
        let sandbox = Sandbox::load(&compiled, shared)?;
        Ok(Self {
            sandbox,
            rules: compiled.rules,
        })
    }

    /// What time it is for the programs from now on, as [`Sandbox::set_clock`].
    pub fn set_clock(&mut self, now_ns: u64) {
        self.sandbox.set_clock(now_ns);
    }

    /// What a hook does with a frame, and what it decided. The two differ in
    /// audit mode only.
    ///
    /// # Errors
    ///
    /// If the kernel refused to run it, or if the hook touched the frame.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<(bool, Judgement)> {
        let outcome = self.sandbox.run(hook, frame)?;
        ensure!(outcome.frame == frame, "{hook:?} changed the frame");
        let decision = outcome.decision;
        let judgement = Judgement {
            pass: decision.passes,
            reason: decision.reason.name(),
            rule: decision.rule.map(|rule| rule.id),
            flow: decision.flow.name(),
        };
        Ok((outcome.pass, judgement))
    }

    /// What a hook that enforces says of a frame.
    ///
    /// # Errors
    ///
    /// As [`Programs::run`], or if the hook does not do what it decided.
    pub fn judge(&mut self, hook: Hook, frame: &[u8]) -> Result<Judgement> {
        let (pass, judgement) = self.run(hook, frame)?;
        ensure!(
            pass == judgement.pass,
            "{hook:?} decided {judgement:?}, but pass is {pass}"
        );
        Ok(judgement)
    }

    /// How big the programs are.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn sizes(&mut self) -> Result<Vec<ProgramSize>> {
        self.sandbox.programs()
    }

    /// The flows that `opener` opened, of both families.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn flows(&self, opener: Opener, stage: Stage) -> Result<Vec<Flow>> {
        let mut flows = Vec::new();
        for map in &FLOW_MAPS {
            if (map.opener, map.stage) == (opener, stage) {
                flows.extend(self.sandbox.flows(map)?);
            }
        }
        Ok(flows)
    }

    /// Every counter that is not 0, by the name that tables use.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn counters(&self) -> Result<BTreeMap<String, Count>> {
        let counters = self.sandbox.counters()?;
        let mut found = BTreeMap::new();
        for rule in &self.rules {
            let counter = counters.rule(rule.slot);
            let way = Count {
                packets: counter.packets,
                bytes: counter.bytes,
            };
            let back = Count {
                packets: counter.reply_packets,
                bytes: counter.reply_bytes,
            };
            found.insert(rule.id.to_string(), way);
            found.insert(format!("{} (replies)", rule.id), back);
        }
        for (direction, index) in [
            (Direction::Inbound, config::Direction::Inbound),
            (Direction::Outbound, config::Direction::Outbound),
        ] {
            let mut add = |name: String, at: u32| {
                let Tally { packets, bytes } = counters.tally(at);
                found.insert(name, Count { packets, bytes });
            };
            for kind in Implicit::ALL {
                let name = format!("{direction} implicit {}", kind.name());
                add(name, tally(index, false, cause::of_implicit(kind)));
            }
            for reason in Reason::ALL {
                let (name, cause) = (reason.name(), cause::of_reason(reason));
                add(format!("{direction} {name}"), tally(index, false, cause));
                add(
                    format!("{direction} would_drop {name}"),
                    tally(index, true, cause),
                );
            }
        }
        found.retain(|_, count| *count != Count::default());
        Ok(found)
    }
}

/// What one counter says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Their bytes, with link-layer headers.
    pub bytes: u64,
}

impl Count {
    /// Counts one more packet.
    pub const fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}
