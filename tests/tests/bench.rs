//! The benchmark still works: every scenario runs, small, and its figures are
//! what programs that read them expect. Not here: how fast anything is.

use std::{collections::BTreeSet, env, fs, process::Command};

use serde_json::Value;
use sg_tests::{agent, bench::SCENARIOS};

const KEYS: [&str; 9] = [
    "baseline", "max", "median", "metric", "min", "ratio", "scenario", "subject", "unit",
];

#[test]
fn every_scenario_has_figures() {
    if env::var_os("SG_TEST_VM").is_some() {
        // Nothing measured there means anything, and what ours is held
        // against is not in the guest.
        eprintln!("not in a VM");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let json = directory.path().join("figures.json");
    let output = Command::new(env!("CARGO_BIN_EXE_sg-bench"))
        .args(["--quick", "--rounds", "1", "--agent"])
        .arg(agent::binary())
        .arg("--json")
        .arg(&json)
        .output()
        .expect("sg-bench can be run");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stdout.contains("\n### bars\n"), "{stdout}");

    let text = fs::read_to_string(json).expect("the figures are written");
    let figures: Vec<Value> = serde_json::from_str(&text).expect("an array");
    for figure in &figures {
        check(figure, &figures);
    }
    let found: BTreeSet<&str> = figures
        .iter()
        .filter_map(|one| text_of(one, "scenario"))
        .collect();
    let expected: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
    assert_eq!(found, expected);
}

/// A figure has every field, was not refused, and its baseline is there.
fn check(figure: &Value, all: &[Value]) {
    let keys: Vec<&str> = figure
        .as_object()
        .map(|object| object.keys().map(String::as_str).collect())
        .unwrap_or_default();
    assert_eq!(keys, KEYS, "{figure}");
    for key in ["median", "min", "max"] {
        assert!(figure[key].is_number(), "{figure}");
    }
    let Some(baseline) = text_of(figure, "baseline") else {
        assert!(figure["ratio"].is_null(), "{figure}");
        return;
    };
    let is_there = all.iter().any(|other| {
        text_of(other, "subject") == Some(baseline)
            && other["scenario"] == figure["scenario"]
            && other["metric"] == figure["metric"]
    });
    assert!(is_there, "no baseline: {figure}");
    assert!(figure["ratio"].is_number(), "{figure}");
}

fn text_of<'v>(figure: &'v Value, key: &str) -> Option<&'v str> {
    figure[key].as_str()
}
