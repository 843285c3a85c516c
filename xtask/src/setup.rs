//! `cargo xtask setup`: finds what the other commands need and installs what
//! is missing.
//!
//! Three ways, by what a thing could do to somebody's own machine:
//! - Programs that do nothing until they are called: installed with apt.
//! - Servers, whose packages would start and enable a service, and packages
//!   that conflict with a common one: only unpacked below cargo's target
//!   directory, where `run` and `test` find them. Nothing is enabled, no user
//!   is added, no port is opened.
//! - Cargo's own tools: `cargo install` with a fixed version.
//!
//! apt is told never to remove a package.

use std::{
    ffi::OsString,
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    progress::Stage,
    shell,
    toolchain::{self, Core, Toolchain},
};

const CARGO_DENY_VERSION: &str = "0.20.2";
const CARGO_FUZZ_VERSION: &str = "0.13.2";
const CARGO_MUTANTS_VERSION: &str = "27.1.0";

/// `cargo xtask setup`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to prepare for
    #[arg(value_enum, default_values_t = [Need::Build, Need::Test, Need::Vm, Need::Lint])]
    needs: Vec<Need>,
}

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Need {
    /// A C compiler, the eBPF toolchain, bpf-linker
    Build,
    /// The programs that the lab and the tests run
    Test,
    /// QEMU, and what goes into the guest
    Vm,
    /// cargo-deny, clippy for eBPF
    Lint,
    /// cargo-fuzz and a nightly compiler
    Fuzz,
    /// cargo-mutants
    Mutants,
}

/// A program and where it comes from.
struct Program {
    need: Need,
    name: &'static str,
    package: &'static str,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Inert until called.
    Install,
    /// Would start something, or conflict with something.
    Unpack,
}

const fn program(
    need: Need,
    name: &'static str,
    package: &'static str,
    how: How,
    _why: &'static str,
) -> Program {
    Program {
        need,
        name,
        package,
        how,
    }
}

#[rustfmt::skip]
const PROGRAMS: [Program; 29] = [
    program(Need::Build, "cc",         "gcc",              How::Install, "links every crate"),
    program(Need::Test,  "ip",         "iproute2",         How::Install, "namespaces, links, addresses"),
    program(Need::Test,  "tc",         "iproute2",         How::Install, "what is on a tc hook"),
    program(Need::Test,  "ping",       "iputils-ping",     How::Install, "ICMP and ICMPv6 as people send them"),
    program(Need::Test,  "curl",       "curl",             How::Install, "HTTP, HTTPS, HTTP/2 clients"),
    program(Need::Test,  "nc",         "netcat-openbsd",   How::Install, "TCP and UDP to any port, both families"),
    program(Need::Test,  "ssh",        "openssh-client",   How::Install, "a real client for port 22"),
    program(Need::Test,  "ssh-keygen", "openssh-client",   How::Install, "host keys for the lab's sshd"),
    program(Need::Test,  "openssl",    "openssl",          How::Install, "certificates for the lab's HTTPS"),
    program(Need::Test,  "tcpdump",    "tcpdump",          How::Install, "captures to replay and compare"),
    program(Need::Test,  "nft",        "nftables",         How::Install, "another firewall beside ours"),
    program(Need::Test,  "conntrack",  "conntrack",        How::Install, "forgets the connections of that other firewall"),
    program(Need::Test,  "bpftool",    "bpftool",          How::Install, "what the kernel says is loaded"),
    program(Need::Test,  "xdp-filter", "xdp-tools",        How::Install, "another filter at XDP, for the benchmark"),
    program(Need::Test,  "ethtool",    "ethtool",          How::Install, "offloads off where a test counts packets"),
    program(Need::Test,  "nmap",       "nmap",             How::Install, "scans, as those do who look for a way round a filter"),
    program(Need::Test,  "hping3",     "hping3",           How::Install, "odd TCP segments and fragments"),
    program(Need::Test,  "atk6-firewall6", "thc-ipv6",     How::Install, "tests of IPv6 filters, extension headers and fragments"),
    program(Need::Test,  "scapy",      "python3-scapy",    How::Install, "packets that no tool has an option for"),
    program(Need::Test,  "iperf3",     "iperf3",           How::Unpack,  "much data both ways; its package asks about a service"),
    program(Need::Test,  "dig",        "bind9-dnsutils",   How::Install, "DNS over UDP and TCP"),
    program(Need::Test,  "dnsmasq",    "dnsmasq-base",     How::Unpack,  "a DNS server; its package makes a user"),
    program(Need::Test,  "caddy",      "caddy",            How::Unpack,  "the web server on 80, 443 and 8000; its package starts it on port 80"),
    program(Need::Test,  "sshd",       "openssh-server",   How::Unpack,  "the server on 22; its package opens that port to everyone"),
    program(Need::Vm,    "qemu-system-x86_64", "qemu-system-x86", How::Unpack, "the machine; its package conflicts with another version's qemu-utils"),
    program(Need::Vm,    "xz",         "xz-utils",         How::Install, "6.12's modules are compressed"),
    program(Need::Vm,    "strip",      "binutils",         How::Install, "debug information would fill the guest's memory"),
    program(Need::Vm,    "dpkg-deb",   "dpkg",             How::Install, "unpacks the kernels"),
    program(Need::Vm,    "busybox",    "busybox-static",   How::Unpack,  "the guest's shell; its package conflicts with busybox"),
];

