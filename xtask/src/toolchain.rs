//! The eBPF toolchain: a Rust compiler that has `core` for the BPF target, or
//! can build it, and a `bpf-linker` that speaks the same LLVM.
//!
//! `sg-agent/build.rs` looks for the same toolchains in the same order; this
//! module is the part that can install one.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// The name under which rustup knows Debian's compiler.
pub(crate) const LINKED: &str = "sg-ebpf";
/// Debian's compiler with a ready-built `core` for BPF.
pub(crate) const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// The package that only a new enough Debian has.
pub(crate) const DEBIAN_MARKER: &str = "libstd-rust-web-dev-bpf";
/// The LLVM in Debian's compiler.
pub(crate) const DEBIAN_LLVM: u32 = 22;
/// The BPF target.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

const BPF_LINKER_VERSION: &str = "0.13.0";

/// How `core` for the BPF target comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// It comes with the toolchain, which is a stable one: the one
    /// unstable feature of aya-ebpf and sg-ebpf must be allowed by name.
    Ready,
    /// Built from rust-src by a nightly.
    FromSource,
}

/// A working eBPF compiler.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// As in `rustup run NAME`.
    pub(crate) name: String,
    /// How its `core` comes about.
    pub(crate) core: Core,
    /// `rustc`'s version.
    pub(crate) version: String,
    /// Major version of the LLVM in it.
    pub(crate) llvm: u32,
}

impl Toolchain {
    /// A cargo command for the BPF target, run by this toolchain.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = Command::new("rustup");
        command.args(["run", &self.name, "cargo", subcommand]);
        match self.core {
            Core::Ready => command.env("RUSTC_BOOTSTRAP", "aya_ebpf,sg_ebpf"),
            Core::FromSource => command.arg("-Zbuild-std=core"),
        };
        command
            .env_remove("RUSTC")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .args(["--target", TARGET]);
        command
    }

    /// One phrase for a person.
    pub(crate) fn describe(&self) -> String {
        let Self { name, version, .. } = self;
        format!("rustc {version} (`{name}`)")
    }
}

/// The toolchain that builds would use now, if there is one.
pub(crate) fn find() -> Option<Toolchain> {
    if let Some(name) = env::var_os("SG_EBPF_TOOLCHAIN") {
        return examine(&name.to_string_lossy());
    }
    let list = shell::output(Command::new("rustup").args(["toolchain", "list"])).ok()?;
    let has = |name: &str| list.lines().any(|line| line.starts_with(name));
    [LINKED, "nightly"]
        .into_iter()
        .filter(|name| has(name))
        .find_map(examine)
}

/// Asks a toolchain whether it can build for BPF.
fn examine(name: &str) -> Option<Toolchain> {
    let rustc = |args: &[&str]| {
        shell::output(
            Command::new("rustup")
                .args(["run", name, "rustc"])
                .args(args),
        )
        .ok()
    };
    let about = rustc(&["-vV"])?;
    let field = |key: &str| about.lines().find_map(|line| line.strip_prefix(key));
    let sysroot = PathBuf::from(rustc(&["--print", "sysroot"])?.trim());
    Some(Toolchain {
        name: name.to_owned(),
        core: core_of(&sysroot)?,
        version: field("release: ")?.to_owned(),
        llvm: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
    })
}

fn core_of(sysroot: &Path) -> Option<Core> {
    let lib = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let ready = lib.read_dir().is_ok_and(|entries| {
        entries
            .filter_map(Result::ok)
            .any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
    });
    if ready {
        return Some(Core::Ready);
    }
    sysroot
        .join("lib/rustlib/src/rust/library/core")
        .is_dir()
        .then_some(Core::FromSource)
}

/// Makes rustup know Debian's compiler.
pub(crate) fn link() -> Result<()> {
    shell::run(Command::new("rustup").args(["toolchain", "link", LINKED, "/usr"]))
}

/// Gets the nightly and its library source from rustup.
pub(crate) fn install_nightly() -> Result<()> {
    shell::run(Command::new("rustup").args([
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
        "--component",
        "clippy",
    ]))
    .context("rustup could not install a nightly with `rust-src`")
}

/// The installed `bpf-linker`'s version, if it fits the toolchain: a linker
/// with another LLVM can't read the compiler's bitcode.
pub(crate) fn bpf_linker(toolchain: &Toolchain) -> Option<String> {
    let path = shell::find_program("bpf-linker")?;
    let version = shell::output(Command::new(&path).arg("--version")).ok()?;
    let libraries = shell::output(Command::new("ldd").arg(&path)).unwrap_or_default();
    match llvm_of(&libraries) {
        Some(llvm) if llvm != toolchain.llvm => None,
        // No LLVM among its libraries: it has one inside, which can't be told.
        _ => Some(version.trim().to_owned()),
    }
}

/// Finds the LLVM version in `ldd`'s output: `libLLVM.so.22.1` or
/// `libLLVM-22.so`.
fn llvm_of(libraries: &str) -> Option<u32> {
    let (_, rest) = libraries.split_once("libLLVM")?;
    let digits: String = rest
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// What must be there before `bpf-linker` can be built for that LLVM.
pub(crate) fn llvm_packages(llvm: u32) -> Vec<String> {
    ["llvm-#-dev", "clang-#", "libpolly-#-dev", "lld-#"]
        .iter()
        .map(|name| name.replace('#', &llvm.to_string()))
        .chain(["libzstd-dev", "zlib1g-dev"].map(str::to_owned))
        .collect()
}

/// The same for a person, for the LLVM below `prefix`.
pub(crate) fn bpf_linker_by_hand(prefix: &str) -> String {
    let command = install_bpf_linker_command(DEBIAN_LLVM);
    format!(
        "LLVM_SYS_{DEBIAN_LLVM}1_PREFIX={prefix} LLVM_PREFIX={prefix} {}\n  \
         (with another LLVM in the compiler's `-vV`: its number in place of {DEBIAN_LLVM})",
        shell::typed(&command)
    )
}

/// The command that builds `bpf-linker` against that LLVM.
fn install_bpf_linker_command(llvm: u32) -> Command {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let path = env::var("PATH").unwrap_or_default();
    let mut command = Command::new("cargo");
    command
        .args(["install", "bpf-linker", "--locked", "--force", "--version"])
        .args([BPF_LINKER_VERSION, "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", format!("{prefix}/bin:{path}"));
    command
}

/// Builds `bpf-linker` to fit the toolchain.
pub(crate) fn install_bpf_linker(toolchain: &Toolchain) -> Result<()> {
    let llvm = toolchain.llvm;
    if !(21..=23).contains(&llvm) {
        bail!(
            "bpf-linker {BPF_LINKER_VERSION} knows LLVM 21 to 23 and {} has LLVM {llvm}: name \
             another toolchain in `SG_EBPF_TOOLCHAIN`",
            toolchain.describe()
        );
    }
    shell::run(&mut install_bpf_linker_command(llvm)).with_context(|| {
        format!("bpf-linker did not build against LLVM {llvm} in `/usr/lib/llvm-{llvm}`")
    })
}

#[cfg(test)]
mod tests {
    use super::llvm_of;

    #[test]
    fn llvm_in_ldd_output() {
        for (libraries, expected) in [
            (
                "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)",
                Some(22),
            ),
            ("\tlibLLVM-21.so.1 => /lib/libLLVM-21.so.1 (0x0)", Some(21)),
            ("\tlibc.so.6 => /lib/libc.so.6 (0x0)", None),
        ] {
            assert_eq!(llvm_of(libraries), expected, "{libraries}");
        }
    }
}
