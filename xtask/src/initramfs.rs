//! The root file system of a test VM: a cpio archive in the kernel's `newc`
//! format (Documentation/driver-api/early-userspace/buffer-format.rst), not
//! compressed, because unpacking costs more than loading under emulation.
//!
//! Programs come from this machine, each with its shared libraries. Guest and
//! host agree on their paths, except that the guest has one `/usr/bin`, and
//! `/bin`, `/sbin` and `/lib` lead into `/usr`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{kernel::Kernel, shell};

/// What the lab and the tests call. The shell is this machine's own, because
/// busybox's prefers its own `ip` and `nc` to the real ones.
const PROGRAMS: [&str; 18] = [
    "busybox",
    "sh",
    "ip",
    "tc",
    "ss",
    "ping",
    "curl",
    "nc",
    "ssh",
    "ssh-keygen",
    "openssl",
    "tcpdump",
    "nft",
    "bpftool",
    "ethtool",
    "caddy",
    "unshare",
    "mount",
];
/// Data that those programs read.
const FILES: [&str; 6] = [
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl/openssl.cnf",
    "/etc/iproute2/rt_protos",
    "/etc/iproute2/rt_tables",
];
/// The users that servers change to.
const PASSWD: &str = "root:x:0:0:root:/:/bin/sh
sshd:x:100:65534::/run/sshd:/bin/false
tcpdump:x:101:101::/:/bin/false
nobody:x:65534:65534::/:/bin/false
";
const GROUP: &str = "root:x:0:\ntcpdump:x:101:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost sg-test\n::1 localhost sg-test\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files\n";

/// Bytes before a record's name: the magic number and 13 fields.
const HEADER: usize = 6 + 13 * 8;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

enum Entry {
    Dir,
    File { mode: u32, data: Vec<u8> },
    Copy { mode: u32, from: PathBuf },
    Link { to: String },
}

/// A root file system in the making.
pub(crate) struct Image {
    /// By path without a leading slash; parents sort before their children.
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// A file system in which `init` can start, and nothing else.
    pub(crate) fn new(init: &Path) -> Result<Self> {
        let mut image = Self {
            entries: BTreeMap::new(),
        };
        for dir in ["dev", "proc", "sys", "tmp", "run", "var/empty", "root"] {
            image.dir(dir);
        }
        for (link, to) in [
            ("bin", "usr/bin"),
            ("sbin", "usr/sbin"),
            ("lib", "usr/lib"),
            ("lib64", "usr/lib64"),
            ("var/run", "/run"),
        ] {
            image.link(link, to);
        }
        for dir in ["usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
            image.dir(dir);
        }
        image.program(init, "/init")?;
        Ok(image)
    }

    /// Everything that tests and lab run, and the kernel's modules. Returns
    /// the modules' paths in the order to load them.
    pub(crate) fn fill(&mut self, kernel: &Kernel) -> Result<Vec<String>> {
        self.text("/etc/passwd", PASSWD);
        self.text("/etc/group", GROUP);
        self.text("/etc/hosts", HOSTS);
        self.text("/etc/nsswitch.conf", NSSWITCH);
        for name in PROGRAMS {
            self.installed(name)?;
        }
        self.sshd()?;
        self.applets()?;
        for file in FILES.map(Path::new) {
            if file.is_file() {
                self.copy(file, &file.to_string_lossy(), 0o644);
            }
        }
        self.workspace()?;
        let mut modules = Vec::new();
        for module in kernel.modules()? {
            let path = format!("/modules/{}.ko", module.name);
            let (mode, data) = (0o644, module.object);
            self.insert(&path, Entry::File { mode, data });
            modules.push(path);
        }
        Ok(modules)
    }

