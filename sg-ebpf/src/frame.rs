//! Frames in kernel memory: bounds are checked and bytes copied in one place.

use core::{arch::asm, mem::size_of, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use sg_common::{
    network::{self, Chain},
    packet::Packet,
};

use crate::{extensions, trace};

/// Headers begin below this, so that the verifier can bound every offset: the
/// link layer, then the longest chain of extension headers that is walked.
const MAX_OFFSET: u32 = 0x7fff;

/// How much of a frame is made linear when its headers are not: more than the
/// longest chain of headers that anybody sends.
const MAX_LINEAR: u32 = 1024;

/// The memory between two pointers that the verifier knows as packet bounds.
struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    /// The first buffer of a frame at XDP.
    #[inline(always)]
    fn of(ctx: &XdpContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }

    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a frame is shorter than 4 GiB"
    )]
    fn len_bytes(&self) -> u32 {
        (self.end - self.start) as u32
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        let offset = opaque(offset as usize);
        if offset > MAX_OFFSET as usize {
            return None;
        }
        let start = self.start + offset;
        if start + size_of::<[u16; N]>() > self.end {
            return None;
        }
        // SAFETY: the comparison above shows that all N words lie before the
        // packet's end, and headers lie on even offsets.
        Some(unsafe { ptr::read(start as *const [u16; N]) })
    }
}

/// The same number, in a register that the compiler knows nothing of. What is
/// compared is then what is used, and the verifier knows its bounds; otherwise
/// the number may be made twice from its origin, once for each.
#[inline(always)]
fn opaque(number: usize) -> usize {
    let copy;
    // SAFETY: a move from one register to another.
    unsafe { asm!("{0} = {1}", lateout(reg) copy, in(reg) number, options(pure, nomem, nostack)) };
    copy
}

/// A frame at XDP.
///
/// A large one may lie in several buffers, of which only the first is in reach
/// (`xdp.frags`). The link layer always is; behind it the frame is read as a
/// [`LinearFrame`] or a [`SplitFrame`].
pub(crate) struct XdpFrame<'a> {
    ctx: &'a XdpContext,
    linear: Linear,
    len_bytes: u32,
}

impl<'a> XdpFrame<'a> {
    /// The frame of an XDP hook.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self {
            ctx,
            linear: Linear::of(ctx),
            len_bytes: buffers_bytes(ctx),
        }
    }

    /// The hook's context.
    #[inline(always)]
    pub(crate) fn context(&self) -> &'a XdpContext {
        self.ctx
    }

    /// Whether not all of it is in the first buffer.
    #[inline(always)]
    pub(crate) fn is_split(&self) -> bool {
        self.all_bytes() != self.linear.len_bytes()
    }

    #[inline(always)]
    fn all_bytes(&self) -> u32 {
        self.len_bytes
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        self.linear.words(offset)
    }
}

/// The length of a frame in all its buffers.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a frame is shorter than 4 GiB"
)]
fn buffers_bytes(ctx: &XdpContext) -> u32 {
    // SAFETY: an XDP program's context is valid for the whole program.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) as u32 }
}

/// A frame at XDP that lies in one buffer.
pub(crate) struct LinearFrame<'a> {
    ctx: &'a XdpContext,
    linear: Linear,
}

impl<'a> LinearFrame<'a> {
    /// The first buffer of a frame.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self {
            ctx,
            linear: Linear::of(ctx),
        }
    }

    /// The hook's context.
    #[inline(always)]
    pub(crate) fn context(&self) -> &XdpContext {
        self.ctx
    }

    #[inline(always)]
    fn all_bytes(&self) -> u32 {
        self.linear.len_bytes()
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        self.linear.words(offset)
    }
}

/// A frame at XDP in several buffers: it is copied, header by header, wherever
/// one buffer ends and the next begins.
pub(crate) struct SplitFrame<'a> {
    ctx: &'a XdpContext,
}

impl<'a> SplitFrame<'a> {
    /// All buffers of a frame.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }

    /// The hook's context.
    #[inline(always)]
    pub(crate) fn context(&self) -> &XdpContext {
        self.ctx
    }

    #[inline(always)]
    fn all_bytes(&self) -> u32 {
        buffers_bytes(self.ctx)
    }

