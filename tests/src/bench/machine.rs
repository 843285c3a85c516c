//! The machine that the figures are of.

use std::{fs, thread};

/// In a line, for those who compare: kernel, processor, CPUs, and what the
/// kernel does against Spectre, which costs every call and every return.
#[must_use]
pub fn describe() -> String {
    let kernel = read("/proc/sys/kernel/osrelease");
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|name| name.trim_start_matches([' ', '\t', ':']).to_owned());
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Linux {}, {}, {cpus} CPUs; {}",
        kernel.trim(),
        processor.as_deref().unwrap_or("unknown processor"),
        read("/sys/devices/system/cpu/vulnerabilities/spectre_v2").trim()
    )
}

/// What can't be read is not known, which is no reason to stop.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