    /// `examples/` where the tests find it: at the workspace's own path, and
    /// at `/examples` for people.
    fn workspace(&mut self) -> Result<()> {
        let root = shell::root();
        self.dir(&root.join("tests").to_string_lossy());
        let examples = root.join("examples");
        self.dir(&examples.to_string_lossy());
        if examples.is_dir() {
            self.tree(&examples)?;
        }
        self.link("examples", &examples.to_string_lossy());
        Ok(())
    }

    fn tree(&mut self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                self.tree(&path)?;
            } else {
                self.copy(&path, &path.to_string_lossy(), 0o644);
            }
        }
        Ok(())
    }

    /// A program of this machine, at the place where it is here.
    fn installed(&mut self, name: &str) -> Result<()> {
        let path = find(name)?;
        let at = path.strip_prefix(shell::unpacked_dir()).unwrap_or(&path);
        let dir = if at.starts_with("usr/sbin") || at.starts_with("/usr/sbin") {
            "/usr/sbin"
        } else {
            "/usr/bin"
        };
        self.program(&path, &format!("{dir}/{name}"))
    }

    /// sshd is called by its whole path, and calls others by theirs.
    fn sshd(&mut self) -> Result<()> {
        self.program(&find("sshd")?, "/usr/sbin/sshd")?;
        for lib in [Path::new("/"), &shell::unpacked_dir()].map(|root| root.join("usr/lib/openssh"))
        {
            let Ok(entries) = lib.read_dir() else {
                continue;
            };
            for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if name.starts_with("sshd-") || name == "sftp-server" {
                    self.program(&path, &format!("/usr/lib/openssh/{name}"))?;
                }
            }
        }
        Ok(())
    }

    /// Busybox under the names of all programs that aren't there otherwise.
    fn applets(&mut self) -> Result<()> {
        let list = shell::output(Command::new(find("busybox")?).arg("--list"))?;
        for name in list.lines() {
            let taken = ["usr/bin", "usr/sbin"]
                .iter()
                .any(|dir| self.entries.contains_key(&format!("{dir}/{name}")));
            if !taken {
                self.link(&format!("usr/bin/{name}"), "busybox");
            }
        }
        Ok(())
    }

    /// Adds a program and the shared libraries that it names.
    pub(crate) fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to, 0o755);
        for library in libraries(from)? {
            let to = library.to_string_lossy().into_owned();
            if !self.entries.contains_key(&canonical(&to)) {
                self.copy(&library, &to, 0o755);
            }
        }
        Ok(())
    }

    /// Like [`Image::program`], less its debug information.
    pub(crate) fn stripped(&mut self, from: &Path, to: &str, scratch: &Path) -> Result<()> {
        fs::create_dir_all(scratch)?;
        let copy = scratch.join(from.file_name().unwrap_or_default());
        shell::output(
            Command::new("strip")
                .args(["--strip-debug", "-o"])
                .arg(&copy)
                .arg(from),
        )?;
        self.program(&copy, to)
    }

    /// Adds a text file.
    pub(crate) fn text(&mut self, path: &str, text: &str) {
        let (mode, data) = (0o644, text.as_bytes().to_vec());
        self.insert(path, Entry::File { mode, data });
    }

    fn copy(&mut self, from: &Path, to: &str, mode: u32) {
        let from = from.to_owned();
        self.insert(to, Entry::Copy { mode, from });
    }

    fn dir(&mut self, path: &str) {
        self.insert(path, Entry::Dir);
    }

    fn link(&mut self, path: &str, to: &str) {
        let to = to.to_owned();
        self.insert(path, Entry::Link { to });
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = canonical(path);
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default();
            self.entries.entry(parent.to_owned()).or_insert(Entry::Dir);
        }
        self.entries.insert(path, entry);
    }

    /// Writes the archive.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let file =
            File::create(path).with_context(|| format!("can't write `{}`", path.display()))?;
        let mut out = BufWriter::new(file);
        for (ino, (path, entry)) in (1..).zip(&self.entries) {
            write_entry(&mut out, ino, path, entry).with_context(|| format!("adding `{path}`"))?;
        }
        write_record(&mut out, 0, 0, "TRAILER!!!", &[])?;
        out.flush()?;
        Ok(())
    }
}

