//! One bit a row, as the search loops read it. Absent: compression; files and long-lived sets are roaring bitmaps.

use roaring::RoaringBitmap;

/// A set of rows of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DenseBitmap {
    /// Bit `row % 64` of word `row / 64`; bits from `rows` on are never set.
    words: Vec<u64>,
    rows: u32,
    count: u32,
}

impl DenseBitmap {
    /// No row of `rows`.
    pub fn empty(rows: u32) -> Self {
        Self {
            words: vec![0; rows.div_ceil(64) as usize],
            rows,
            count: 0,
        }
    }

    /// Every row of `rows`.
    pub fn full(rows: u32) -> Self {
        let mut words = vec![u64::MAX; rows.div_ceil(64) as usize];
        if let Some(last) = words.last_mut()
            && !rows.is_multiple_of(64)
        {
            *last = (1 << (rows % 64)) - 1;
        }
        Self {
            words,
            rows,
            count: rows,
        }
    }

    /// The members of a roaring bitmap that are below `rows`; ghost rows, which lie beyond, drop out.
    pub fn from_roaring(members: &RoaringBitmap, rows: u32) -> Self {
        let mut bitmap = Self::empty(rows);
        for row in members.range(..rows) {
            bitmap.words[row as usize / 64] |= 1 << (row % 64);
            bitmap.count += 1;
        }
        bitmap
    }

    /// The same set as a roaring bitmap.
    pub fn to_roaring(&self) -> RoaringBitmap {
        // Rows come in ascending order, so appending cannot be refused.
        RoaringBitmap::from_sorted_iter(self.iter()).expect("rows ascend")
    }

    /// The rows of both sets.
    ///
    /// # Panics
    /// When the sets are over different numbers of rows.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    /// The rows of this set that the other lacks, for example the matching rows that are not dead.
    ///
    /// # Panics
    /// When the sets are over different numbers of rows.
    #[must_use]
    pub fn and_not(&self, other: &Self) -> Self {
        self.combine(other, |a, b| a & !b)
    }

    /// Adds a row.
    ///
    /// # Panics
    /// When the row is not below [`DenseBitmap::rows`].
    pub fn insert(&mut self, row: u32) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        self.count += u32::from(!self.contains(row));
        self.words[row as usize / 64] |= 1 << (row % 64);
    }

    /// Whether the row is in the set.
    pub fn contains(&self, row: u32) -> bool {
        row < self.rows && self.words[row as usize / 64] >> (row % 64) & 1 == 1
    }

    /// Members, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let base = (0u32..).step_by(64);
        self.words
            .iter()
            .zip(base)
            .flat_map(|(word, base)| Bits(*word).map(move |bit| base + bit))
    }

    /// Number of members.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Rows that the set is over, members or not.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    pub(super) fn words(&self) -> &[u64] {
        &self.words
    }

    fn combine(&self, other: &Self, words: impl Fn(u64, u64) -> u64) -> Self {
        assert_eq!(self.rows, other.rows, "sets over different segments");
        let words: Vec<u64> = self
            .words
            .iter()
            .zip(&other.words)
            .map(|(a, b)| words(*a, *b))
            .collect();
        let count = words.iter().map(|word| word.count_ones()).sum();
        Self {
            words,
            rows: self.rows,
            count,
        }
    }
}

/// The set bits of a word, lowest first.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0 - 1;
        Some(bit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn dense(members: &std::collections::BTreeSet<u32>, rows: u32) -> DenseBitmap {
        DenseBitmap::from_roaring(&members.iter().copied().collect(), rows)
    }

    proptest! {
        #[test]
        fn a_dense_bitmap_is_the_set_that_it_was_made_from(
            rows in 0u32..300, a in btree_set(0u32..300, 0..200), b in btree_set(0u32..300, 0..200),
        ) {
            let below = |set: &std::collections::BTreeSet<u32>| -> Vec<u32> { set.range(..rows).copied().collect() };
            let (x, y) = (dense(&a, rows), dense(&b, rows));
            prop_assert_eq!(x.iter().collect::<Vec<_>>(), below(&a));
            prop_assert_eq!(x.to_roaring().iter().collect::<Vec<_>>(), below(&a));
            for (set, expected) in [
                (x.and(&y), a.intersection(&b).copied().collect()),
                (x.and_not(&y), a.difference(&b).copied().collect()),
                (x.and(&DenseBitmap::full(rows)), a.clone()),
                (DenseBitmap::full(rows), (0..rows).collect()),
            ] {
                prop_assert_eq!(set.count() as usize, below(&expected).len());
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), below(&expected));
            }
        }
    }

    #[test]
    fn inserting_twice_counts_once() {
        let mut bitmap = DenseBitmap::empty(65);
        bitmap.insert(64);
        bitmap.insert(64);
        assert_eq!(
            (
                bitmap.count(),
                bitmap.contains(64),
                bitmap.contains(0),
                bitmap.contains(65)
            ),
            (1, true, false, false)
        );
    }
}
