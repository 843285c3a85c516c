//! How large flow tables are when the rule file does not say.

use std::fs;

/// Sizes that fit a machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Of each table of established flows. Full, one takes a hundredth of the
    /// memory; empty, a thousandth.
    pub established: u32,
    /// Of each table of half-open flows. Its memory, half a hundredth at most,
    /// is taken at once.
    pub opening: u32,
}

impl TableSizes {
    /// For this machine.
    #[must_use]
    pub fn of_machine() -> Self {
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Self::of_memory(memory_kib(&meminfo).unwrap_or(0))
    }

    /// Powers of two, so that a little more or less memory changes nothing.
    fn of_memory(kib: u64) -> Self {
        const KIB_PER_FLOW: u64 = 16;
        let fitting = (kib / KIB_PER_FLOW).clamp(1 << 14, 1 << 19);
        let established = 1 << fitting.ilog2();
        Self {
            established,
            opening: established / 4,
        }
    }
}

/// The machine's memory, from `/proc/meminfo` (proc(5)).
fn memory_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_memory_within_bounds() {
        let sizes = |gib: u64| TableSizes::of_memory(gib << 20).established;
        assert_eq!(sizes(0), 16_384);
        assert_eq!(sizes(1), 65_536);
        assert_eq!(sizes(4), 262_144);
        assert_eq!(sizes(64), 524_288);
    }

    #[test]
    fn the_kernel_tells_its_memory() {
        let text = "MemTotal:        2027856 kB\nMemFree:          123 kB\n";
        assert_eq!(memory_kib(text), Some(2_027_856));
        assert_eq!(memory_kib("nothing"), None);
    }
}
