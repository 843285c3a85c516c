//! The counters under the names of the rules: what `stats` shows.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_getres, clock_gettime};
use serde::Serialize;
use sg_common::{
    config,
    counter::{RuleCounter, Tally, tally},
    verdict::{Implicit, Reason, cause},
};

use super::FlowTableStatus;
use crate::{
    dataplane::{counters::Counters, manifest::RuleRecord},
    policy::Direction,
};

/// All counters of a generation. Every packet is in exactly one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The generation.
    pub generation: u32,
    /// The interfaces it protects.
    pub interfaces: Vec<String>,
    /// Rules of attached groups, in file order.
    pub rules: Vec<RuleStats>,
    /// What always passes, both directions.
    pub implicit: Vec<ImplicitStats>,
    /// What was dropped, by reason and direction.
    pub drops: Vec<DropStats>,
    /// What audit mode let through, by reason and direction.
    pub would_drop: Vec<DropStats>,
    /// Everything that was judged.
    pub totals: Totals,
    /// How full the tables of established flows are.
    pub flow_tables: Vec<FlowTableStatus>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleStats {
    /// `group/direction/name`.
    pub id: String,
    /// The group.
    pub group: String,
    /// The direction.
    pub direction: Direction,
    /// The name.
    pub name: String,
    /// Flows it opened; for an untracked rule, TCP SYNs.
    pub flows: u64,
    /// Packets in the rule's direction.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packets of the same flows the other way.
    pub reply_packets: u64,
    /// Their bytes.
    pub reply_bytes: u64,
    /// RFC 3339, or null if it was never hit.
    pub last_hit: Option<String>,
    /// Whether its flows have entries.
    pub tracked: bool,
    /// How long ago the last hit was.
    #[serde(skip)]
    pub idle: Option<Duration>,
}

/// One implicit allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImplicitStats {
    /// Its stable name.
    pub id: &'static str,
    /// Packets, both directions.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One reason in one direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DropStats {
    /// Its stable name.
    pub reason: &'static str,
    /// The direction.
    pub direction: Direction,
    /// Packets.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Everything that was judged, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Towards the host.
    pub inbound: Volume,
    /// From the host.
    pub outbound: Volume,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Packets.
    pub packets: u64,
    /// Bytes, with link-layer headers.
    pub bytes: u64,
}

