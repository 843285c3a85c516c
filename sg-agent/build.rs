//! Builds the eBPF programs into `OUT_DIR/sg-ebpf`.
//!
//! `cargo xtask setup` installs what this needs. The toolchain is, in order:
//! the one named by `SG_EBPF_TOOLCHAIN`; the linked toolchain `sg-ebpf`, which
//! has a ready-built `core` for the BPF target; nightly with `rust-src`.

use std::{
    env,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

const LINKED: &str = "sg-ebpf";

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=SG_EBPF_TOOLCHAIN");
    println!("cargo:rerun-if-changed=../sg-common/src");
    println!("cargo:rerun-if-changed=../Cargo.lock");
    let toolchain = env::var("SG_EBPF_TOOLCHAIN").ok().unwrap_or_else(|| {
        if has_toolchain(LINKED) {
            LINKED
        } else {
            "nightly"
        }
        .to_owned()
    });
    if toolchain == LINKED {
        // Both have one `#![feature]`. Naming just these crates also keeps
        // aya-build from asking for build-std, which needs rust-src.
        // SAFETY: a build script's only thread so far.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf,sg_ebpf") };
    }
    let package = Package {
        name: "sg-ebpf",
        root_dir: "../sg-ebpf",
        ..Package::default()
    };
    aya_build::build_ebpf([package], Toolchain::Custom(&toolchain))
        .context("building the eBPF programs; `cargo xtask setup` installs what is missing")
}

fn has_toolchain(name: &str) -> bool {
    Command::new("rustup")
        .args(["run", name, "rustc", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
