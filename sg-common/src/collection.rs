//! What the agent asks of the program that collects expired flows.

use bytemuck::{Pod, Zeroable};

use crate::flow::FlowKey;

/// How many entries a program looks at in one run.
pub const MAX_CANDIDATES: usize = 4096;

/// An entry that the agent takes for expired: a [`FlowKey`] of either family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Candidate([u64; 5]);

impl<A> From<&FlowKey<A>> for Candidate
where
    FlowKey<A>: Pod,
{
    fn from(key: &FlowKey<A>) -> Self {
        let mut this = Self::default();
        let bytes = bytemuck::bytes_of_mut(&mut this);
        for (to, from) in bytes.iter_mut().zip(bytemuck::bytes_of(key)) {
            *to = *from;
        }
        this
    }
}

/// The frame that the program is run with. It returns how many it removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Request {
    /// Which table they are in; see [`table_index`](crate::flow::table_index).
    pub table: u32,
    /// How many there are.
    pub candidates: u32,
    /// Always 0: the kernel runs programs with no less than a frame's header.
    pub reserved: [u32; 2],
}
