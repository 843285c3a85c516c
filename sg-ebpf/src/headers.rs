//! The parser behind calls of its own, for each kind of frame and each family:
//! like the judges, these functions are verified once, for any offset that the
//! link layer may leave, and not again for each way through it.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use sg_common::{
    address::{V4, V6},
    fragment::Fragment,
    network::{Extent, Headers, Network, Payload},
    packet::Packet,
    verdict::Reason,
};

use crate::frame::{LinearFrame, SkbFrame, SplitFrame, XdpFrame};

/// A frame that may hold packets of a family.
pub(crate) trait Readable<A>: Packet {
    /// As [`Network::read`], of a whole packet.
    fn read(
        &self,
        headers: &mut Headers<A>,
        fragment: &mut Fragment,
        offset: usize,
    ) -> Result<Payload, Reason>;
}

macro_rules! readable {
    ($function:ident, $address:ident, $frame:ty, $program_context:ident, $context:ident) => {
        impl Readable<$address> for $frame {
            #[inline(always)]
            fn read(
                &self,
                headers: &mut Headers<$address>,
                fragment: &mut Fragment,
                offset: usize,
            ) -> Result<Payload, Reason> {
                let context = self.context().as_ptr().cast();
                unpack($function(context, headers, fragment, offset))
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $function(
            context: *mut $context,
            headers: *mut Headers<$address>,
            fragment: *mut Fragment,
            offset: usize,
        ) -> u64 {
            let context = $program_context::new(context);
            pack(read(&<$frame>::new(&context), headers, fragment, offset))
        }
    };
}

readable!(sg_xdp_read_v4, V4, LinearFrame<'_>, XdpContext, xdp_md);
readable!(sg_xdp_read_v6, V6, LinearFrame<'_>, XdpContext, xdp_md);
readable!(sg_split_read_v4, V4, SplitFrame<'_>, XdpContext, xdp_md);
readable!(sg_split_read_v6, V6, SplitFrame<'_>, XdpContext, xdp_md);
readable!(sg_tc_read_v4, V4, SkbFrame<'_>, TcContext, __sk_buff);
readable!(sg_tc_read_v6, V6, SkbFrame<'_>, TcContext, __sk_buff);

impl<'a, A> Readable<A> for XdpFrame<'a>
where
    LinearFrame<'a>: Readable<A>,
    SplitFrame<'a>: Readable<A>,
{
    #[inline(always)]
    fn read(
        &self,
        headers: &mut Headers<A>,
        fragment: &mut Fragment,
        offset: usize,
    ) -> Result<Payload, Reason> {
        if self.is_split() {
            SplitFrame::new(self.context()).read(headers, fragment, offset)
        } else {
            LinearFrame::new(self.context()).read(headers, fragment, offset)
        }
    }
}

/// No IP header begins behind this: the link layer is shorter.
const MAX_OFFSET: usize = 0xff;

/// The verifier knows nothing of the offset but what is compared here.
#[inline(always)]
fn read<A: Network>(
    packet: &impl Packet,
    headers: *mut Headers<A>,
    fragment: *mut Fragment,
    offset: usize,
) -> Result<Payload, Reason> {
    if offset > MAX_OFFSET {
        return Err(Reason::Malformed);
    }
    // SAFETY: the callers above pass references.
    let headers = unsafe { headers.as_mut() }.ok_or(Reason::Internal)?;
    // SAFETY: as above.
    let fragment = unsafe { fragment.as_mut() }.ok_or(Reason::Internal)?;
    A::read(headers, fragment, packet, offset, Extent::Whole)
}

/// Both ends of the payload in one register, or a [`Reason`] with no end: a
/// packet has one.
#[inline(always)]
fn pack(result: Result<Payload, Reason>) -> u64 {
    match result {
        Ok(payload) => (payload.end as u64) << 32 | payload.start as u64,
        Err(reason) => reason as u64,
    }
}

#[inline(always)]
fn unpack(bits: u64) -> Result<Payload, Reason> {
    const MALFORMED: u64 = Reason::Malformed as u64;
    const LOW: u64 = u32::MAX as u64;

    let payload = Payload {
        start: (bits & LOW) as usize,
        end: (bits >> 32) as usize,
    };
    match bits {
        _ if payload.end != 0 => Ok(payload),
        MALFORMED => Err(Reason::Malformed),
        _ => Err(Reason::Internal),
    }
}
