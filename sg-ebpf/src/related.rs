//! ICMP errors, behind calls of their own: like the judges, these functions are
//! verified once. One walks a second packet inside the first, from any offset,
//! and would be verified again for every path that leads there. What it finds
//! is looked up by another, so that not both are on the stack at once.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use sg_common::{
    address::{V4, V6},
    config::Direction,
    decide::Host,
    network::{Headers, Network, Payload},
    packet::Packet,
    related,
};

use crate::{
    frame::{LinearFrame, SkbFrame, SplitFrame, XdpFrame},
    kernel::Programs,
};

/// A frame that may hold ICMP errors of a family.
pub(crate) trait Quoting<A>: Packet {
    /// As [`related::quoted`].
    fn quoted(&mut self, headers: &mut Headers<A>, payload: Payload) -> bool;
}

/// An address family whose flows errors can be about.
pub(crate) trait Quoted: Network {
    /// As [`related::has_flow`].
    fn has_flow(direction: Direction, quoted: &Headers<Self>) -> bool;
}

macro_rules! quoting {
    ($function:ident, $address:ident, $frame:ty, $program_context:ident, $context:ident) => {
        impl Quoting<$address> for $frame {
            #[inline(always)]
            fn quoted(&mut self, headers: &mut Headers<$address>, payload: Payload) -> bool {
                let context = self.context().as_ptr().cast();
                $function(context, headers, payload.start, payload.end) != 0
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $function(
            context: *mut $context,
            headers: *mut Headers<$address>,
            start: usize,
            end: usize,
        ) -> u64 {
            let context = $program_context::new(context);
            replace_by_quoted(&mut <$frame>::new(&context), headers, start, end).into()
        }
    };
}

quoting!(sg_xdp_quoted_v4, V4, LinearFrame<'_>, XdpContext, xdp_md);
quoting!(sg_xdp_quoted_v6, V6, LinearFrame<'_>, XdpContext, xdp_md);
quoting!(sg_split_quoted_v4, V4, SplitFrame<'_>, XdpContext, xdp_md);
quoting!(sg_split_quoted_v6, V6, SplitFrame<'_>, XdpContext, xdp_md);
quoting!(sg_tc_quoted_v4, V4, SkbFrame<'_>, TcContext, __sk_buff);
quoting!(sg_tc_quoted_v6, V6, SkbFrame<'_>, TcContext, __sk_buff);

impl<'a, A> Quoting<A> for XdpFrame<'a>
where
    LinearFrame<'a>: Quoting<A>,
    SplitFrame<'a>: Quoting<A>,
{
    #[inline(always)]
    fn quoted(&mut self, headers: &mut Headers<A>, payload: Payload) -> bool {
        if self.is_split() {
            SplitFrame::new(self.context()).quoted(headers, payload)
        } else {
            LinearFrame::new(self.context()).quoted(headers, payload)
        }
    }
}

/// No ICMP header begins behind this: the longest headers that the parser walks
/// are shorter.
const MAX_START: usize = 0x4fff;

/// The verifier knows nothing of the offsets but what is compared here.
#[inline(always)]
fn replace_by_quoted<A: Network>(
    frame: &mut impl Packet,
    headers: *mut Headers<A>,
    start: usize,
    end: usize,
) -> bool {
    if start > MAX_START {
        return false;
    }
    // SAFETY: the callers above pass references.
    let Some(headers) = (unsafe { headers.as_mut() }) else {
        return false;
    };
    related::quoted(frame, headers, Payload { start, end })
}

macro_rules! quoted {
    ($address:ident, $function:ident) => {
        impl Quoted for $address {
            #[inline(always)]
            fn has_flow(direction: Direction, quoted: &Headers<Self>) -> bool {
                $function(direction as u32, quoted) != 0
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $function(direction: u32, quoted: *const Headers<$address>) -> u64 {
            has_flow_checked(direction, quoted).into()
        }
    };
}

quoted!(V4, sg_has_flow_v4);
quoted!(V6, sg_has_flow_v6);

#[inline(always)]
fn has_flow_checked<A: Network>(direction: u32, quoted: *const Headers<A>) -> bool
where
    Programs: Host<A>,
{
    let direction = Direction::from_bit(direction);
    // SAFETY: the callers above pass references.
    let quoted = unsafe { quoted.as_ref() };
    quoted.is_some_and(|quoted| related::has_flow(&Programs, direction, quoted))
}
