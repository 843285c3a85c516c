//! Frames in a row, judged with state: the decision and the oracle agree.

use sg_agent::policy::Direction;
use sg_tests::{generate, on_host::OnHost, oracle::Oracle, programs::EPHEMERAL, random::Random};

/// Two octets choose a policy; what follows is frames, each with an octet for
/// its direction and two for its length.
///
/// # Panics
/// If decision and oracle disagree.
pub fn decision(bytes: &[u8]) {
    let Some((&[high, low], mut rest)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let mut random = Random::new(u16::from_be_bytes([high, low]).into());
    let policy = generate::policy(&mut random);
    let on_host = OnHost::load(&policy, 0).expect("a generated policy has no limit to exceed");
    let mut oracle = Oracle::new(&policy, 0, EPHEMERAL);
    while let Some((direction, frame, after)) = next_frame(rest) {
        rest = after;
        let found = on_host.judge(direction, frame).expect("a known verdict");
        let expected = oracle.judge_frame(direction, frame);
        assert!(
            oracle.accepts(&expected, &found),
            "{direction} {frame:02x?}\noracle:   {expected:?}\ndecision: {found:?}"
        );
    }
}

fn next_frame(bytes: &[u8]) -> Option<(Direction, &[u8], &[u8])> {
    let (&[way, high, low], rest) = bytes.split_first_chunk::<3>()?;
    let direction = if way & 1 == 0 {
        Direction::Inbound
    } else {
        Direction::Outbound
    };
    let len = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (frame, after) = rest.split_at(len);
    Some((direction, frame, after))
}
