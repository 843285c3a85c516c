//! Reads the counters and adds up the CPUs.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{Map, MapData, PerCpuArray, PerCpuValues},
};
use bytemuck::Zeroable as _;
use sg_common::counter::{RuleCounter, TALLIES, Tally};

use super::{object, plain::Plain, store::Store};

/// All counters at one moment.
#[derive(Clone, Debug)]
pub struct Counters {
    /// By slot.
    rules: BTreeMap<u32, RuleCounter>,
    tallies: Vec<Tally>,
}

impl Counters {
    /// Reads the pinned counters of the rules in `slots` and of all causes.
    ///
    /// # Errors
    /// There are none, or the kernel refuses.
    pub fn read(store: &Store, slots: impl Iterator<Item = u32>) -> Result<Self> {
        let open = |name: &str| -> Result<Map> { open_pinned(&store.maps().join(name)) };
        Self::from_maps(
            &open(object::RULE_COUNTERS)?,
            &open(object::TALLIES)?,
            slots,
        )
    }

    /// Reads the counters of programs that are not pinned.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of_object(ebpf: &Ebpf, slots: impl Iterator<Item = u32>) -> Result<Self> {
        let map = |name: &'static str| ebpf.map(name).with_context(|| format!("no map `{name}`"));
        Self::from_maps(map(object::RULE_COUNTERS)?, map(object::TALLIES)?, slots)
    }

    fn from_maps(rules: &Map, tallies: &Map, slots: impl Iterator<Item = u32>) -> Result<Self> {
        let rules: PerCpuArray<_, Plain<RuleCounter>> = PerCpuArray::try_from(rules)?;
        let tallies: PerCpuArray<_, Plain<Tally>> = PerCpuArray::try_from(tallies)?;
        Ok(Self {
            rules: slots
                .map(|slot| Ok((slot, sum_rule(&rules.get(&slot, 0)?))))
                .collect::<Result<_>>()?,
            tallies: (0..TALLIES)
                .map(|index| Ok(sum_tally(&tallies.get(&index, 0)?)))
                .collect::<Result<_>>()?,
        })
    }

    /// What the rule in `slot` did.
    #[must_use]
    pub fn rule(&self, slot: u32) -> RuleCounter {
        self.rules.get(&slot).copied().unwrap_or_default()
    }

    /// What the tally at `index` holds.
    #[must_use]
    pub fn tally(&self, index: u32) -> Tally {
        self.tallies
            .get(index as usize)
            .copied()
            .unwrap_or_default()
    }
}

fn open_pinned(path: &Path) -> Result<Map> {
    let data = MapData::from_pin(path).with_context(|| format!("opening `{}`", path.display()))?;
    Ok(Map::PerCpuArray(data))
}

fn sum_rule(cpus: &PerCpuValues<Plain<RuleCounter>>) -> RuleCounter {
    cpus.iter()
        .fold(RuleCounter::default(), |sum, Plain(cpu)| RuleCounter {
            packets: sum.packets + cpu.packets,
            bytes: sum.bytes + cpu.bytes,
            reply_packets: sum.reply_packets + cpu.reply_packets,
            reply_bytes: sum.reply_bytes + cpu.reply_bytes,
            flows: sum.flows + cpu.flows,
            last_hit_tick: sum.last_hit_tick.max(cpu.last_hit_tick),
        })
}

fn sum_tally(cpus: &PerCpuValues<Plain<Tally>>) -> Tally {
    cpus.iter().fold(Tally::default(), |sum, Plain(cpu)| Tally {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    })
}

/// Sets the counters of rules that are new to their slots to zero.
///
/// # Errors
/// The kernel refuses.
pub fn clear(ebpf: &mut Ebpf, slots: impl Iterator<Item = u32>) -> Result<()> {
    let cpus = aya::util::nr_cpus().map_err(|(path, error)| {
        anyhow::Error::new(error).context(format!("counting CPUs in `{path}`"))
    })?;
    let map = ebpf
        .map_mut(object::RULE_COUNTERS)
        .context("no rule counters")?;
    let mut counters: PerCpuArray<_, Plain<RuleCounter>> = PerCpuArray::try_from(map)?;
    for slot in slots {
        let zeros = PerCpuValues::try_from(vec![Plain(RuleCounter::zeroed()); cpus])?;
        counters.set(slot, zeros, 0)?;
    }
    Ok(())
}