/// What an unpacked program needs beside it that is no library: QEMU's firmware
/// and its modules, which it finds by the place where it lies itself.
const COMPANIONS: [(&str, &[&str]); 1] = [(
    "qemu-system-x86",
    &[
        "qemu-system-common",
        "qemu-system-data",
        "seabios",
        "ipxe-qemu",
    ],
)];

/// What does not come as one Debian package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Toolchain,
    BpfLinker,
    EbpfClippy,
    CargoDeny,
    CargoFuzz,
    CargoMutants,
    Nightly,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Toolchain => "an eBPF toolchain",
            Self::BpfLinker => "bpf-linker",
            Self::EbpfClippy => "clippy for eBPF",
            Self::CargoDeny => "cargo-deny",
            Self::CargoFuzz => "cargo-fuzz",
            Self::CargoMutants => "cargo-mutants",
            Self::Nightly => "a nightly compiler",
        }
    }
}

/// What isn't there.
struct Missing {
    programs: Vec<&'static Program>,
    tools: Vec<Tool>,
}

impl Missing {
    fn find(needs: &[Need]) -> Self {
        let programs = PROGRAMS
            .iter()
            .filter(|program| needs.contains(&program.need))
            .filter(|program| shell::find_program(program.name).is_none())
            .collect();
        let found = toolchain::find();
        let lacks = |has: fn(&Toolchain) -> bool| !found.as_ref().is_some_and(has);
        let mut tools = Vec::new();
        if needs.contains(&Need::Build) {
            if found.is_none() {
                tools.push(Tool::Toolchain);
            }
            if lacks(|found| toolchain::bpf_linker(found).is_some()) {
                tools.push(Tool::BpfLinker);
            }
        }
        if needs.contains(&Need::Lint) {
            if lacks(has_clippy) {
                tools.push(Tool::EbpfClippy);
            }
            if shell::find_program("cargo-deny").is_none() {
                tools.push(Tool::CargoDeny);
            }
        }
        if needs.contains(&Need::Fuzz) {
            if shell::find_program("cargo-fuzz").is_none() {
                tools.push(Tool::CargoFuzz);
            }
            if !has_nightly() {
                tools.push(Tool::Nightly);
            }
        }
        if needs.contains(&Need::Mutants) && shell::find_program("cargo-mutants").is_none() {
            tools.push(Tool::CargoMutants);
        }
        Self { programs, tools }
    }

    fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.tools.is_empty()
    }

    /// Whether apt must install something; unpacking needs no root.
    fn needs_root(&self) -> bool {
        let mut programs = self.programs.iter();
        programs.any(|program| program.how == How::Install)
            || self.has(Tool::Toolchain)
            || self.has(Tool::BpfLinker)
    }

    fn has(&self, tool: Tool) -> bool {
        self.tools.contains(&tool)
    }

    /// Every missing thing by its name, for one line.
    fn describe(&self) -> String {
        let programs = self.programs.iter().map(|program| program.name);
        let tools = self.tools.iter().map(|tool| tool.name());
        programs.chain(tools).collect::<Vec<_>>().join(", ")
    }

    fn packages(&self, how: How) -> Vec<String> {
        let mut packages: Vec<String> = self
            .programs
            .iter()
            .filter(|program| program.how == how)
            .map(|program| program.package.to_owned())
            .collect();
        packages.dedup();
        packages
    }
}

/// Sanitizers and coverage are unstable options of rustc.
fn has_nightly() -> bool {
    shell::succeeds(Command::new("rustup").args(["run", "nightly", "rustc", "-V"]))
}

fn has_clippy(toolchain: &Toolchain) -> bool {
    shell::succeeds(Command::new("rustup").args(["run", &toolchain.name, "clippy-driver", "-V"]))
}

/// The command: says what there is, installs what there isn't.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    ensure(&args.needs)?;
    let toolchain = toolchain::find().map_or_else(
        || "no eBPF toolchain".to_owned(),
        |found| {
            let linker = toolchain::bpf_linker(&found).unwrap_or_else(|| "no bpf-linker".into());
            format!("eBPF toolchain {}, {linker}", found.describe())
        },
    );
    let needs: Vec<String> = args
        .needs
        .iter()
        .filter_map(|need| Some(need.to_possible_value()?.get_name().to_owned()))
        .collect();
    println!("{toolchain}; ready to {}", needs.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that all of it is there; silent if it is.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let missing = Missing::find(needs);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup: missing {}", missing.describe());
    install(&missing)?;
    let left = Missing::find(needs);
    if !left.is_empty() {
        bail!("still missing after setup: {}", left.describe());
    }
    Ok(())
}

fn install(missing: &Missing) -> Result<()> {
    let unpacked = missing.packages(How::Unpack);
    let needs_root = missing.needs_root();
    let needs_apt = needs_root || !unpacked.is_empty();
    let no_apt = needs_apt && shell::find_program("apt-get").is_none();
    if no_apt || (needs_root && !shell::can_be_root()) {
        bail!(
            "can't install here, for want of apt, root or sudo; {}",
            by_hand(missing)
        );
    }
    if needs_root {
        install_packages(missing)?;
    } else if needs_apt && shell::can_be_root() {
        apt_update()?;
    }
    if !unpacked.is_empty() {
        unpack(&unpacked)?;
    }
    if missing.tools.is_empty() {
        return Ok(());
    }
    let toolchain = toolchain::find().context("no eBPF toolchain, even after installing one")?;
    if missing.has(Tool::BpfLinker) && toolchain::bpf_linker(&toolchain).is_none() {
        let stage = Stage::start("setup: building bpf-linker (about a minute)");
        toolchain::install_bpf_linker(&toolchain)?;
        stage.done();
    }
    if missing.has(Tool::EbpfClippy) && !has_clippy(&toolchain) {
        install_clippy(&toolchain)?;
    }
    if missing.has(Tool::CargoDeny) {
        cargo_install("cargo-deny", CARGO_DENY_VERSION, "about three minutes")?;
    }
    if missing.has(Tool::CargoFuzz) {
        cargo_install("cargo-fuzz", CARGO_FUZZ_VERSION, "half a minute")?;
    }
    if missing.has(Tool::CargoMutants) {
        cargo_install("cargo-mutants", CARGO_MUTANTS_VERSION, "two minutes")?;
    }
    if missing.has(Tool::Nightly) {
        let args = ["toolchain", "install", "nightly", "--profile", "minimal"];
        shell::run(Command::new("rustup").args(args))
            .context("rustup could not install a nightly compiler")?;
    }
    Ok(())
}

