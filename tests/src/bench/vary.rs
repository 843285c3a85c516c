//! A program that changes the packet and then jumps to the program under test,
//! so that each of a million runs in the kernel sees another packet.
//!
//! What it costs itself is measured with a jump to the empty program, and
//! taken off.

use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Result, ensure};

use super::{
    assembly::{Code, Helper, Register, Width},
    bpf::{self, Kind, Map, Program},
    packets::{Peer, element},
};

/// Bytes of the packet that are replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patch {
    /// Where they begin in an element of a sequence.
    pub(super) from: i16,
    /// Where they begin in the frame.
    pub(super) to: i16,
    /// How many.
    pub(super) len: i16,
}

/// What packets are made of, one element after the other, over and over.
///
/// It is read from front to back, so that the processor has the next element
/// ready: what is random is the packets, not the read.
pub(super) struct Sequence {
    elements: Map,
    next: Map,
    mask: i32,
}

impl Sequence {
    /// A sequence of peers, a power of two of them.
    pub(super) fn new(peers: &[Peer]) -> Result<Self> {
        ensure!(
            peers.len().is_power_of_two(),
            "a sequence of {} elements does not repeat evenly",
            peers.len()
        );
        let elements: Vec<_> = peers.iter().copied().map(element).collect();
        Ok(Self {
            elements: Map::array(&elements)?,
            next: Map::array(&[[0; 8]])?,
            mask: i32::try_from(elements.len() - 1)?,
        })
    }

    /// A program that writes the next element into each packet and goes on in
    /// `then`.
    pub(super) fn program(
        &self,
        kind: Kind,
        patches: &[Patch],
        then: BorrowedFd<'_>,
    ) -> Result<Program> {
        const INDEX: i16 = -4;
        let then = Map::jump_to(then)?;
        let mut code = Code::with_packet(kind, reach(patches));
        code.store_value(Width::Word, (Register::Stack, INDEX), 0);
        code.look_up(&self.next, INDEX);
        code.load(Width::Double, Register::R1, (Register::R0, 0));
        code.copy(Register::R2, Register::R1);
        code.add(Register::R2, 1);
        code.store(Width::Double, (Register::R0, 0), Register::R2);
        code.mask(Register::R1, self.mask);
        code.store(Width::Word, (Register::Stack, INDEX), Register::R1);
        code.look_up(&self.elements, INDEX);
        for patch in patches {
            let (to, from) = ((Register::R7, patch.to), (Register::R0, patch.from));
            code.move_bytes(to, from, patch.len);
        }
        code.jump(&then);
        Program::load(kind, &code.finish(), vec![then])
    }
}

/// A program that writes `len` random bytes into each packet and goes on in
/// `then`.
fn anywhere(kind: Kind, to: i16, len: i16, then: BorrowedFd<'_>) -> Result<Program> {
    let then = Map::jump_to(then)?;
    let mut code = Code::with_packet(kind, to + len);
    for at in (to..to + len).step_by(4) {
        code.call(Helper::Random);
        code.store(Width::Word, (Register::R7, at), Register::R0);
    }
    code.jump(&then);
    Program::load(kind, &code.finish(), vec![then])
}

/// A program that does nothing but return `action`: the floor under every
/// figure.
pub(super) fn empty(kind: Kind, action: u32) -> Result<Program> {
    let mut code = Code::default();
    code.exit_with(action.cast_signed());
    Program::load(kind, &code.finish(), Vec::new())
}

/// A program under test that sees changing packets.
pub(super) struct Varied {
    program: Program,
    /// The same change of packets, then the empty program.
    bare: Program,
    empty: Program,
}

impl Varied {
    /// Packets from a sequence.
    pub(super) fn in_sequence(
        kind: Kind,
        sequence: &Sequence,
        patches: &[Patch],
        program: BorrowedFd<'_>,
    ) -> Result<Self> {
        Self::new(kind, program, |then| sequence.program(kind, patches, then))
    }

    /// Packets with `len` random bytes.
    pub(super) fn anywhere(kind: Kind, to: i16, len: i16, program: BorrowedFd<'_>) -> Result<Self> {
        Self::new(kind, program, |then| anywhere(kind, to, len, then))
    }

    fn new(
        kind: Kind,
        program: BorrowedFd<'_>,
        varying: impl Fn(BorrowedFd<'_>) -> Result<Program>,
    ) -> Result<Self> {
        const DONE: u32 = 1;
        let empty = empty(kind, DONE)?;
        Ok(Self {
            program: varying(program)?,
            bare: varying(empty.as_fd())?,
            empty,
        })
    }

    /// Makes sure that the next packets all meet the same verdict.
    pub(super) fn prove(&self, frame: &[u8], expected: u32) -> Result<()> {
        const PACKETS: usize = 100;
        for _ in 0..PACKETS {
            bpf::prove(self.program.as_fd(), frame, expected)?;
        }
        Ok(())
    }

    /// What the program takes for a packet, in nanoseconds, without what it
    /// takes to change the packet.
    pub(super) fn mean_ns(&self, frame: &[u8], repeat: u32) -> Result<f64> {
        let time = |program: &Program| bpf::mean_ns(program.as_fd(), frame, repeat);
        let own = self.own_ns(frame, repeat)?;
        Ok(time(&self.program)? - own)
    }

    /// What it takes to change the packet, in nanoseconds.
    pub(super) fn own_ns(&self, frame: &[u8], repeat: u32) -> Result<f64> {
        let time = |program: &Program| bpf::mean_ns(program.as_fd(), frame, repeat);
        Ok(time(&self.bare)? - time(&self.empty)?)
    }
}

/// How much of the frame the patches touch.
fn reach(patches: &[Patch]) -> i16 {
    let ends = patches.iter().map(|patch| patch.to + patch.len);
    ends.max().unwrap_or(0)
}
