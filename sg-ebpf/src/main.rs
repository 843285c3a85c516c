//! The eBPF programs: entry points and nothing else. A hook's builds its view of
//! the frame, decides, and leaves through the one exit.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the hook macros make public items around the documented ones, and pass by value"
)]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod atomic;
mod classify;
mod collect;
mod conntrack;
mod exit;
mod extensions;
mod fragments;
mod frame;
mod headers;
mod judge;
mod kernel;
mod maps;
mod related;
mod sweep;
mod tally;
mod trace;
mod verifier;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use sg_common::{
    address::{V4, V6},
    config::{Direction, flag},
    decide::{Judge, decide},
};

use crate::{
    exit::{Fate, exit},
    frame::{SkbFrame, XdpFrame},
    judge::{Inbound, Outbound},
};

// The macros wrap each hook in an entry point of its own. Inlined into it, the
// context's packet pointers stay what the verifier knows them to be.

/// Inbound at XDP.
#[xdp(frags)]
#[inline(always)]
pub fn sg_xdp(ctx: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&ctx);
    let verdict = decide(&mut frame, drops_non_ip(), &Inbound);
    match exit(&ctx, &frame, Direction::Inbound, verdict) {
        Fate::Pass => xdp_action::XDP_PASS,
        Fate::Drop => xdp_action::XDP_DROP,
    }
}

/// Inbound at tc ingress, where XDP can't be.
#[classifier]
#[inline(always)]
pub fn sg_tc_ingress(ctx: TcContext) -> i32 {
    filter_skb(&ctx, SkbFrame::new(&ctx), Direction::Inbound, &Inbound)
}

/// Outbound at tc egress.
#[classifier]
#[inline(always)]
pub fn sg_tc_egress(ctx: TcContext) -> i32 {
    filter_skb(&ctx, SkbFrame::new(&ctx), Direction::Outbound, &Outbound)
}

/// Inbound at tc ingress of a device without link-layer header.
#[classifier]
#[inline(always)]
pub fn sg_bare_ingress(ctx: TcContext) -> i32 {
    filter_skb(&ctx, SkbFrame::bare(&ctx), Direction::Inbound, &Inbound)
}

/// Outbound at tc egress of a device without link-layer header.
#[classifier]
#[inline(always)]
pub fn sg_bare_egress(ctx: TcContext) -> i32 {
    filter_skb(&ctx, SkbFrame::bare(&ctx), Direction::Outbound, &Outbound)
}

/// Attached to nothing: the agent runs it to have expired flows removed.
#[classifier]
#[inline(always)]
pub fn sg_collect(ctx: TcContext) -> i32 {
    collect::collect(&ctx).cast_signed()
}

#[inline(always)]
fn filter_skb<'a, J>(
    ctx: &'a TcContext,
    mut frame: SkbFrame<'a>,
    direction: Direction,
    judge: &J,
) -> i32
where
    J: Judge<V4, SkbFrame<'a>> + Judge<V6, SkbFrame<'a>>,
{
    let verdict = decide(&mut frame, drops_non_ip(), judge);
    match exit(ctx, &frame, direction, verdict) {
        // Not `TC_ACT_OK`: other programs on the interface have their say too.
        Fate::Pass => TC_ACT_UNSPEC,
        Fate::Drop => TC_ACT_SHOT,
    }
}

#[inline(always)]
fn drops_non_ip() -> bool {
    maps::FLAGS.load() & flag::DROP_NON_IP != 0
}

/// The verifier rejects any program that can get here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