impl Volume {
    fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

const DIRECTIONS: [(Direction, config::Direction); 2] = [
    (Direction::Inbound, config::Direction::Inbound),
    (Direction::Outbound, config::Direction::Outbound),
];

/// The reasons that are drops.
fn drop_reasons() -> impl Iterator<Item = Reason> {
    Reason::ALL.into_iter().filter(|reason| {
        !matches!(
            reason,
            Reason::Rule | Reason::Flow | Reason::Related | Reason::Implicit
        )
    })
}

impl Report {
    /// Names the counters.
    #[must_use]
    pub fn new(
        generation: u32,
        interfaces: Vec<String>,
        rules: &[RuleRecord],
        counters: &Counters,
        flow_tables: Vec<FlowTableStatus>,
        clock: &Clock,
    ) -> Self {
        let rules: Vec<RuleStats> = rules
            .iter()
            .filter_map(|rule| rule_stats(rule, counters, clock))
            .collect();
        Self {
            generation,
            interfaces,
            implicit: implicit_stats(counters),
            drops: drop_stats(counters, false),
            would_drop: drop_stats(counters, true),
            totals: totals(&rules, counters),
            rules,
            flow_tables,
        }
    }
}

fn rule_stats(rule: &RuleRecord, counters: &Counters, clock: &Clock) -> Option<RuleStats> {
    let tracked = rule.tracked?;
    let RuleCounter {
        packets,
        bytes,
        reply_packets,
        reply_bytes,
        flows,
        last_hit_tick,
    } = counters.rule(rule.slot);
    let idle = (last_hit_tick != 0).then(|| clock.since(last_hit_tick));
    Some(RuleStats {
        id: rule.id().to_string(),
        group: rule.group.clone(),
        direction: rule.direction,
        name: rule.name.clone(),
        flows,
        packets,
        bytes,
        reply_packets,
        reply_bytes,
        last_hit: idle.map(|idle| clock.date_before(idle)),
        tracked,
        idle,
    })
}

fn both_directions(counters: &Counters, cause: u32) -> Tally {
    DIRECTIONS
        .into_iter()
        .fold(Tally::default(), |sum, (_, direction)| {
            let one = counters.tally(tally(direction, false, cause));
            Tally {
                packets: sum.packets + one.packets,
                bytes: sum.bytes + one.bytes,
            }
        })
}

fn implicit_stats(counters: &Counters) -> Vec<ImplicitStats> {
    let implicits = Implicit::ALL.map(|kind| (kind.name(), cause::of_implicit(kind)));
    let related = (Reason::Related.name(), cause::of_reason(Reason::Related));
    implicits
        .into_iter()
        .chain([related])
        .map(|(id, cause)| {
            let Tally { packets, bytes } = both_directions(counters, cause);
            ImplicitStats { id, packets, bytes }
        })
        .collect()
}

fn drop_stats(counters: &Counters, audit: bool) -> Vec<DropStats> {
    let mut stats = Vec::new();
    for (name, direction) in DIRECTIONS {
        for reason in drop_reasons() {
            let cause = cause::of_reason(reason);
            let Tally { packets, bytes } = counters.tally(tally(direction, audit, cause));
            stats.push(DropStats {
                reason: reason.name(),
                direction: name,
                packets,
                bytes,
            });
        }
    }
    stats
}

fn totals(rules: &[RuleStats], counters: &Counters) -> Totals {
    let mut totals = Totals::default();
    for rule in rules {
        let (own, other) = match rule.direction {
            Direction::Inbound => (&mut totals.inbound, &mut totals.outbound),
            Direction::Outbound => (&mut totals.outbound, &mut totals.inbound),
        };
        own.add(rule.packets, rule.bytes);
        other.add(rule.reply_packets, rule.reply_bytes);
    }
    for (name, direction) in DIRECTIONS {
        let volume = match name {
            Direction::Inbound => &mut totals.inbound,
            Direction::Outbound => &mut totals.outbound,
        };
        for audit in [false, true] {
            for cause in 0..cause::COUNT {
                let Tally { packets, bytes } = counters.tally(tally(direction, audit, cause));
                volume.add(packets, bytes);
            }
        }
    }
    totals
}

/// Turns the kernel's monotonic times into ages and dates.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    monotonic: Duration,
    tick: Duration,
    date: SystemTime,
}

impl Clock {
    /// Both clocks now.
    #[must_use]
    pub fn now() -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC);
        let tick = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE);
        Self {
            monotonic: monotonic.map_or(Duration::ZERO, Duration::from),
            tick: tick.map_or(Duration::ZERO, Duration::from),
            date: SystemTime::now(),
        }
    }

    /// How long ago a tick of the kernel was.
    ///
    /// Ticks are counted from five minutes before 32 bits run over
    /// (`INITIAL_JIFFIES`, `include/linux/jiffies.h`), while the monotonic clock
    /// goes; the coarse clock's resolution is a tick.
    #[must_use]
    pub fn since(&self, tick: u64) -> Duration {
        let length_ns = u64::try_from(self.tick.as_nanos()).unwrap_or(1).max(1);
        let first = (1 << 32) - 300 * (1_000_000_000 / length_ns);
        let at = Duration::from_nanos(tick.saturating_sub(first).saturating_mul(length_ns));
        self.monotonic.saturating_sub(at)
    }

    fn date_before(&self, age: Duration) -> String {
        let date = self.date.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        humantime::format_rfc3339_seconds(date).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_count_from_five_minutes_before_32_bits_run_over() {
        let clock = Clock {
            monotonic: Duration::from_secs(100),
            tick: Duration::from_millis(4),
            date: SystemTime::UNIX_EPOCH,
        };
        let boot = (1 << 32) - 300 * 250;
        assert_eq!(clock.since(boot), Duration::from_secs(100));
        assert_eq!(clock.since(boot + 90 * 250), Duration::from_secs(10));
        assert_eq!(
            clock.since(boot + 200 * 250),
            Duration::ZERO,
            "a tick ahead"
        );
    }

    #[test]
    fn the_kernel_counts_them_so() -> Result<(), Box<dyn std::error::Error>> {
        let timers = std::fs::read_to_string("/proc/timer_list").unwrap_or_default();
        let Some(line) = timers.lines().find(|line| line.starts_with("jiffies: ")) else {
            eprintln!("skipped: `/proc/timer_list` is for root");
            return Ok(());
        };
        let idle = Clock::now().since(line["jiffies: ".len()..].parse()?);
        assert!(idle < Duration::from_secs(10), "{idle:?}");
        Ok(())
    }
}
