//! The programs of one attachment, loaded but not attached: for tests, and for
//! asking the loaded program instead of a copy of its logic.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, BorrowedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf,
    maps::{self, Map},
    programs::{ProgramInfo, TestRun as _, TestRunOptions},
};
use bytemuck::Pod;
use sg_common::{
    address::Family,
    config::flag,
    flow::{Flow, FlowKey4, FlowKey6},
    verdict::{FlowKind, Implicit, Reason, Verdict, VerdictRecord},
};

use super::{
    counters::Counters,
    object::{self, FlowMap, Instance, Shared},
    plain::Plain,
    trace_memory::TraceMemory,
};
use crate::compile::{Compiled, CompiledRule};

/// Private maps and programs of one attachment. Nothing is pinned or attached.
pub struct Sandbox {
    ebpf: Ebpf,
    trace: TraceMemory,
    /// By counter.
    rules: HashMap<u32, CompiledRule>,
    now_ns: u64,
}

/// The three places where packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// Inbound at XDP.
    Xdp,
    /// Inbound at tc ingress.
    TcIngress,
    /// Outbound at tc egress.
    TcEgress,
}

/// What became of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the hook told the kernel; in audit mode everything passes.
    pub pass: bool,
    /// What was decided.
    pub decision: Decision,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

/// A verdict, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the packet may go on.
    pub passes: bool,
    /// Why.
    pub reason: Reason,
    /// Its relation to a flow.
    pub flow: FlowKind,
    /// The rule that decided.
    pub rule: Option<CompiledRule>,
    /// As what it always passes.
    pub implicit: Option<Implicit>,
}

/// How big a loaded program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramSize {
    /// The program.
    pub name: &'static str,
    /// Instructions after the verifier's rewriting, 8 bytes each.
    pub instructions: u32,
    /// Instructions the verifier walked, where the kernel tells.
    pub verified: Option<u32>,
}

