//! The decision behind a call of its own, for each direction and family.
//!
//! A function with global linkage is verified once, for any argument, and not
//! again for every path that leads to it (`kernel/bpf/verifier.c`,
//! `do_check_subprogs`). It takes a pointer that the verifier knows the size of
//! from BTF, and returns a number.

use sg_common::{
    address::{V4, V6},
    config::Direction,
    decide::{Host, Judge, judge},
    fragment::Fragment,
    network::{Headers, Network, Payload},
    packet::Size,
    verdict::{Reason, Verdict},
};

use crate::{
    fragments::Fragmented as _,
    headers::Readable,
    kernel::Programs,
    related::{Quoted as _, Quoting},
};

/// Packets towards the host.
pub(crate) struct Inbound;
/// Packets from the host.
pub(crate) struct Outbound;

macro_rules! judges {
    ($judge:ident, $address:ident, $function:ident) => {
        impl<P: Readable<$address> + Quoting<$address>> Judge<$address, P> for $judge {
            #[inline(always)]
            fn judge(&self, headers: &Headers<$address>, size: Size) -> Verdict {
                Verdict::from_bits($function(headers, size.packets, size.bytes))
            }

            #[inline(always)]
            fn read(
                &self,
                packet: &P,
                headers: &mut Headers<$address>,
                fragment: &mut Fragment,
                offset: usize,
            ) -> Result<Payload, Reason> {
                packet.read(headers, fragment, offset)
            }

            #[inline(always)]
            fn quoted(
                &self,
                packet: &mut P,
                headers: &mut Headers<$address>,
                payload: Payload,
            ) -> bool {
                packet.quoted(headers, payload)
            }

            #[inline(always)]
            fn has_flow(&self, quoted: &Headers<$address>) -> bool {
                $address::has_flow(Direction::$judge, quoted)
            }

            #[inline(always)]
            fn remember(&self, headers: &Headers<$address>, fragment: &Fragment, verdict: Verdict) {
                $address::remember(Direction::$judge, headers, fragment, verdict);
            }

            #[inline(always)]
            fn follow(&self, headers: &Headers<$address>, fragment: &Fragment) -> Verdict {
                $address::follow(Direction::$judge, headers, fragment)
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $function(
            headers: *const Headers<$address>,
            packets: u32,
            bytes: u32,
        ) -> u64 {
            judge_checked(Direction::$judge, headers, Size { packets, bytes })
        }
    };
}

judges!(Inbound, V4, sg_inbound_v4);
judges!(Inbound, V6, sg_inbound_v6);
judges!(Outbound, V4, sg_outbound_v4);
judges!(Outbound, V6, sg_outbound_v6);

/// A raw pointer, because BTF has no other the verifier would know the size of.
/// It takes it for one that may be null.
#[inline(always)]
fn judge_checked<A: Network>(direction: Direction, headers: *const Headers<A>, size: Size) -> u64
where
    Programs: Host<A>,
{
    // SAFETY: the callers above pass references.
    let verdict = match unsafe { headers.as_ref() } {
        Some(headers) => judge(&Programs, direction, headers, size),
        None => Verdict::drop(Reason::Internal),
    };
    verdict.to_bits()
}
