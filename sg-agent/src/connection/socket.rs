//! The TCP connections of this network namespace's sockets.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use procfs::net::{TcpNetEntry, TcpState};
use sg_common::transport::{TCP, UDP};

use super::Connection;

/// Every established TCP connection with another host. What can't be read is
/// left out: without `/proc` there is none.
#[must_use]
pub fn tcp_connections() -> Vec<Connection> {
    let connections = with_inodes().into_iter();
    connections.map(|(_, connection)| connection).collect()
}

/// Every UDP socket that is connected with another host: it asked something.
pub(super) fn udp_connections() -> Vec<Connection> {
    let tables = [procfs::net::udp(), procfs::net::udp6()];
    let entries = tables.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| between(UDP, entry.local_address, entry.remote_address, true))
        .collect()
}

/// The connection that others opened to a socket with one of these inodes.
pub(super) fn accepted_by(inodes: &HashSet<u64>) -> Option<Connection> {
    let mut connections = with_inodes().into_iter();
    let found = connections
        .find(|(inode, connection)| inodes.contains(inode) && !connection.opened_by_host);
    found.map(|(_, connection)| connection)
}

fn with_inodes() -> Vec<(u64, Connection)> {
    let entries = entries();
    let listening: HashSet<u16> = entries
        .iter()
        .filter(|entry| entry.state == TcpState::Listen)
        .map(|entry| entry.local_address.port())
        .collect();
    let established = entries.iter().filter_map(|entry| {
        // A port that is listened on is one that others open.
        let opened_by_host = !listening.contains(&entry.local_address.port());
        Some((entry.inode, connection(entry, opened_by_host)?))
    });
    established.collect()
}

fn entries() -> Vec<TcpNetEntry> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    tables.into_iter().flatten().flatten().collect()
}

/// `None` if it is not established or stays on this host.
fn connection(entry: &TcpNetEntry, opened_by_host: bool) -> Option<Connection> {
    if entry.state != TcpState::Established {
        return None;
    }
    between(
        TCP,
        entry.local_address,
        entry.remote_address,
        opened_by_host,
    )
}

/// `None` if it stays on this host.
fn between(
    protocol: u8,
    local: SocketAddr,
    remote: SocketAddr,
    opened_by_host: bool,
) -> Option<Connection> {
    let end = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let (local, local_port) = end(local);
    let (remote, remote_port) = end(remote);
    let is_outside = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    is_outside(&remote).then_some(Connection {
        opened_by_host,
        protocol,
        local,
        local_port,
        remote,
        remote_port,
    })
}
