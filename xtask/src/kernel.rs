//! The kernels of the test VMs: Debian's cloud kernels, unpacked below cargo's
//! target directory and kept there; nothing is installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{progress::Stage, setup, shell};

/// Those that `vm` and `test` boot: the floor, and the first long-term kernel
/// with TCX.
pub(crate) const DEFAULT: [&str; 2] = ["6.1", "6.12"];

const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-cloud-amd64-unsigned";

/// The modules that tests and lab use, with those they depend on. The guest
/// has no modprobe, so every one is loaded at boot.
#[rustfmt::skip]
const MODULES: [(&str, &str); 17] = [
    ("veth",            "the cables"),
    ("dummy",           "an interface nobody is behind"),
    ("bridge",          "as Docker makes one"),
    ("tun",             "interfaces with no Ethernet header"),
    ("8021q",           "tagged frames"),
    ("sch_ingress",     "clsact: tc before TCX"),
    ("cls_bpf",         "clsact: tc before TCX"),
    ("cls_matchall",    "other people's tc filters"),
    ("act_gact",        "other people's tc filters"),
    ("sch_netem",       "loss and delay"),
    ("nf_tables",       "another firewall beside ours"),
    ("nft_ct",          "another firewall beside ours"),
    ("nft_reject_inet", "another firewall beside ours"),
    ("nft_chain_nat",   "published ports, as Docker makes them"),
    ("nft_nat",         "published ports, as Docker makes them"),
    ("nft_masq",        "published ports, as Docker makes them"),
    ("tcp_diag",        "ss"),
];

/// An unpacked kernel package.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As people say it: `6.1.0-56`.
    pub(crate) name: String,
    /// Where everything about it is kept.
    pub(crate) dir: PathBuf,
    /// The image to boot.
    pub(crate) vmlinuz: PathBuf,
}

/// A module to load.
pub(crate) struct Module {
    /// Without `.ko`.
    pub(crate) name: String,
    /// Its object file, not compressed.
    pub(crate) object: Vec<u8>,
}

impl Kernel {
    /// Finds the newest kernel of a series (`6.1`), here or at Debian.
    pub(crate) fn get(series: &str) -> Result<Self> {
        if !series.starts_with(|c: char| c.is_ascii_digit()) {
            bail!("`{series}` is no kernel version: expected one like `6.1` or `6.12`");
        }
        let dir = shell::target_dir().join("vm");
        fs::create_dir_all(&dir)?;
        let package = match newest(series, &kept(&dir)?) {
            Some(kept) => kept,
            None => fetch(series, &dir)?,
        };
        Self::open(&package, dir.join(&package))
    }

    fn open(package: &str, dir: PathBuf) -> Result<Self> {
        let name = package.trim_start_matches(PREFIX).trim_end_matches(SUFFIX);
        let vmlinuz = entries(&dir.join("boot"))?
            .into_iter()
            .find(|path| file_name(path).starts_with("vmlinuz-"))
            .with_context(|| format!("`{}` has no vmlinuz", dir.display()))?;
        Ok(Self {
            name: name.to_owned(),
            dir,
            vmlinuz,
        })
    }

    /// The modules to load, in the order to load them.
    pub(crate) fn modules(&self) -> Result<Vec<Module>> {
        let mut files = BTreeMap::new();
        let lib = ["lib/modules", "usr/lib/modules"].map(|lib| self.dir.join(lib));
        let lib = lib.iter().find(|lib| lib.is_dir());
        collect_modules(
            lib.context("the kernel package has no modules")?,
            &mut files,
        )?;
        let mut loaded = Loaded::default();
        for (name, _why) in MODULES {
            // What isn't there is built in, or this kernel doesn't have it; a
            // test that needs it will say so.
            if files.contains_key(name) {
                loaded.add(name, &files)?;
            }
        }
        Ok(loaded.modules)
    }
}

