//! xdp-filter (Debian's xdp-tools) on an interface in a namespace of its own,
//! which it can't be measured without: it attaches, or does nothing.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{bpf::Program, command, shapes::PORT};
use crate::netns::Netns;

/// xdp-filter with one rule, native, on one end of a veth.
pub(super) struct XdpFilter {
    _namespace: Netns,
    program: Program,
}

impl XdpFilter {
    /// Loads it with what it can look at (`xdp-filter load --features`).
    pub(super) fn load(features: &str) -> Result<Self> {
        let namespace = Netns::new("xdp-filter")?;
        namespace.ip("link add eth0 type veth peer name eth1")?;
        attach(&namespace, "eth0", features, "tcp")?;
        let program = attached(&namespace, "eth0")?;
        Ok(Self {
            _namespace: namespace,
            program,
        })
    }

    /// What runs on the interface: libxdp's dispatcher, which calls it.
    pub(super) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// Attaches it to an interface: everything is denied but a protocol's [`PORT`].
pub(super) fn attach(
    namespace: &Netns,
    interface: &str,
    features: &str,
    protocol: &str,
) -> Result<()> {
    let port = PORT.to_string();
    #[rustfmt::skip]
    let load = ["load", "-m", "native", "-p", "deny", "-f", features, interface];
    command::run(namespace, "xdp-filter", &load)?;
    let allow = ["port", "-p", protocol, "-m", "dst", &port];
    command::run(namespace, "xdp-filter", &allow)
}

/// The XDP program on an interface.
pub(super) fn attached(namespace: &Netns, interface: &str) -> Result<Program> {
    let output = namespace.output("ip", &["-j", "link", "show", "dev", interface])?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    let id = id.with_context(|| format!("no XDP program on `{interface}`"))?;
    Program::by_id(u32::try_from(id)?)
}