fn cargo_install(tool: &str, version: &str, takes: &str) -> Result<()> {
    let stage = Stage::start(format!("setup: building {tool} ({takes})"));
    let mut command = Command::new("cargo");
    command.args(["install", tool, "--locked", "--version", version]);
    shell::run(&mut command)?;
    stage.done();
    Ok(())
}

fn install_clippy(toolchain: &Toolchain) -> Result<()> {
    match toolchain.core {
        Core::Ready => apt_install(&["rust-web-clippy".to_owned()]),
        Core::FromSource => shell::run(
            Command::new("rustup")
                .args(["component", "add", "clippy", "--toolchain"])
                .arg(&toolchain.name),
        ),
    }
}

/// Everything that apt and rustup bring, in one go.
fn install_packages(missing: &Missing) -> Result<()> {
    let mut packages = missing.packages(How::Install);
    if packages.iter().any(|package| package == "gcc") {
        packages.push("libc6-dev".to_owned());
    }
    apt_update()?;
    let from_debian = missing.has(Tool::Toolchain) && has_candidate(toolchain::DEBIAN_MARKER);
    if from_debian {
        packages.extend(toolchain::DEBIAN_COMPILER.map(str::to_owned));
    }
    apt_install(&packages)?;
    if from_debian {
        toolchain::link()?;
    } else if missing.has(Tool::Toolchain) {
        toolchain::install_nightly()?;
    }
    if missing.has(Tool::BpfLinker)
        && let Some(found) = toolchain::find()
        && toolchain::bpf_linker(&found).is_none()
    {
        apt_install(&toolchain::llvm_packages(found.llvm))?;
    }
    Ok(())
}

fn apt(args: &[&str]) -> Result<Command> {
    let env = [("DEBIAN_FRONTEND", OsString::from("noninteractive"))];
    let mut command = shell::as_root("apt-get", &env)?;
    command
        .args(["-q", "-o", "DPkg::Lock::Timeout=120"])
        .args(args);
    Ok(command)
}

/// Refreshes apt's lists. A foreign source that can't be reached is none of
/// our business: whether the package is to be had shows when it is installed.
pub(crate) fn apt_update() -> Result<()> {
    let stage = Stage::start("setup: apt-get update");
    if let Err(error) = shell::output(&mut apt(&["update"])?) {
        eprintln!("setup: going on with apt's old lists: {error:#}");
    }
    stage.done();
    Ok(())
}

fn apt_install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let stage = Stage::start(format!("setup: apt-get install {}", packages.join(" ")));
    let mut command = apt(&["install", "-y", "--no-install-recommends", "--no-remove"])?;
    shell::output(command.arg("--").args(packages))?;
    stage.done();
    Ok(())
}

fn has_candidate(package: &str) -> bool {
    shell::output(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|policy| policy.contains("Candidate: ") && !policy.contains("Candidate: (none)"))
}

/// Downloads packages and unpacks them below the target directory; only the
/// libraries that they need are installed.
fn unpack(packages: &[String]) -> Result<()> {
    let stage = Stage::start(format!("setup: unpacking {}", packages.join(" ")));
    let root = shell::unpacked_dir();
    let downloads = root.with_file_name("deb");
    fs::create_dir_all(&root)?;
    for package in packages.iter().flat_map(|package| with_companions(package)) {
        let deb = download(package, &downloads)?;
        apt_install(&missing_libraries(&deb)?)?;
        shell::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root))?;
        fs::remove_file(&deb)?;
    }
    stage.done();
    Ok(())
}

/// A package, after what it needs beside it: when its program is found, all of
/// it is there.
fn with_companions(package: &str) -> impl Iterator<Item = &str> {
    let companions = COMPANIONS
        .iter()
        .filter(move |(owner, _)| *owner == package)
        .flat_map(|(_, companions)| companions.iter().copied());
    companions.chain([package])
}

