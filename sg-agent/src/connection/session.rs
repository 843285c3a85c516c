//! The connection over which whoever runs this command is logged in.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    net::{IpAddr, Ipv4Addr},
};

use procfs::process::{FDTarget, Process};
use sg_common::transport::TCP;

use super::{Connection, socket};

/// How far up it is looked for: shell, `sudo`, `screen`, `sshd`, each with
/// children of its own.
const MAX_ANCESTORS: usize = 32;

/// The caller's own session: that of `SSH_CONNECTION` or `SSH_CLIENT`, as `sshd`
/// sets them, in the environment of this process or one that it descends from
/// (`sudo` does not pass them on); else, at a terminal, the TCP connection that
/// an ancestor outside of this login session accepted.
#[must_use]
pub fn own_session() -> Option<Connection> {
    let own = |name: &str| std::env::var_os(name);
    if let Some(session) = named(own) {
        return Some(session);
    }
    let ancestors = ancestors();
    let environments = ancestors
        .iter()
        .filter_map(|process| process.environ().ok());
    let mut sessions =
        environments.filter_map(|variables| named(|name| variables.get(OsStr::new(name)).cloned()));
    sessions.next().or_else(|| at_terminal(&ancestors))
}

fn named(variable: impl Fn(&str) -> Option<OsString>) -> Option<Connection> {
    let text = |name| Some(variable(name)?.to_string_lossy().into_owned());
    let connection = text("SSH_CONNECTION").and_then(|value| parse(&value));
    connection.or_else(|| parse_client(&text("SSH_CLIENT")?))
}

/// This process, its parent, its parent's parent, and so on, but not `init`.
fn ancestors() -> Vec<Process> {
    let mut ancestors: Vec<Process> = Vec::new();
    let mut next = Process::myself().ok();
    while let Some(process) = next {
        let parent = process.stat().ok().map(|stat| stat.ppid);
        next = parent
            .filter(|parent| *parent > 1 && ancestors.len() < MAX_ANCESTORS)
            .and_then(|parent| Process::new(parent).ok());
        ancestors.push(process);
    }
    ancestors
}

/// A server that runs this command without a terminal has connections too, but
/// nobody is logged in over them.
fn at_terminal(ancestors: &[Process]) -> Option<Connection> {
    let own = ancestors.first()?.stat().ok()?;
    if own.tty_nr == 0 {
        return None;
    }
    let outside = ancestors
        .iter()
        .filter(|process| process.stat().is_ok_and(|stat| stat.session != own.session));
    outside.into_iter().find_map(accepted_by)
}

fn accepted_by(process: &Process) -> Option<Connection> {
    let descriptors = process.fd().ok()?.flatten();
    let inodes: HashSet<u64> = descriptors
        .filter_map(|descriptor| match descriptor.target {
            FDTarget::Socket(inode) => Some(inode),
            _ => None,
        })
        .collect();
    socket::accepted_by(&inodes)
}

/// `192.0.2.1 50000 198.51.100.7 22`: the client, then the server (sshd(8)).
fn parse(value: &str) -> Option<Connection> {
    let mut words = value.split_ascii_whitespace();
    let (remote, remote_port) = (address(words.next()?)?, words.next()?.parse().ok()?);
    let (local, local_port) = (address(words.next()?)?, words.next()?.parse().ok()?);
    from(remote, remote_port, local, local_port)
}

/// `192.0.2.1 50000 22`: the client, then the server's port (sshd(8)). The
/// server's address is left open.
fn parse_client(value: &str) -> Option<Connection> {
    let mut words = value.split_ascii_whitespace();
    let (remote, remote_port) = (address(words.next()?)?, words.next()?.parse().ok()?);
    let local_port = words.next()?.parse().ok()?;
    from(
        remote,
        remote_port,
        Ipv4Addr::UNSPECIFIED.into(),
        local_port,
    )
}

/// A link-local address comes with its interface: `fe80::1%eth0`.
fn address(word: &str) -> Option<IpAddr> {
    let address: IpAddr = word.split('%').next()?.parse().ok()?;
    Some(address.to_canonical())
}

fn from(remote: IpAddr, remote_port: u16, local: IpAddr, local_port: u16) -> Option<Connection> {
    (!remote.is_loopback()).then_some(Connection {
        opened_by_host: false,
        protocol: TCP,
        local,
        local_port,
        remote,
        remote_port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sshd_writes() {
        let session = |value| parse(value).map(|session| session.to_string());
        let found = session("192.0.2.1 50000 198.51.100.7 2222");
        assert_eq!(found.as_deref(), Some("tcp 2222 from 192.0.2.1"));
        let found = session("fe80::1%eth0 50000 fe80::2%eth0 22");
        assert_eq!(found.as_deref(), Some("tcp 22 from fe80::1"));
        let found = session("::ffff:192.0.2.1 50000 ::ffff:198.51.100.7 22");
        assert_eq!(found.as_deref(), Some("tcp 22 from 192.0.2.1"));
        for value in [
            "",
            "UNKNOWN 65535 UNKNOWN 65535",
            "192.0.2.1 50000",
            "127.0.0.1 1 127.0.0.1 22",
        ] {
            assert_eq!(session(value), None, "{value}");
        }
        let found = parse_client("192.0.2.1 50000 2222").map(|session| session.to_string());
        assert_eq!(found.as_deref(), Some("tcp 2222 from 192.0.2.1"));
    }
}
