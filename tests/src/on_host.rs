//! The decision of one attachment on the host, in the words of the oracle: the
//! code of the programs with everything they have in memory.

use anyhow::{Context as _, Result};
use sg_agent::{
    compile::{CompiledRule, Slots, assign_slots, compile},
    policy::{Direction, Policy},
};
use sg_common::{
    config,
    verdict::{FlowKind, Reason, Verdict, VerdictRecord},
};
use sg_judge::memory::Memory;

use crate::{oracle::Judgement, programs::EPHEMERAL};

/// What [`crate::programs::Programs`] is in the kernel.
pub struct OnHost {
    memory: Memory<Vec<u32>>,
    rules: Vec<CompiledRule>,
}

impl OnHost {
    /// Compiles.
    ///
    /// # Errors
    ///
    /// If the policy exceeds a limit.
    pub fn load(policy: &Policy, attachment: usize) -> Result<Self> {
        let attachment = policy
            .attachments
            .get(attachment)
            .context("no such attachment")?;
        let slots = assign_slots(policy, &Slots::default())?;
        let compiled = compile(policy, attachment, &slots)?;
        let mut words = compiled.words;
        // As the agent stamps each load.
        if let Some(revision) = words.first_mut() {
            *revision = 1;
        }
        Ok(Self {
            memory: Memory::new(words, compiled.flags, EPHEMERAL),
            rules: compiled.rules,
        })
    }

    /// What the decision says of a frame.
    ///
    /// # Errors
    ///
    /// If it says what nobody knows.
    pub fn judge(&self, direction: Direction, frame: &[u8]) -> Result<Judgement> {
        let direction = match direction {
            Direction::Inbound => config::Direction::Inbound,
            Direction::Outbound => config::Direction::Outbound,
        };
        let mut read = frame.to_vec();
        let verdict = self.memory.judge(direction, &mut read);
        anyhow::ensure!(read == frame, "the decision changed the frame");
        self.judgement(verdict)
    }

    fn judgement(&self, verdict: Verdict) -> Result<Judgement> {
        let record = VerdictRecord::from(verdict);
        let unknown = |_| anyhow::anyhow!("unknown verdict {record:?}");
        let rule = self.rules.iter().find(|rule| rule.slot == record.slot);
        Ok(Judgement {
            pass: verdict.passes(),
            reason: Reason::try_from(record.reason).map_err(unknown)?.name(),
            rule: rule.map(|rule| rule.id.clone()),
            flow: FlowKind::try_from(record.flow).map_err(unknown)?.name(),
        })
    }

    /// How many flows have entries.
    #[must_use]
    pub fn flows(&self) -> usize {
        self.memory.flows()
    }
}
