//! The one way out: every verdict is counted here, and nowhere else.

use aya_ebpf::{EbpfContext, helpers::generated::bpf_jiffies64};
use aya_log_ebpf::info;
use sg_common::{
    config::{Direction, flag},
    counter::tally,
    packet::Packet,
    verdict::{Account, Verdict, VerdictRecord},
};

use crate::{maps, trace};

/// What the hook must do.
#[must_use]
pub(crate) enum Fate {
    /// Let it go on.
    Pass,
    /// Drop it.
    Drop,
}

/// Counts a verdict and turns it into what the hook must do.
#[inline(always)]
pub(crate) fn exit<C: EbpfContext>(
    ctx: &C,
    frame: &impl Packet,
    direction: Direction,
    verdict: Verdict,
) -> Fate {
    let flags = maps::FLAGS.load();
    let audit = flags & flag::AUDIT != 0;
    count(frame, direction, audit, verdict);
    trace::tell(flags, verdict);
    if flags & flag::LOG != 0 {
        let record = VerdictRecord::from(verdict);
        info!(
            ctx,
            "direction={} passes={} reason={} flow={} slot={}",
            direction as u8,
            record.passes,
            record.reason,
            record.flow,
            record.slot
        );
    }
    // Apart, because the verifier knows the mode and removes one of them.
    if audit {
        return Fate::Pass;
    }
    if verdict.passes() {
        Fate::Pass
    } else {
        Fate::Drop
    }
}

#[inline(always)]
fn count(frame: &impl Packet, direction: Direction, audit: bool, verdict: Verdict) {
    match verdict.account() {
        Account::Rule => count_rule(frame, verdict.counter(), false),
        Account::NewFlow => count_rule(frame, verdict.counter(), true),
        Account::Reply => count_reply(frame, verdict.counter()),
        Account::Cause => {
            let let_through = audit && !verdict.passes();
            count_tally(frame, tally(direction, let_through, verdict.counter()));
        }
    }
}

// Per-CPU values, and a hook runs with softirqs off: nothing else on this CPU
// writes them in between, so plain additions lose no packet.

#[inline(always)]
fn count_rule(frame: &impl Packet, slot: u32, opens_flow: bool) {
    let Some(counter) = maps::RULE_COUNTERS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: the look-up returned a valid value of this CPU.
    let counter = unsafe { &mut *counter };
    counter.packets += u64::from(frame.packets());
    counter.bytes += frame.len_bytes() as u64;
    counter.flows += u64::from(opens_flow);
    // SAFETY: the helper takes nothing and touches no memory of ours.
    counter.last_hit_tick = unsafe { bpf_jiffies64() };
}

#[inline(always)]
fn count_reply(frame: &impl Packet, slot: u32) {
    let Some(counter) = maps::RULE_COUNTERS.get_ptr_mut(slot) else {
        return;
    };
    // SAFETY: the look-up returned a valid value of this CPU.
    let counter = unsafe { &mut *counter };
    counter.reply_packets += u64::from(frame.packets());
    counter.reply_bytes += frame.len_bytes() as u64;
    // SAFETY: the helper takes nothing and touches no memory of ours.
    counter.last_hit_tick = unsafe { bpf_jiffies64() };
}

#[inline(always)]
fn count_tally(frame: &impl Packet, index: u32) {
    let Some(tally) = maps::TALLIES.get_ptr_mut(index) else {
        return;
    };
    // SAFETY: the look-up returned a valid value of this CPU.
    let tally = unsafe { &mut *tally };
    tally.packets += u64::from(frame.packets());
    tally.bytes += frame.len_bytes() as u64;
}