/// Modules so far, each after those that it depends on.
#[derive(Default)]
struct Loaded {
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Loaded {
    fn add(&mut self, name: &str, files: &BTreeMap<String, PathBuf>) -> Result<()> {
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = files.get(name) else {
            bail!("module `{name}` is needed by another one and not in the kernel package");
        };
        let object = read_module(path)?;
        for needed in depends(&object) {
            self.add(&needed, files)?;
        }
        self.modules.push(Module {
            name: name.to_owned(),
            object,
        });
        Ok(())
    }
}

/// Kernels unpacked earlier.
fn kept(dir: &Path) -> Result<Vec<String>> {
    Ok(entries(dir)?.iter().map(|path| file_name(path)).collect())
}

/// Downloads and unpacks the newest kernel of a series; returns its package.
fn fetch(series: &str, dir: &Path) -> Result<String> {
    let available = || -> Result<Vec<String>> {
        let pattern = format!("^{PREFIX}{}", series.replace('.', "\\."));
        let found =
            shell::output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))
                .context("test kernels come from Debian packages")?;
        let first_word = |line: &str| line.split(' ').next().map(str::to_owned);
        Ok(found.lines().filter_map(first_word).collect())
    };
    let mut package = newest(series, &available()?);
    if package.is_none() {
        setup::apt_update()?;
        package = newest(series, &available()?);
    }
    let package = package.with_context(|| {
        format!(
            "apt knows no `{PREFIX}{series}*{SUFFIX}`: Debian 12 has 6.1 and 6.12, name others \
             with `cargo xtask vm --kernel`"
        )
    })?;
    let stage = Stage::start(format!("downloading {package}"));
    let deb = setup::download(&package, &dir.join("deb"))?;
    // Unpacked beside its place and moved there: what is there is complete.
    let partial = dir.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    shell::output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&partial))?;
    fs::rename(&partial, dir.join(&package))?;
    fs::remove_file(&deb)?;
    stage.done();
    Ok(package)
}

/// The newest cloud kernel of a series among package names.
fn newest(series: &str, packages: &[String]) -> Option<String> {
    let version = |package: &str| -> Option<Vec<u64>> {
        let version = package.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let rest = version.strip_prefix(series)?;
        let other = rest.starts_with(|c: char| c.is_ascii_digit());
        (!other).then(|| numbers(version))
    };
    packages
        .iter()
        .filter_map(|package| Some((version(package)?, package)))
        .max()
        .map(|(_, package)| package.clone())
}

/// The numbers in a version: `6.1.0-56` → 6, 1, 0, 56.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(dir).with_context(|| format!("can't read `{}`", dir.display()))?;
    Ok(read
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect())
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Every module file below a directory, by the module's name.
fn collect_modules(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in entries(dir)? {
        if path.is_dir() {
            collect_modules(&path, files)?;
        } else if let Some((name, _)) = file_name(&path).split_once(".ko") {
            // A file may be called `nf-log.ko`; the kernel says `nf_log`.
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "ko") {
        return Ok(fs::read(path)?);
    }
    let mut command = Command::new("xz");
    command.args(["--decompress", "--stdout"]).arg(path);
    let output = command.output().context("can't start `xz`")?;
    if !output.status.success() {
        bail!("`{}` failed", shell::typed(&command));
    }
    Ok(output.stdout)
}

/// The modules that one needs, out of its `.modinfo` section (which is what
/// depmod reads; Debian's packages come without `modules.dep`).
fn depends(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = object.get(at + KEY.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{depends, newest};

    #[test]
    fn newest_of_a_series() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64-unsigned",
            "linux-image-6.1.0-56-cloud-amd64-unsigned",
            "linux-image-6.1.0-57-amd64-unsigned",
            "linux-image-6.12.107+deb12-cloud-amd64-unsigned",
            "linux-image-6.12.99+deb12-cloud-amd64-unsigned",
        ]
        .map(str::to_owned);
        for (series, expected) in [
            ("6.1", packages.get(1)),
            ("6.12", packages.get(3)),
            ("6.12.99", packages.get(4)),
            ("5.10", None),
        ] {
            assert_eq!(newest(series, &packages).as_ref(), expected, "{series}");
        }
    }

    #[test]
    fn dependencies_of_a_module() {
        let object = b"\0license=GPL\0depends=nf_conntrack,x-tables\0name=nft_ct\0";
        assert_eq!(depends(object), ["nf_conntrack", "x_tables"]);
        assert!(depends(b"\0depends=\0name=veth\0").is_empty());
    }
}