fn find(name: &str) -> Result<PathBuf> {
    shell::find_program(name)
        .with_context(|| format!("`{name}` not found: `cargo xtask setup` installs it"))
}

/// The path in the archive: relative, and through none of the links that
/// [`Image::new`] makes.
fn canonical(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if path != first && ["bin", "sbin", "lib", "lib64"].contains(&first) {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

/// The shared libraries of a program, the loader among them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.context("can't start `ldd`")?;
    // ldd fails on a static program, which has none.
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("`{}` lacks a library: {}", program.display(), line.trim());
    }
    Ok(text
        .lines()
        .filter_map(|line| {
            let line = line.split_once("=> ").map_or(line, |(_, path)| path);
            let path = line.trim().split(' ').next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect())
}

fn write_entry(out: &mut impl Write, ino: u32, path: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::Dir => write_record(out, ino, S_IFDIR | 0o755, path, &[])?,
        Entry::Link { to } => write_record(out, ino, S_IFLNK | 0o777, path, to.as_bytes())?,
        Entry::File { mode, data } => write_record(out, ino, S_IFREG | mode, path, data)?,
        Entry::Copy { mode, from } => {
            let data =
                fs::read(from).with_context(|| format!("can't read `{}`", from.display()))?;
            // Programs unpacked from packages keep their own mode.
            let own = fs::metadata(from)?.permissions().mode() & 0o111;
            write_record(out, ino, S_IFREG | mode | own, path, &data)?;
        }
    }
    Ok(())
}

/// One record: a header of 13 eight-digit hexadecimal fields, the name and
/// the data, each padded to four bytes.
fn write_record(
    out: &mut impl Write,
    ino: u32,
    mode: u32,
    name: &str,
    data: &[u8],
) -> io::Result<()> {
    let too_big = |_| io::Error::other("over 4 GiB");
    let size = u32::try_from(data.len()).map_err(too_big)?;
    let name_size = u32::try_from(name.len() + 1).map_err(too_big)?;
    let fields = [
        ino, mode, 0, // uid
        0, // gid
        1, // nlink
        0, // mtime
        size, 0, 0, // device
        0, 0, // device that a node stands for
        name_size, 0, // checksum, of another format
    ];
    write!(out, "070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    out.write_all(name.as_bytes())?;
    out.write_all(&[0; 4][..4 - (HEADER + name.len()) % 4])?;
    out.write_all(data)?;
    out.write_all(&[0; 3][..data.len().wrapping_neg() % 4])
}

#[cfg(test)]
mod tests {
    use super::{HEADER, canonical, write_record};

    #[test]
    fn paths_lead_into_usr() {
        for (path, expected) in [
            (
                "/lib/x86_64-linux-gnu/libc.so.6",
                "usr/lib/x86_64-linux-gnu/libc.so.6",
            ),
            (
                "/lib64/ld-linux-x86-64.so.2",
                "usr/lib64/ld-linux-x86-64.so.2",
            ),
            ("bin", "bin"),
            ("/etc/passwd", "etc/passwd"),
        ] {
            assert_eq!(canonical(path), expected, "{path}");
        }
    }

    #[test]
    fn records_are_padded() -> std::io::Result<()> {
        for name in ["a", "ab", "abc", "abcd"] {
            for data in [&b""[..], b"1", b"12", b"123", b"1234"] {
                let mut out = Vec::new();
                write_record(&mut out, 1, 0o100_644, name, data)?;
                assert_eq!(out.len() % 4, 0, "{name} {}", data.len());
                assert_eq!(out.get(HEADER..HEADER + name.len()), Some(name.as_bytes()));
                assert_eq!(out.get(HEADER + name.len()), Some(&0), "{name}");
            }
        }
        Ok(())
    }
}
