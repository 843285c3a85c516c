//! An agent that is killed and started, again and again.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    agent::{Agent, Stats},
    netns::patience,
};

const SOON: Duration = Duration::from_secs(10);

/// Starts `run` and kills it with SIGKILL, as long as `goes_on` and at least
/// twice: once it enforces its rules, and the next time at some moment while it
/// loads them. Returns how often.
///
/// # Errors
///
/// If it does not start, if a counter goes backwards, or what `goes_on` returns.
pub fn kill_and_start(
    agent: &Agent<'_>,
    rules: &str,
    mut goes_on: impl FnMut() -> Result<bool>,
) -> Result<u32> {
    let mut before = agent.stats()?;
    let mut kills = 0;
    while goes_on()? || kills < 2 {
        let mut daemon = if kills % 2 == 0 {
            agent.start(rules)?
        } else {
            let daemon = agent.spawn(&["run", "--config", &agent.rules().to_string_lossy()])?;
            thread::sleep(patience(loading(kills)));
            daemon
        };
        daemon.signal(Signal::SIGKILL)?;
        let code = daemon.wait(SOON)?;
        ensure!(code.is_none(), "it ended by itself: {code:?}");
        kills += 1;
        let after = agent.stats()?;
        never_less(&before, &after)?;
        before = after;
    }
    Ok(kills)
}

/// So far into a load, which takes some hundred milliseconds: another part of
/// it each time.
fn loading(kills: u32) -> Duration {
    Duration::from_millis(u64::from(kills * 37 % 400))
}

/// No counter is less than it was.
fn never_less(before: &Stats, after: &Stats) -> Result<()> {
    for counters in ["rules", "implicit", "drops", "would_drop", "totals"] {
        compare(counters, &before.0[counters], &after.0[counters])?;
    }
    Ok(())
}

fn compare(name: &str, before: &Value, after: &Value) -> Result<()> {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, before) in before {
                let after = after.get(key).unwrap_or(&Value::Null);
                compare(&format!("{name} {key}"), before, after)?;
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            ensure!(before.len() == after.len(), "{name}: {before:?} {after:?}");
            for (before, after) in before.iter().zip(after) {
                compare(name, before, after)?;
            }
        }
        (Value::Number(_), _) => {
            let is_less = after.as_u64() < before.as_u64();
            ensure!(!is_less, "{name} went from {before} to {after}");
        }
        _ => (),
    }
    Ok(())
}
