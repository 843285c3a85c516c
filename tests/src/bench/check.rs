//! Checking a large rule file: what a person waits for while writing it.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Bench, command,
    load::MANY_RULES,
    shapes::{SCATTERED, Shape},
    subject::{Measure, Subject},
};

/// The scenario.
pub(super) const NAME: &str = "check";
/// The whole process.
pub(super) const TIME: Measure = Measure {
    scenario: NAME,
    metric: "time of `check`",
    unit: "s",
};
/// The most that it has resident.
pub(super) const PEAK: Measure = Measure {
    scenario: NAME,
    metric: "memory of `check`",
    unit: "MiB",
};
/// What the figures are called.
pub(super) const SUBJECT: &str = "10,000 rules, a set file of 1M lines";

/// The scenario's subjects.
pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let rules = rules(bench)?;
    let time = || Ok(check(bench, &rules)?.0);
    let mut found = bench.figures_of(TIME, bench.rounds, vec![Subject::new(SUBJECT, time)]);
    let peak = || Ok(check(bench, &rules)?.1);
    found.extend(bench.figures_of(PEAK, 1, vec![Subject::new(SUBJECT, peak)]));
    bench.figures.extend(found);
    Ok(())
}

/// The rules of one shape, and a rule for the set file of another.
fn rules(bench: &Bench) -> Result<PathBuf> {
    let (directory, size) = (bench.directory(), bench.scale.size);
    let many = Shape::rules_only(directory, MANY_RULES, size.rules)?;
    let listed = Shape::scattered(directory, SCATTERED, size.prefixes)?;
    let sets = fs::read_to_string(&listed.rules)?;
    let sets = sets
        .split("[sets]\n")
        .nth(1)
        .and_then(|sets| sets.split("[groups").next());
    let sets = sets.context("the shape has no sets")?;
    let rule = "{ name = \"listed\", protocol = \"tcp\", ports = 9, from = [\"set:s0\"] },\n";
    let text = fs::read_to_string(&many.rules)?
        .replacen("[sets]\n", &format!("[sets]\n{sets}"), 1)
        .replacen("inbound = [\n", &format!("inbound = [\n{rule}"), 1);
    let path = directory.join("check.toml");
    fs::write(&path, text)?;
    Ok(path)
}

/// The seconds that `check` takes, and the MiB. Resident memory only grows in
/// `VmHWM`, so the last look before the end is as good as one at the end.
fn check(bench: &Bench, rules: &PathBuf) -> Result<(f64, f64)> {
    const LOOK: Duration = Duration::from_millis(2);
    let start = Instant::now();
    let mut child = command::limited(&bench.agent.to_string_lossy())
        .arg("check")
        .arg(rules)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("can't run `prlimit`")?;
    let mut peak_kib = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            if !status.success() {
                bail!("`check` ended with {status}");
            }
            #[expect(clippy::cast_precision_loss, reason = "for people")]
            let mib = peak_kib as f64 / 1024.0;
            return Ok((start.elapsed().as_secs_f64(), mib));
        }
        let status = fs::read_to_string(format!("/proc/{}/status", child.id()));
        let line = status.unwrap_or_default();
        let line = line.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        thread::sleep(LOOK);
    }
}