/// Downloads one package into a directory of its own and returns its file.
pub(crate) fn download(package: &str, dir: &Path) -> Result<std::path::PathBuf> {
    let dir = dir.join(package);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    shell::output(
        Command::new("apt-get")
            .args(["download", "-q", package])
            .current_dir(&dir),
    )?;
    let mut files = dir.read_dir()?.filter_map(Result::ok);
    files
        .find(|entry| entry.path().extension().is_some_and(|ext| ext == "deb"))
        .map(|entry| entry.path())
        .with_context(|| format!("`apt-get download {package}` left no file"))
}

/// The libraries that a package depends on and that aren't installed.
fn missing_libraries(deb: &Path) -> Result<Vec<String>> {
    let depends = shell::output(Command::new("dpkg-deb").arg("-f").arg(deb).arg("Depends"))?;
    Ok(libraries(&depends)
        .filter(|package| {
            !shell::output(Command::new("dpkg-query").args([
                "-W",
                "-f=${db:Status-Status}",
                package,
            ]))
            .is_ok_and(|status| status.starts_with("installed"))
        })
        .map(str::to_owned)
        .collect())
}

/// The names of libraries in a `Depends` field, first alternatives only.
fn libraries(depends: &str) -> impl Iterator<Item = &str> {
    depends
        .split(',')
        .filter_map(|one| one.trim().split([' ', '|', '(', ':']).next())
        .filter(|name| name.starts_with("lib") || name.starts_with("zlib"))
}

/// What a person can type on this machine instead.
fn by_hand(missing: &Missing) -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut lines = vec![format!("missing: {}. As root:", missing.describe())];
    lines.extend(packages_by_hand(&release, missing));
    if missing.has(Tool::Toolchain) {
        lines.push("and as yourself:".to_owned());
        lines.push(
            "  rustup toolchain install nightly --component rust-src --component clippy".to_owned(),
        );
    }
    if missing.has(Tool::BpfLinker) {
        // Debian keeps several versions of LLVM side by side.
        let prefix = if release.contains("debian") {
            format!("/usr/lib/llvm-{}", toolchain::DEBIAN_LLVM)
        } else {
            "/usr".to_owned()
        };
        lines.push(format!("  {}", toolchain::bpf_linker_by_hand(&prefix)));
    }
    if missing.has(Tool::CargoDeny) {
        lines.push(format!(
            "  cargo install cargo-deny --locked --version {CARGO_DENY_VERSION}"
        ));
    }
    if missing.has(Tool::CargoFuzz) {
        lines.push(format!(
            "  cargo install cargo-fuzz --locked --version {CARGO_FUZZ_VERSION}"
        ));
    }
    if missing.has(Tool::CargoMutants) {
        lines.push(format!(
            "  cargo install cargo-mutants --locked --version {CARGO_MUTANTS_VERSION}"
        ));
    }
    if missing.has(Tool::Nightly) {
        lines.push("  rustup toolchain install nightly --profile minimal".to_owned());
    }
    lines.join("\n")
}

/// The package manager's lines, by `/etc/os-release`.
fn packages_by_hand(release: &str, missing: &Missing) -> Vec<String> {
    let is = |family: &str| {
        release
            .lines()
            .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
            .any(|ids| ids.trim_matches('"').split(' ').any(|id| id == family))
    };
    let mut names: Vec<&str> = missing.programs.iter().map(|found| found.package).collect();
    names.dedup();
    if is("debian") || is("ubuntu") {
        return debian_by_hand(missing);
    }
    let (tool, table) = if is("fedora") || is("rhel") {
        ("dnf install", &FEDORA[..])
    } else if is("arch") {
        ("pacman -S --needed", &ARCH[..])
    } else {
        let names = names.join(" ");
        return vec![format!(
            "  install what these Debian packages hold: {names} llvm-dev"
        )];
    };
    let mut names: Vec<&str> = names.iter().map(|name| translate(table, name)).collect();
    if missing.has(Tool::BpfLinker) {
        names.push(translate(table, "llvm-dev"));
    }
    vec![format!("  {tool} {}", names.join(" "))]
}

