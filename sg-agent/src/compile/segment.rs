//! A stretch of keys that are all in one class.

/// From `first` to the next segment's. Keys have 128 bits; shorter ones are the
/// upper bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<C> {
    pub(super) first: u128,
    pub(super) class: C,
}

impl<C: Copy + Eq> Segment<C> {
    /// Of segments with the same first key the last counts; neighbours of the
    /// same class become one.
    pub(super) fn merge(segments: &mut Vec<Self>) {
        segments.dedup_by(|later, earlier| {
            let replaces = later.first == earlier.first;
            if replaces {
                earlier.class = later.class;
            }
            replaces
        });
        segments.dedup_by(|later, earlier| later.class == earlier.class);
    }

    /// The segments that have keys in `first..=last`; the first may begin
    /// before.
    pub(super) fn within(segments: &[Self], first: u128, last: u128) -> &[Self] {
        let start = segments.partition_point(|segment| segment.first <= first);
        let end = segments.partition_point(|segment| segment.first <= last);
        &segments[start.saturating_sub(1)..end]
    }
}
