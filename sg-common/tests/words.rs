//! Words of a frame are made of registers, which are wider.

use sg_common::packet::Word;

#[test]
fn a_word_is_the_low_bits_of_a_register() {
    const REGISTER: u64 = 0x0123_4567_89ab_cdef;
    assert_eq!(u16::truncate(REGISTER), 0xcdef);
    assert_eq!(u32::truncate(REGISTER), 0x89ab_cdef);
    assert_eq!(u64::truncate(REGISTER), REGISTER);
}