/// Without the packages that `setup` unpacks, which it can do without root.
fn debian_by_hand(missing: &Missing) -> Vec<String> {
    let mut names = missing.packages(How::Install);
    if missing.has(Tool::Toolchain) {
        names.extend(toolchain::DEBIAN_COMPILER.map(str::to_owned));
    }
    if missing.has(Tool::BpfLinker) {
        names.extend(toolchain::llvm_packages(toolchain::DEBIAN_LLVM));
    }
    if missing.has(Tool::EbpfClippy) {
        names.push("rust-web-clippy".to_owned());
    }
    let mut lines = vec![format!(
        "  apt-get update && apt-get install --no-install-recommends {}",
        names.join(" ")
    )];
    if missing.has(Tool::Toolchain) {
        lines.push(format!(
            "where it has no `{}`, leave out the packages with `web` and use the nightly below; where it has:\n  rustup toolchain link {} /usr",
            toolchain::DEBIAN_MARKER,
            toolchain::LINKED
        ));
    }
    lines
}

/// Debian's name → theirs, where they differ.
const FEDORA: [(&str, &str); 11] = [
    ("gcc", "gcc glibc-devel"),
    ("iproute2", "iproute iproute-tc"),
    ("iputils-ping", "iputils"),
    ("netcat-openbsd", "netcat"),
    ("openssh-client", "openssh-clients"),
    ("qemu-system-x86", "qemu-system-x86-core"),
    ("bind9-dnsutils", "bind-utils"),
    ("dnsmasq-base", "dnsmasq"),
    ("xz-utils", "xz"),
    ("busybox-static", "busybox"),
    ("llvm-dev", "llvm-devel libzstd-devel zlib-devel"),
];
const ARCH: [(&str, &str); 12] = [
    ("gcc", "base-devel"),
    ("iputils-ping", "iputils"),
    ("netcat-openbsd", "openbsd-netcat"),
    ("openssh-client", "openssh"),
    ("openssh-server", "openssh"),
    ("bpftool", "bpf"),
    ("qemu-system-x86", "qemu-system-x86"),
    ("bind9-dnsutils", "bind"),
    ("dnsmasq-base", "dnsmasq"),
    ("xz-utils", "xz"),
    ("busybox-static", "busybox"),
    ("llvm-dev", "llvm"),
];

fn translate<'a>(table: &[(&'a str, &'a str)], name: &'a str) -> &'a str {
    table
        .iter()
        .find(|(debian, _)| *debian == name)
        .map_or(name, |(_, theirs)| theirs)
}

#[cfg(test)]
mod tests {
    use super::{Missing, PROGRAMS, Tool, libraries, packages_by_hand};

    #[test]
    fn libraries_of_a_package() {
        let depends = "adduser, libc6 (>= 2.36), libpam-modules (>= 0.72-9), debconf (>= 0.5) | \
                       debconf-2.0, zlib1g (>= 1:1.1.4), libssl3 | libssl1.1";
        let found: Vec<&str> = libraries(depends).collect();
        assert_eq!(found, ["libc6", "libpam-modules", "zlib1g", "libssl3"]);
    }

    #[test]
    fn every_family_has_its_command() {
        let missing = Missing {
            programs: PROGRAMS.iter().collect(),
            tools: vec![Tool::Toolchain, Tool::BpfLinker],
        };
        for (release, expected) in [
            ("ID=debian\n", "rustc-web cargo-web"),
            ("ID=ubuntu\nID_LIKE=debian\n", "apt-get install"),
            (
                "ID=fedora\n",
                "dnf install gcc glibc-devel iproute iproute-tc",
            ),
            (
                "ID=manjaro\nID_LIKE=arch\n",
                "pacman -S --needed base-devel iproute2",
            ),
            ("ID=nixos\n", "these Debian packages"),
        ] {
            let lines = packages_by_hand(release, &missing).join("\n");
            assert!(lines.contains(expected), "{release}: {lines}");
        }
    }
}
