//! `cargo xtask fuzz`: coverage-guided fuzzing, and the judges' long forms.
//!
//! What is fuzzed is in `fuzz/src`; its corpus is also a test, which `cargo
//! test` runs on the stable toolchain. New inputs that cover more go to the
//! target directory and not into the repository; an input that crashes is
//! copied to the corpus by hand, under a name that says what it is, and so
//! becomes a regression test.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build,
    setup::{self, Need},
    shell,
};

/// `cargo xtask fuzz`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One of the directories in fuzz/corpus; else all, one after the other
    target: Option<String>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Instead: so many generated and damaged frames through the programs in
    /// this kernel, as root, against the oracle (100000000 takes two processors
    /// a quarter of an hour)
    #[arg(long, value_name = "N", conflicts_with = "target")]
    packets: Option<u64>,
}

/// The command.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    if let Some(packets) = args.packets {
        return through_the_kernel(packets);
    }
    setup::ensure(&[Need::Build, Need::Fuzz])?;
    let all = targets()?;
    let chosen: Vec<&String> = match &args.target {
        Some(name) if !all.contains(name) => {
            bail!("no target `{name}`, expected one of {}", all.join(", "))
        }
        Some(name) => vec![name],
        None => all.iter().collect(),
    };
    let mut crashed = Vec::new();
    for target in chosen {
        println!("--- {target}, {} s", args.seconds);
        if !run(target, args.seconds)? {
            crashed.push(target.as_str());
        }
    }
    if crashed.is_empty() {
        println!("\nno crash");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "\ncrashed: {}; the inputs are in `fuzz/artifacts`",
        crashed.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

fn corpus() -> PathBuf {
    Path::new("fuzz/corpus").to_owned()
}

fn targets() -> Result<Vec<String>> {
    let entries = fs::read_dir(corpus()).context("no corpus in `fuzz/corpus`")?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Whether the target ran its time without a crash.
fn run(target: &str, seconds: u32) -> Result<bool> {
    let found = shell::target_dir().join("fuzz/found").join(target);
    fs::create_dir_all(&found)?;
    let mut command = Command::new("cargo");
    command
        .args(["+nightly", "fuzz", "run", "--fuzz-dir", "fuzz"])
        .args(["--features", "libfuzzer", "--target-dir"])
        .arg(shell::target_dir().join("fuzz"))
        .arg(target)
        .args([found, corpus().join(target)])
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=20", "-rss_limit_mb=4096", "-print_final_stats=1"])
        // Whole-program optimisation would take longer than most runs.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_STRIP", "none");
    let status = command.status().context("can't start `cargo +nightly`")?;
    Ok(status.success())
}

/// The harness of `tests/tests/damaged.rs`, built as it runs fastest.
fn through_the_kernel(packets: u64) -> Result<ExitCode> {
    setup::ensure(&[Need::Build, Need::Test])?;
    let harness = build::damaged()?;
    let env: Vec<_> = env::var_os("SG_TEST_SEED")
        .map(|seed| ("SG_TEST_SEED", seed))
        .into_iter()
        .chain([("SG_TEST_PACKETS", packets.to_string().into())])
        .collect();
    let mut command = shell::as_root_apart(&harness, &env)?;
    command.arg("--nocapture").current_dir("tests");
    let status = command.status().context("can't start the harness")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
