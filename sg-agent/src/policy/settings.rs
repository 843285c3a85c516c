//! `[flows]` and `non_ip`: what holds for the whole file.

use std::ops::RangeInclusive;

use super::{
    model::{NonIp, Seed, Settings, Timeouts},
    reader::{Table, Value},
    report::Report,
};

/// Allowed values of `tcp_established`, in seconds; AWS allows the same.
pub const TCP_ESTABLISHED_SECONDS: RangeInclusive<u32> = 60..=432_000;
/// Allowed values of every other time-out, in seconds.
pub const TIMEOUT_SECONDS: RangeInclusive<u32> = 1..=86_400;
/// Allowed values of `max_outbound`, `max_inbound` and `max_half_open`.
pub const MAX_FLOWS: RangeInclusive<u32> = 1024..=16_777_216;

pub(super) const KEYS: &[&str] = &[
    "tcp_half_open",
    "tcp_established",
    "tcp_closing",
    "tcp_time_wait",
    "tcp_reset",
    "udp_single",
    "udp_stream",
    "icmp",
    "other",
    "max_outbound",
    "max_inbound",
    "max_half_open",
    "tcp_strict",
    "seed",
];
pub(super) const SEED: &[(&str, Seed)] = &[
    ("allowed", Seed::Allowed),
    ("all", Seed::All),
    ("none", Seed::None),
];
pub(super) const NON_IP: &[(&str, NonIp)] = &[("pass", NonIp::Pass), ("drop", NonIp::Drop)];

impl Settings {
    /// What the file says, with the defaults for what it does not mention.
    pub(super) fn read(root: &Table<'_>, report: &mut Report<'_>) -> Self {
        let mut settings = Self::default();
        let non_ip = root.optional("non_ip", report, |value| value.choice(NON_IP));
        settings.non_ip = non_ip.unwrap_or_default();
        let flows = root.get("flows");
        if let Some(flows) = flows.and_then(|value| value.table("`[flows]`", KEYS, report)) {
            settings.read_flows(&flows, report);
        }
        settings
    }

    fn read_flows(&mut self, flows: &Table<'_>, report: &mut Report<'_>) {
        let mut set = |key, number: &mut u32, range| {
            if let Some(value) = flows.optional(key, report, |value| value.integer(range)) {
                *number = value;
            }
        };
        let Timeouts {
            tcp_half_open,
            tcp_established,
            tcp_closing,
            tcp_time_wait,
            tcp_reset,
            udp_single,
            udp_stream,
            icmp,
            other,
        } = &mut self.timeouts;
        set("tcp_half_open", tcp_half_open, TIMEOUT_SECONDS);
        set("tcp_established", tcp_established, TCP_ESTABLISHED_SECONDS);
        set("tcp_closing", tcp_closing, TIMEOUT_SECONDS);
        set("tcp_time_wait", tcp_time_wait, TIMEOUT_SECONDS);
        set("tcp_reset", tcp_reset, TIMEOUT_SECONDS);
        set("udp_single", udp_single, TIMEOUT_SECONDS);
        set("udp_stream", udp_stream, TIMEOUT_SECONDS);
        set("icmp", icmp, TIMEOUT_SECONDS);
        set("other", other, TIMEOUT_SECONDS);
        let mut max = |key| flows.optional(key, report, |value| value.integer(MAX_FLOWS));
        self.max_outbound = max("max_outbound");
        self.max_inbound = max("max_inbound");
        self.max_half_open = max("max_half_open");
        let strict = flows.optional("tcp_strict", report, Value::boolean);
        self.tcp_strict = strict.unwrap_or_default();
        let seed = flows.optional("seed", report, |value| value.choice(SEED));
        self.seed = seed.unwrap_or_default();
    }
}
