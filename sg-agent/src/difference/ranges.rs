//! Sets of whole numbers, as the ranges they consist of.

/// What a range runs over.
pub(super) trait Key: Copy + Ord {
    /// The next greater one, if there is one.
    fn next(self) -> Option<Self>;
    /// The next smaller one, if there is one.
    fn previous(self) -> Option<Self>;
}

impl Key for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Key for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

/// A set of keys as ascending ranges, first and last, that neither overlap nor
/// touch: every set has one form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ranges<K>(Vec<(K, K)>);

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<K: Key> Ranges<K> {
    /// Everything in any of `ranges`, which may overlap and come in any order.
    pub(super) fn new(mut ranges: Vec<(K, K)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|later, earlier| {
            let joins = earlier.1.next().is_none_or(|next| later.0 <= next);
            if joins {
                earlier.1 = earlier.1.max(later.1);
            }
            joins
        });
        Self(ranges)
    }

    /// Everything in any of `sets`.
    pub(super) fn union<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Self
    where
        K: 'a,
    {
        let ranges = sets.into_iter().flat_map(|set| set.0.iter().copied());
        Self::new(ranges.collect())
    }

    pub(super) fn as_slice(&self) -> &[(K, K)] {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is in both.
    pub(super) fn intersect(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.0.iter().peekable(), other.0.iter().peekable());
        let mut both = Vec::new();
        while let (Some(&&(a_first, a_last)), Some(&&(b_first, b_last))) = (a.peek(), b.peek()) {
            let (first, last) = (a_first.max(b_first), a_last.min(b_last));
            if first <= last {
                both.push((first, last));
            }
            if a_last < b_last {
                a.next();
            } else {
                b.next();
            }
        }
        Self(both)
    }

    /// What is in this one and not in `other`.
    pub(super) fn without(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        let mut holes = other.0.iter().peekable();
        for &(first, last) in &self.0 {
            let mut rest = Some(first);
            while holes.next_if(|(_, end)| *end < first).is_some() {}
            while let (Some(from), Some(&&(hole, hole_end))) = (rest, holes.peek()) {
                if hole > last {
                    break;
                }
                if let Some(end) = hole.previous().filter(|end| from <= *end) {
                    left.push((from, end));
                }
                rest = hole_end.next().filter(|next| *next <= last);
                // A hole that goes on may also cut the next range.
                if hole_end > last {
                    break;
                }
                holes.next();
            }
            left.extend(rest.map(|from| (from, last)));
        }
        Self(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(set: &Ranges<u32>) -> Vec<u32> {
        let ranges = set.as_slice().iter();
        ranges.flat_map(|(first, last)| *first..=*last).collect()
    }

    fn some_ranges() -> impl Strategy<Value = Ranges<u32>> {
        let range = (0u32..60, 0u32..8).prop_map(|(first, more)| (first, first + more));
        prop::collection::vec(range, 0..8).prop_map(Ranges::new)
    }

    #[test]
    fn the_last_key_is_not_overrun() {
        let all = Ranges::new(vec![(0, u128::MAX)]);
        let most = Ranges::new(vec![(0, u128::MAX - 1), (3, 3)]);
        assert_eq!(
            all.without(&most).as_slice(),
            [(u128::MAX, u128::MAX)].as_slice()
        );
        assert!(most.without(&all).is_empty());
        assert_eq!(Ranges::union([&most, &all]), all);
    }

    proptest! {
        #[test]
        fn sets_of_numbers(a in some_ranges(), b in some_ranges()) {
            let (in_a, in_b) = (members(&a), members(&b));
            let only = |keep: &dyn Fn(u32) -> bool| {
                (0..100).filter(|key| keep(*key)).collect::<Vec<u32>>()
            };
            prop_assert_eq!(
                members(&a.intersect(&b)),
                only(&|key| in_a.contains(&key) && in_b.contains(&key))
            );
            prop_assert_eq!(
                members(&a.without(&b)),
                only(&|key| in_a.contains(&key) && !in_b.contains(&key))
            );
            let union = Ranges::union([&a, &b]);
            prop_assert_eq!(
                members(&union),
                only(&|key| in_a.contains(&key) || in_b.contains(&key))
            );
            // One form: nothing touches.
            let pairs = union.as_slice().windows(2);
            prop_assert!(pairs.into_iter().all(|pair| pair[0].1 + 1 < pair[1].0));
        }
    }
}
