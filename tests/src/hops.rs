//! What traceroute does: probes that end on the way, and who says so.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{client::PATIENCE, netns::Netns};

/// What came back for one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// A router on the way says that its time is over.
    Router,
    /// The other end: it answers, or says that nobody is there.
    End,
    /// Nobody.
    Silence,
}

/// A datagram that may go over `hops` links.
///
/// # Errors
///
/// If the namespace can't be entered, or something else came back.
pub fn udp(from: &Netns, to: SocketAddr, hops: u8) -> Result<Hop> {
    from.enter(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        match to.ip() {
            IpAddr::V4(_) => {
                socket.set_ttl(hops.into())?;
                setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            }
            IpAddr::V6(_) => {
                setsockopt(&socket, sockopt::Ipv6Ttl, &hops.into())?;
                setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            }
        }
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"probe")?;
        match socket.recv(&mut [0; 64]) {
            Ok(_) => Ok(Hop::End),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Ok(Hop::Silence),
                ErrorKind::ConnectionRefused => Ok(Hop::End),
                ErrorKind::HostUnreachable => Ok(Hop::Router),
                _ => Err(error).context("an answer that is none of a traceroute"),
            },
        }
    })
}

/// An echo request that may go over `hops` links.
///
/// # Errors
///
/// If ping can't be run.
pub fn icmp(from: &Netns, to: IpAddr, hops: u8) -> Result<Hop> {
    let (hops, address) = (hops.to_string(), to.to_string());
    let patience = PATIENCE.max(Duration::from_secs(1)).as_secs().to_string();
    let arguments = ["-n", "-c", "1", "-W", &patience, "-t", &hops, &address];
    let output = from.output("ping", &arguments)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(if output.status.success() {
        Hop::End
    } else if said.contains("exceeded") {
        Hop::Router
    } else {
        Hop::Silence
    })
}
