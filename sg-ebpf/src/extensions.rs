//! IPv6 extension headers behind calls of their own, for each kind of frame: the
//! verifier looks at one header once, and not for each chain that may lead to it.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, xdp_md},
    programs::{TcContext, XdpContext},
};
use sg_common::network::{self, Chain};

use crate::frame::{LinearFrame, SkbFrame, SplitFrame};

macro_rules! skips {
    ($name:ident, $function:ident, $frame:ident, $program_context:ident, $context:ident) => {
        /// As [`network::skip_extension`].
        #[inline(always)]
        pub(crate) fn $name(frame: &$frame<'_>, chain: Chain, end: usize) -> Option<Chain> {
            let context = frame.context().as_ptr().cast();
            match $function(context, chain.to_bits(), end) {
                0 => None,
                bits => Some(Chain::from_bits(bits)),
            }
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        extern "C" fn $function(context: *mut $context, chain: u64, end: usize) -> u64 {
            let context = $program_context::new(context);
            let frame = $frame::new(&context);
            let next = network::skip_extension(&frame, Chain::from_bits(chain), end);
            next.map_or(0, Chain::to_bits)
        }
    };
}

skips!(
    skip_in_linear,
    sg_xdp_skip_extension,
    LinearFrame,
    XdpContext,
    xdp_md
);
skips!(
    skip_in_split,
    sg_split_skip_extension,
    SplitFrame,
    XdpContext,
    xdp_md
);
skips!(
    skip_in_skb,
    sg_tc_skip_extension,
    SkbFrame,
    TcContext,
    __sk_buff
);
