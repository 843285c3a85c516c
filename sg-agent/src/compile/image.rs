//! The words of an attachment's tables, as they are written into the kernel.

use bytemuck::{cast, cast_slice};
use sg_common::{
    classify::Cell,
    tables::{ALIGNMENT, Bucket, Header, MIN_BYTES},
};

use super::CompileError;

/// The most words the tables of an attachment may have: 512 MiB, which is as
/// far as the verifier lets an index reach (`BPF_MAX_VAR_OFF`).
const MAX_WORDS: usize = (1 << 27) - 1;

/// The least room behind the tables for what is appended to them in place.
const MIN_ROOM: usize = MIN_BYTES / size_of::<u32>();

/// Words, of which the first are the header, or such that go behind others.
pub(super) struct Image {
    /// How many words lie before these.
    base: usize,
    words: Vec<u32>,
}

impl Image {
    pub(super) fn new() -> Self {
        Self {
            base: 0,
            words: vec![0; Header::WORDS],
        }
    }

    /// What is appended to tables that have `base` words in use.
    pub(super) fn behind(base: usize) -> Self {
        Self {
            base,
            words: Vec::new(),
        }
    }

    /// Appends a node and returns its offset in bytes.
    pub(super) fn node(&mut self, words: &[u32]) -> u32 {
        self.aligned(words, ALIGNMENT)
    }

    /// As [`Image::node`], of buckets, each of which is to be one cache line.
    pub(super) fn buckets(&mut self, words: &[u32]) -> u32 {
        self.aligned(words, Bucket::WORDS)
    }

    fn aligned(&mut self, words: &[u32], alignment: usize) -> u32 {
        let index = self.end().next_multiple_of(alignment);
        self.words.resize(index - self.base, 0);
        self.words.extend_from_slice(words);
        // Beyond `MAX_WORDS` the image is refused whole.
        u32::try_from(index * size_of::<u32>()).unwrap_or(0)
    }

    /// Where the next node can begin.
    pub(super) fn end(&self) -> usize {
        self.base + self.words.len()
    }

    /// The words.
    pub(super) fn into_words(self) -> Vec<u32> {
        self.words
    }

    /// One of the words, if it is one of these.
    pub(super) fn word_mut(&mut self, index: usize) -> Option<&mut u32> {
        self.words.get_mut(index.checked_sub(self.base)?)
    }

    /// Appends cells and returns the offset of the first.
    pub(super) fn cells(&mut self, cells: &[Cell]) -> u32 {
        self.node(cast_slice(cells))
    }

    /// All words, with `header` in front and room behind.
    pub(super) fn finish(mut self, mut header: Header) -> Result<Vec<u32>, CompileError> {
        let used = self.words.len();
        if used > MAX_WORDS {
            return Err(CompileError::TooManyWords {
                found: used,
                limit: MAX_WORDS,
            });
        }
        header.used = u32::try_from(used).unwrap_or(u32::MAX);
        let words: [u32; Header::WORDS] = cast(header);
        self.words[..Header::WORDS].copy_from_slice(&words);
        let room = (used / 8).max(MIN_ROOM);
        self.words.resize((used + room).min(MAX_WORDS), 0);
        Ok(self.words)
    }
}