impl Sandbox {
    /// Makes the maps for `compiled`. A program, traced, is loaded when a frame
    /// first asks it.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn load(compiled: &Compiled, shared: &Shared) -> Result<Self> {
        Self::load_with(compiled, shared, flag::TRACE)
    }

    /// Loads all three programs as they run on a hook, with nothing in them
    /// that tells of verdicts: for measuring, not for [`Sandbox::run`].
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn load_untraced(compiled: &Compiled, shared: &Shared) -> Result<Self> {
        let mut this = Self::load_with(compiled, shared, 0)?;
        this.programs()?;
        Ok(this)
    }

    fn load_with(compiled: &Compiled, shared: &Shared, extra_flags: u32) -> Result<Self> {
        Self::new(&Instance {
            compiled,
            extra_flags,
            revision: 1,
            zone: 1,
            shared,
        })
    }

    /// As [`Sandbox::load`], for an instance.
    pub(super) fn load_instance(instance: &Instance<'_>) -> Result<Self> {
        Self::new(&Instance {
            extra_flags: instance.extra_flags | flag::TRACE,
            ..instance.clone()
        })
    }

    fn new(instance: &Instance<'_>) -> Result<Self> {
        let ebpf = object::load(instance, None)?;
        let Some(Map::Array(trace)) = ebpf.map(object::TRACE) else {
            bail!("the object has no trace");
        };
        let trace = TraceMemory::map(trace.fd().as_fd())?;
        let rules = instance.compiled.rules.iter();
        Ok(Self {
            ebpf,
            trace,
            rules: rules.map(|rule| (rule.slot, rule.clone())).collect(),
            now_ns: 0,
        })
    }

    /// What the programs take for the time from now on, in nanoseconds; 0 is
    /// the kernel's own clock.
    pub fn set_clock(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Runs one frame (of at least an Ethernet header) through a hook.
    ///
    /// # Errors
    /// The kernel refused to run it, or the program left no verdict.
    pub fn run(&mut self, hook: Hook, frame: &[u8]) -> Result<Outcome> {
        let mut out = vec![0; frame.len() + 256];
        let mut options = TestRunOptions::new();
        options.data_out = Some(&mut out);
        let (pass, bytes, decision) = self.run_with(hook, frame, 0, options)?;
        out.truncate(bytes);
        Ok(Outcome {
            pass,
            decision,
            frame: out,
        })
    }

    /// What a hook decides about a frame of `frame_bytes`, of which `start` is
    /// at hand. One system call: what it does with the frame's bytes is not
    /// looked at.
    ///
    /// # Errors
    /// As [`Sandbox::run`].
    pub fn judge(&mut self, hook: Hook, start: &[u8], frame_bytes: u32) -> Result<Decision> {
        let (.., decision) = self.run_with(hook, start, frame_bytes, TestRunOptions::new())?;
        Ok(decision)
    }

    /// Whether the frame passed, its length afterwards, and what was decided.
    fn run_with<'a>(
        &mut self,
        hook: Hook,
        frame: &'a [u8],
        frame_bytes: u32,
        mut options: TestRunOptions<'a>,
    ) -> Result<(bool, usize, Decision)> {
        self.trace.tell(self.now_ns, frame_bytes);
        options.data_in = Some(frame);
        let ebpf = &mut self.ebpf;
        let result = match hook {
            Hook::Xdp => object::load_xdp(ebpf)?.test_run(options)?,
            Hook::TcIngress => object::load_tc(ebpf, object::TC_INGRESS)?.test_run(options)?,
            Hook::TcEgress => object::load_tc(ebpf, object::TC_EGRESS)?.test_run(options)?,
        };
        let pass = match (hook, result.return_value.cast_signed()) {
            (Hook::Xdp, 2) | (Hook::TcIngress | Hook::TcEgress, -1) => true,
            (Hook::Xdp, 1) | (Hook::TcIngress | Hook::TcEgress, 2) => false,
            (hook, other) => bail!("{hook:?} returned the unknown action {other}"),
        };
        let verdict = self
            .trace
            .verdict()
            .context("the program left no verdict")?;
        let bytes = usize::try_from(result.data_size_out)?;
        Ok((pass, bytes, self.decode(verdict)?))
    }

    fn decode(&self, verdict: Verdict) -> Result<Decision> {
        let record = VerdictRecord::from(verdict);
        let unknown = |_| anyhow::anyhow!("unknown verdict {record:?}");
        let reason = Reason::try_from(record.reason).map_err(unknown)?;
        let mut implicits = Implicit::ALL.into_iter();
        Ok(Decision {
            passes: verdict.passes(),
            reason,
            flow: FlowKind::try_from(record.flow).map_err(unknown)?,
            rule: self.rules.get(&record.slot).cloned(),
            implicit: implicits
                .find(|kind| reason == Reason::Implicit && *kind as u32 == verdict.counter()),
        })
    }

    /// One of its maps.
    pub(super) fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        let map = self.ebpf.map_mut(name);
        map.with_context(|| format!("no map `{name}`"))
    }

    /// The program of a hook, if it is loaded.
    ///
    /// # Errors
    /// It is not.
    pub fn program(&self, hook: Hook) -> Result<BorrowedFd<'_>> {
        let program = match hook {
            Hook::Xdp => object::XDP,
            Hook::TcIngress => object::TC_INGRESS,
            Hook::TcEgress => object::TC_EGRESS,
        };
        let program = self.ebpf.program(program).context("no such program")?;
        Ok(program.fd()?.as_fd())
    }

    /// The entries of one flow table, in no order.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn flows(&self, map: &FlowMap) -> Result<Vec<Flow>> {
        let data = self.ebpf.map(map.name).context("no such flow table")?;
        match map.family {
            Family::V4 => flows_in::<FlowKey4>(data),
            Family::V6 => flows_in::<FlowKey6>(data),
        }
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// The kernel refused to tell.
    pub fn counters(&self) -> Result<Counters> {
        Counters::of_object(&self.ebpf, self.rules.keys().copied())
    }

    /// The sizes of all three programs.
    ///
    /// # Errors
    /// The kernel refused to load them, or to tell.
    pub fn programs(&mut self) -> Result<Vec<ProgramSize>> {
        let xdp = object::load_xdp(&mut self.ebpf)?.info()?;
        let ingress = object::load_tc(&mut self.ebpf, object::TC_INGRESS)?.info()?;
        let egress = object::load_tc(&mut self.ebpf, object::TC_EGRESS)?.info()?;
        Ok(vec![
            program_size(object::XDP, &xdp),
            program_size(object::TC_INGRESS, &ingress),
            program_size(object::TC_EGRESS, &egress),
        ])
    }
}

fn flows_in<K: Pod>(map: &Map) -> Result<Vec<Flow>> {
    let flows: maps::HashMap<_, Plain<K>, Plain<Flow>> = maps::HashMap::try_from(map)?;
    flows
        .iter()
        .map(|entry| Ok(entry.map(|(_, Plain(flow))| flow)?))
        .collect()
}

fn program_size(name: &'static str, info: &ProgramInfo) -> ProgramSize {
    ProgramSize {
        name,
        instructions: info.size_translated().unwrap_or(0) / 8,
        verified: info.verified_instruction_count(),
    }
}
