//! Frames with damage: what a generator of valid frames never sends.

/// Damages a frame in one to four ways. Everything follows from `bits`, which
/// must give other bits at each call; `other` is a frame to splice in.
///
/// The Ethernet header's addresses stay, because nothing reads them, and so
/// does at least `least` bytes.
pub fn mutate(frame: &mut Vec<u8>, other: &[u8], least: usize, bits: &mut impl FnMut() -> u64) {
    let mut below = |bound: usize| usize::try_from(bits() % bound.max(1) as u64).unwrap_or(0);
    for _ in 0..=below(4) {
        if frame.len() <= FIRST {
            return;
        }
        let at = FIRST + below(frame.len() - FIRST);
        match below(9) {
            0..=2 => frame[at] ^= 1 << below(8),
            3 => frame[at] = INTERESTING[below(INTERESTING.len())],
            4 => frame[at] = u8::try_from(below(256)).unwrap_or(0),
            5 => frame.truncate(at.max(least)),
            6 => {
                let run = below(9).min(frame.len() - at);
                let copy = frame[at..at + run].to_vec();
                frame.splice(at..at, copy);
            }
            7 => {
                let end = (at + 1 + below(8)).min(frame.len());
                if frame.len() - (end - at) >= least {
                    frame.drain(at..end);
                }
            }
            _ => {
                let from = at.min(other.len());
                let spliced = [&frame[..at], &other[from..]].concat();
                if spliced.len() >= least {
                    *frame = spliced;
                }
            }
        }
    }
}

/// Where the ethertype is.
const FIRST: usize = 12;

/// Values that lengths, next headers, versions and flags turn on.
const INTERESTING: [u8; 24] = [
    0, 1, 4, 5, 6, 8, 17, 0x2c, 0x33, 0x3a, 0x3c, 0x2b, 0x40, 0x44, 0x45, 0x4f, 0x60, 0x7f, 0x80,
    0x81, 0x84, 0x86, 0xdd, 0xff,
];
