//! Frames in kernel memory: bounds are checked and bytes copied in one place.

use core::{arch::asm, array, hint, mem::size_of, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::{TcContext, XdpContext},
};
use sg_common::{
    network::{self, Chain},
    packet::{Packet, Word},
};

use crate::{extensions, trace, verifier::opaque};

/// Headers begin below this, so that the verifier can bound every offset: the
/// link layer, then the longest chain of extension headers that is walked.
const MAX_OFFSET: usize = 0x7fff;

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
    fn len_bytes(&self) -> usize {
        self.end - self.start
    }

    #[inline(always)]
    fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        let offset = opaque(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.start + offset;
        if start + size_of::<[W; N]>() > self.end {
            return None;
        }
        Some(array::from_fn(|index| {
            // SAFETY: the comparison above shows that all N words lie before
            // the packet's end.
            unsafe { word(start, index) }
        }))
    }
}

/// The word at an address and so many words.
///
/// # Safety
/// It is there.
#[inline(always)]
unsafe fn word<W: Word>(start: usize, index: usize) -> W {
    match index {
        // SAFETY: the caller's promise, as for all of them.
        0 => unsafe { load::<W, 0>(start) },
        // SAFETY: as above.
        1 => unsafe { load::<W, 1>(start) },
        // SAFETY: as above.
        2 => unsafe { load::<W, 2>(start) },
        // SAFETY: as above.
        3 => unsafe { load::<W, 3>(start) },
        // SAFETY: as above.
        4 => unsafe { load::<W, 4>(start) },
        _ => unreachable!("no header is read in more than five words"),
    }
}

/// One load, whatever the alignment. For a plain read the compiler would have
/// to know one, and what it knows of a packet is two bytes.
///
/// # Safety
/// The word is there.
#[inline(always)]
unsafe fn load<W: Word, const INDEX: usize>(start: usize) -> W {
    let bits: u64;
    match size_of::<W>() {
        // SAFETY: the caller's promise, as for all of them.
        2 => unsafe {
            asm!("{0} = *(u16 *)({1} + {2})", out(reg) bits, in(reg) start, const INDEX * 2,
                options(pure, readonly, nostack));
        },
        // SAFETY: as above.
        4 => unsafe {
            asm!("{0} = *(u32 *)({1} + {2})", out(reg) bits, in(reg) start, const INDEX * 4,
                options(pure, readonly, nostack));
        },
        // SAFETY: as above.
        _ => unsafe {
            asm!("{0} = *(u64 *)({1} + {2})", out(reg) bits, in(reg) start, const INDEX * 8,
                options(pure, readonly, nostack));
        },
    }
    // SAFETY: the other bits are zero after a load.
    unsafe { hint::assert_unchecked(bits <= u64::MAX >> (64 - 8 * size_of::<W>())) };
    W::truncate(bits)
}

/// A frame at XDP.
///
/// A large one may lie in several buffers, of which only the first is in reach
/// (`xdp.frags`). The link layer always is; behind it the frame is read as a
/// [`LinearFrame`] or a [`SplitFrame`].
pub(crate) struct XdpFrame<'a> {
    ctx: &'a XdpContext,
    linear: Linear,
    /// In all buffers.
    all_bytes: usize,
}

impl<'a> XdpFrame<'a> {
    /// The frame of an XDP hook.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self {
            ctx,
            linear: Linear::of(ctx),
            all_bytes: buffers_bytes(ctx),
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
        self.all_bytes != self.linear.len_bytes()
    }

    /// What is counted: nobody counts what a traced program is only told.
    #[inline(always)]
    fn told_bytes(&self) -> usize {
        self.all_bytes
    }

    #[inline(always)]
    fn copy<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        self.linear.words(offset)
    }
}

/// The length of a frame in all its buffers.
#[inline(always)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "a frame is shorter than 4 GiB"
)]
fn buffers_bytes(ctx: &XdpContext) -> usize {
    // SAFETY: an XDP program's context is valid for the whole program.
    unsafe { bpf_xdp_get_buff_len(ctx.ctx) as usize }
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
    fn told_bytes(&self) -> usize {
        trace::frame_bytes().unwrap_or(self.linear.len_bytes())
    }

    #[inline(always)]
    fn copy<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
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
    fn told_bytes(&self) -> usize {
        trace::frame_bytes().unwrap_or_else(|| buffers_bytes(self.ctx))
    }

    #[inline(always)]
    fn copy<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let mut words = [W::zeroed(); N];
        let bytes = u32::try_from(size_of::<[W; N]>()).ok()?;
        let offset = u32::try_from(offset).ok()?;
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
            fn len_bytes(&self) -> usize {
                self.told_bytes()
            }

            #[inline(always)]
            fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
                self.copy(offset)
            }

            #[inline(always)]
            fn skip_extension(&self, chain: Chain, end: usize) -> Option<Chain> {
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
    fn len_bytes(&self) -> usize {
        trace::frame_bytes().unwrap_or(self.ctx.len() as usize)
    }

    #[inline(always)]
    fn words<W: Word, const N: usize>(&self, offset: usize) -> Option<[W; N]> {
        self.linear().words(offset)
    }

    #[inline(always)]
    fn skip_extension(&self, chain: Chain, end: usize) -> Option<Chain> {
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
