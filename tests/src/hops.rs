//! What traceroute does: probes that end on the way, and who says so.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{client::Expected, netns::Netns};

/// What comes back for one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// A router on the way says that its time is over.
    Router,
    /// The other end: it answers, or says that nobody is there.
    End,
    /// Nobody.
    Silence,
}

impl Hop {
    fn limit(self) -> Duration {
        let expected = match self {
            Self::Router | Self::End => Expected::Answer,
            Self::Silence => Expected::Silence,
        };
        expected.limit()
    }
}

/// What becomes of a datagram that may go over `hops` links, which should be
/// `expected`.
///
/// # Errors
///
/// If the namespace can't be entered, or something else came back.
pub fn udp(from: &Netns, to: SocketAddr, hops: u8, expected: Hop) -> Result<Hop> {
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
        socket.set_read_timeout(Some(expected.limit()))?;
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

/// What becomes of an echo request that may go over `hops` links, which should
/// be `expected`.
///
/// # Errors
///
/// If ping can't be run.
pub fn icmp(from: &Netns, to: IpAddr, hops: u8, expected: Hop) -> Result<Hop> {
    let (hops, address) = (hops.to_string(), to.to_string());
    let limit = expected.limit().as_secs_f32().to_string();
    let arguments = ["-n", "-c", "1", "-W", &limit, "-t", &hops, &address];
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
