//! Our programs, loaded from a rule file as on a hook, but on none.

use std::{os::fd::BorrowedFd, path::Path};

use anyhow::{Context as _, Result};
use sg_agent::{
    compile::{Slots, assign_slots, compile},
    dataplane::{
        object::Shared,
        sandbox::{Hook, Sandbox},
    },
    policy,
};

use super::bpf::prove;

/// The programs of a rule file's first attachment.
pub(super) struct Ours(Sandbox);

impl Ours {
    /// Loads a rule file, with flow tables of these sizes.
    pub(super) fn load(rules: &Path, shared: &Shared) -> Result<Self> {
        let policy = policy::load(rules)?.policy;
        let attachment = policy.attachments.first().context("no attachment")?;
        let slots = assign_slots(&policy, &Slots::default())?;
        let compiled = compile(&policy, attachment, &slots)?;
        Ok(Self(Sandbox::load_untraced(&compiled, shared)?))
    }

    /// The program of a hook.
    pub(super) fn program(&self, hook: Hook) -> Result<BorrowedFd<'_>> {
        self.0.program(hook)
    }

    /// The program of a hook, once it has shown that it does this with a frame.
    pub(super) fn proven(&self, hook: Hook, frame: &[u8], passes: bool) -> Result<BorrowedFd<'_>> {
        let program = self.program(hook)?;
        prove(program, frame, action(hook, passes))?;
        Ok(program)
    }
}

/// What a hook of ours returns (`linux/bpf.h`, `linux/pkt_cls.h`).
pub(super) fn action(hook: Hook, passes: bool) -> u32 {
    match (hook, passes) {
        (Hook::Xdp, true) => XDP_PASS,
        (Hook::Xdp, false) => XDP_DROP,
        (_, true) => TC_ACT_UNSPEC,
        (_, false) => TC_ACT_SHOT,
    }
}

/// `XDP_DROP`
pub(super) const XDP_DROP: u32 = 1;
/// `XDP_PASS`
pub(super) const XDP_PASS: u32 = 2;
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
