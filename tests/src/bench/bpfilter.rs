//! bpfilter, where its `bfcli` is to be had: it writes a program that tries
//! rule after rule.

use std::{
    env,
    fmt::Write as _,
    fs,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result};

use super::{bpf::Program, command, xdp_filter::attached};
use crate::netns::Netns;

/// Its program on one end of a veth.
pub(super) struct Bpfilter {
    _namespace: Netns,
    program: Program,
}

/// Whether `bfcli` is on `PATH`.
pub(super) fn is_there() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join("bfcli").is_file())
}

impl Bpfilter {
    /// Drops everything but TCP to as many ports, each with a rule and a
    /// counter. `port` is that of the last rule, the one that takes longest.
    pub(super) fn load(directory: &Path, rules: u16, port: u16) -> Result<Self> {
        const FIRST_PORT: u16 = 1024;
        let namespace = Netns::new("bpfilter")?;
        namespace.ip("link add eth0 type veth peer name eth1")?;
        let index = namespace.enter(|| Ok(nix::net::if_::if_nametoindex("eth0")?))?;
        let mut chain = format!("chain bench BF_HOOK_XDP{{ifindex={index}}} DROP\n");
        let others = (FIRST_PORT..).take(usize::from(rules).saturating_sub(1));
        for port in others.chain([port]) {
            writeln!(chain, "rule tcp.dport eq {port} counter ACCEPT")?;
        }
        let file = directory.join(format!("bpfilter-{rules}.chain"));
        fs::write(&file, chain).with_context(|| format!("can't write `{}`", file.display()))?;
        let file = file.to_string_lossy();
        command::run(&namespace, "bfcli", &["chain", "set", "--from-file", &file])?;
        let program = attached(&namespace, "eth0")?;
        Ok(Self {
            _namespace: namespace,
            program,
        })
    }

    /// What runs on the interface.
    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
