//! The sizes and offsets that both sides rely on, checked at compile time.
#![expect(
    unsafe_code,
    reason = "bytemuck cannot derive `Pod` for a generic struct"
)]

use core::mem::{offset_of, size_of};

use bytemuck::{Pod, Zeroable};

use crate::{
    address::{V4, V6},
    classify::Cell,
    collection::{Candidate, Request},
    counter::{RuleCounter, Tally},
    flow::{Flow, FlowCount, FlowKey, FlowTally},
    fragment::{Datagram, First, Fragment},
    network::Headers,
    tables::{Header, Skip},
    trace::Trace,
    transport::Transport,
};

// SAFETY: all fields are zeroable.
unsafe impl<A: Zeroable> Zeroable for FlowKey<A> {}
// SAFETY: repr(C), all fields Pod, and no padding by the assertion below.
unsafe impl Pod for FlowKey<V4> {}
// SAFETY: repr(C), all fields Pod, and no padding by the assertion below.
unsafe impl Pod for FlowKey<V6> {}

const fn fields_of_key(address_bytes: usize) -> usize {
    2 * address_bytes + 3 * size_of::<u16>() + 2 * size_of::<u8>()
}

// The verifier does not object to uninitialised padding in a key, and a map
// would hold one flow twice: the size must be the sum of the fields.
const _: () = assert!(size_of::<FlowKey<V4>>() == fields_of_key(4));
const _: () = assert!(size_of::<FlowKey<V6>>() == fields_of_key(16));
const _: () = assert!(size_of::<FlowKey<V4>>() == 16 && size_of::<FlowKey<V6>>() == 40);
const _: () = assert!(offset_of!(FlowKey<V4>, protocol) == 14);
const _: () = assert!(offset_of!(FlowKey<V6>, protocol) == 38);

const _: () = assert!(size_of::<Flow>() == 80 && offset_of!(Flow, state) == 8);
// What each packet writes comes first. An IPv4 flow's value begins with a cache
// line (`struct htab_elem` is 48 bytes, then comes the key).
const _: () = assert!(offset_of!(Flow, opener) == 24 && offset_of!(Flow, sent) == 40);
const _: () = assert!(offset_of!(Flow, received) == 56 && offset_of!(Flow, opened_ns) == 72);
const _: () = assert!(size_of::<FlowTally>() == 40 && size_of::<FlowCount>() == 24);
// Passed by reference to a function that the verifier looks at for itself: it
// must not have bytes that nobody writes.
const _: () = assert!(size_of::<Transport>() == 24);
const _: () = assert!(size_of::<Headers<V4>>() == 32 && size_of::<Headers<V6>>() == 56);
const _: () = assert!(size_of::<Fragment>() == 16);
const _: () = assert!(size_of::<Datagram>() == 40 && size_of::<First>() == 64);
const _: () = assert!(size_of::<RuleCounter>() == 48 && size_of::<Tally>() == 16);
const _: () = assert!(size_of::<Candidate>() == size_of::<FlowKey<V6>>());
const _: () = assert!(size_of::<Request>() == 16);
const _: () = assert!(size_of::<Trace>() == 24 && offset_of!(Trace, verdict) == 8);
const _: () = assert!(size_of::<Header>() == 4 * Header::WORDS && size_of::<Cell>() == 8);
const _: () = assert!(size_of::<Skip>() == 4 * Skip::WORDS);