    #[inline(always)]
    fn copy<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let mut words = [0; N];
        let bytes = u32::try_from(size_of::<[u16; N]>()).ok()?;
        // SAFETY: the context is valid for the whole program, and the kernel
        // writes as many bytes as `words` has.
        let result =
            unsafe { bpf_xdp_load_bytes(self.ctx.ctx, offset, words.as_mut_ptr().cast(), bytes) };
        (result == 0).then_some(words)
    }
}

/// What is the same for all three: no stack has touched them yet.
macro_rules! at_xdp {
    ($frame:ident, $skip_extension:path) => {
        impl Packet for $frame<'_> {
            #[inline(always)]
            fn len_bytes(&self) -> u32 {
                trace::frame_bytes().unwrap_or_else(|| self.all_bytes())
            }

            #[inline(always)]
            fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
                self.copy(offset)
            }

            #[inline(always)]
            fn skip_extension(&self, chain: Chain, end: u32) -> Option<Chain> {
                $skip_extension(self, chain, end)
            }

            #[inline(always)]
            fn extend(&mut self) -> bool {
                false
            }

            #[inline(always)]
            fn packets(&self) -> u32 {
                1
            }

            #[inline(always)]
            fn is_aggregate(&self) -> bool {
                false
            }
        }
    };
}

// The headers behind the link layer are not read here.
at_xdp!(XdpFrame, network::skip_extension);
at_xdp!(LinearFrame, extensions::skip_in_linear);
at_xdp!(SplitFrame, extensions::skip_in_split);

/// A frame at tc. Only its start may be linear.
pub(crate) struct SkbFrame<'a> {
    ctx: &'a TcContext,
    /// Whether its device has no link-layer header.
    is_bare: bool,
    extended: bool,
}

impl<'a> SkbFrame<'a> {
    /// The frame of a tc hook.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext) -> Self {
        Self {
            ctx,
            is_bare: false,
            extended: false,
        }
    }

    /// The packet of a tc hook on a device without link-layer header.
    #[inline(always)]
    pub(crate) fn bare(ctx: &'a TcContext) -> Self {
        Self {
            is_bare: true,
            ..Self::new(ctx)
        }
    }

    /// The hook's context.
    #[inline(always)]
    pub(crate) fn context(&self) -> &TcContext {
        self.ctx
    }

    /// Read anew each time: extending moves the bounds, and bounds that came
    /// two ways would be numbers to the verifier, not packet pointers.
    #[inline(always)]
    fn linear(&self) -> Linear {
        // SAFETY: a tc program's context is valid for the whole program.
        let skb = unsafe { &*self.ctx.skb.skb };
        // SAFETY: a field of a valid reference.
        let start = unsafe { ptr::read_volatile(&raw const skb.data) };
        // SAFETY: as above.
        let end = unsafe { ptr::read_volatile(&raw const skb.data_end) };
        Linear {
            start: start as usize,
            end: end as usize,
        }
    }
}

impl Packet for SkbFrame<'_> {
    #[inline(always)]
    fn len_bytes(&self) -> u32 {
        trace::frame_bytes().unwrap_or(self.ctx.len())
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u16; N]> {
        self.linear().words(offset)
    }

    #[inline(always)]
    fn skip_extension(&self, chain: Chain, end: u32) -> Option<Chain> {
        extensions::skip_in_skb(self, chain, end)
    }

    /// Where there is no header, the device has told the kernel.
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel keeps 16 bits, in network order (`struct sk_buff`)"
    )]
    fn bare_ethertype(&self) -> Option<u16> {
        // SAFETY: a tc program's context is valid for the whole program.
        let protocol_be = unsafe { (*self.ctx.skb.skb).protocol } as u16;
        self.is_bare.then_some(u16::from_be(protocol_be))
    }

    #[inline(always)]
    fn extend(&mut self) -> bool {
        let wanted = self.ctx.len().min(MAX_LINEAR);
        if self.extended || self.ctx.pull_data(wanted).is_err() {
            return false;
        }
        self.extended = true;
        true
    }

    #[inline(always)]
    fn packets(&self) -> u32 {
        // SAFETY: a tc program's context is valid for the whole program.
        let segments = unsafe { (*self.ctx.skb.skb).gso_segs };
        segments.max(1)
    }

    #[inline(always)]
    fn is_aggregate(&self) -> bool {
        // SAFETY: a tc program's context is valid for the whole program.
        unsafe { (*self.ctx.skb.skb).gso_size != 0 }
    }
}
