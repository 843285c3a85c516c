//! Packets onto a veth, as fast as one CPU can make and take them: frames that
//! XDP redirects, from inside the kernel (`BPF_F_TEST_XDP_LIVE_FRAMES`). The
//! other end of the veth sees them as from a driver.
//!
//! Sender and receiver are one thread: what the stack does with a frame is done
//! before the next batch is sent, on the same CPU.

use std::os::fd::AsFd as _;

use anyhow::Result;
use nix::net::if_::if_nametoindex;

use super::{
    assembly::{Code, Helper, Register},
    bpf::{self, Kind, Program},
    clock,
    packets::{self, Family},
    vary::Sequence,
};
use crate::netns::Netns;

/// Different sources of what is sent: for a stateful filter, as many flows.
const SOURCES: u16 = 4096;

/// Sends from one end of a veth.
pub(super) struct Sender<'n> {
    namespace: &'n Netns,
    program: Program,
    frame: Vec<u8>,
}

/// What sending took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// Time that passed, in nanoseconds.
    pub(super) wall_ns: f64,
    /// Time on a CPU, the receiver's part included, in nanoseconds.
    pub(super) cpu_ns: f64,
}

impl<'n> Sender<'n> {
    /// Sends datagrams to a port of the host on the other end of `interface`.
    pub(super) fn new(namespace: &'n Netns, interface: &str, port: u16) -> Result<Self> {
        let index = namespace.enter(|| Ok(if_nametoindex(interface)?))?;
        let redirect = redirect_to(index)?;
        let family = Family::V4;
        let sources = Sequence::new(&packets::interchangeable(SOURCES))?;
        let [source, _] = family.inbound();
        let (host, peer) = family.ends();
        Ok(Self {
            namespace,
            program: sources.program(Kind::Xdp, &[source], redirect.as_fd())?,
            frame: packets::datagram(peer, host, (packets::CLIENT_PORT, port)),
        })
    }

    /// Sends so many packets.
    pub(super) fn send(&self, packets: u32) -> Result<Spent> {
        self.namespace.enter(|| {
            let _here = clock::Pinned::new()?;
            let start = clock::Moment::now()?;
            bpf::send(self.program.as_fd(), &self.frame, packets)?;
            let (wall_ns, cpu_ns) = start.since()?;
            Ok(Spent { wall_ns, cpu_ns })
        })
    }
}

/// A program that sends every frame out of an interface.
fn redirect_to(interface: u32) -> Result<Program> {
    let mut code = Code::default();
    code.set(Register::R1, interface.cast_signed());
    code.set(Register::R2, 0);
    code.call(Helper::Redirect);
    code.exit();
    Program::load(Kind::Xdp, &code.finish(), Vec::new())
}
