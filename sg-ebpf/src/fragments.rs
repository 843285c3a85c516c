//! The memory of first fragments, and the two questions to it, each behind a
//! call of its own, so that what they need is not on the stack of the hook.

use aya_ebpf::{
    bindings::bpf_spin_lock,
    helpers::generated::{bpf_spin_lock as lock, bpf_spin_unlock as unlock},
};
use sg_common::{
    address::{V4, V6},
    config::Direction,
    fragment::{Datagram, First, Fragment, WAYS, recall, remember},
    network::{Headers, Network},
    verdict::{Reason, Verdict},
};

use crate::{kernel::Programs, maps};

/// What is remembered in one set.
///
/// The kernel finds the lock by its type's name, and lets nobody else touch it.
/// It stands first, so a pointer to the set is one to the lock.
#[repr(C)]
pub(crate) struct FragmentSet {
    lock: bpf_spin_lock,
    next: u32,
    firsts: [First; WAYS],
}

/// An address family whose fragments are followed.
pub(crate) trait Fragmented: Network {
    /// A first fragment passed.
    fn remember(
        direction: Direction,
        headers: &Headers<Self>,
        fragment: &Fragment,
        verdict: Verdict,
    );
    /// The verdict for a later one.
    fn follow(direction: Direction, headers: &Headers<Self>, fragment: &Fragment) -> Verdict;
}

macro_rules! fragmented {
    ($address:ident, $first:ident, $later:ident) => {
        impl Fragmented for $address {
            #[inline(always)]
            fn remember(
                direction: Direction,
                headers: &Headers<Self>,
                fragment: &Fragment,
                verdict: Verdict,
            ) {
                $first(headers, fragment, direction as u32, verdict.to_bits());
            }

            #[inline(always)]
            fn follow(
                direction: Direction,
                headers: &Headers<Self>,
                fragment: &Fragment,
            ) -> Verdict {
                Verdict::from_bits($later(headers, fragment, direction as u32))
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $first(
            headers: *const Headers<$address>,
            fragment: *const Fragment,
            direction: u32,
            verdict: u64,
        ) -> u64 {
            if let Some((datagram, fragment)) = datagram(headers, fragment, direction) {
                remember_first(datagram, fragment.end, Verdict::from_bits(verdict));
            }
            0
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $later(
            headers: *const Headers<$address>,
            fragment: *const Fragment,
            direction: u32,
        ) -> u64 {
            datagram(headers, fragment, direction)
                .and_then(|(datagram, fragment)| follow_first(&datagram, fragment.start))
                .unwrap_or(Verdict::drop(Reason::Fragment))
                .to_bits()
        }
    };
}

fragmented!(V4, sg_first_v4, sg_later_v4);
fragmented!(V6, sg_first_v6, sg_later_v6);

#[inline(always)]
fn datagram<A: Network>(
    headers: *const Headers<A>,
    fragment: *const Fragment,
    direction: u32,
) -> Option<(Datagram, Fragment)> {
    let direction = Direction::from_bit(direction);
    // SAFETY: the callers above pass references.
    let headers = unsafe { headers.as_ref() }?;
    // SAFETY: as above.
    let fragment = unsafe { fragment.as_ref() }?;
    Some((Datagram::of(direction, headers, fragment), *fragment))
}

#[inline(always)]
fn remember_first(datagram: Datagram, end: u32, verdict: Verdict) {
    let first = First::new(&Programs, datagram, end, verdict);
    let Some(set) = maps::FRAGMENTS.get_ptr_mut(datagram.set(maps::FRAGMENT_SEED.load())) else {
        return;
    };
    // SAFETY: the look-up returned a valid value; nothing is called below
    // before the lock is free again.
    unsafe { lock(set.cast()) };
    // SAFETY: as above, and only the holder of the lock is here.
    let firsts = unsafe { &mut (*set).firsts };
    // SAFETY: as above; another field.
    let next = unsafe { &mut (*set).next };
    remember(firsts, next, &first);
    // SAFETY: it was taken above.
    unsafe { unlock(set.cast()) };
}

#[inline(always)]
fn follow_first(datagram: &Datagram, start: u32) -> Option<Verdict> {
    let set = maps::FRAGMENTS.get_ptr_mut(datagram.set(maps::FRAGMENT_SEED.load()))?;
    // SAFETY: the look-up returned a valid value; nothing is called below
    // before the lock is free again.
    unsafe { lock(set.cast()) };
    // SAFETY: as above, and only the holder of the lock is here.
    let first = recall(unsafe { &(*set).firsts }, datagram);
    // SAFETY: it was taken above.
    unsafe { unlock(set.cast()) };
    Some(first.judge(&Programs, start))
}
