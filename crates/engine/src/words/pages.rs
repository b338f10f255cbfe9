//! A score for each row of a release, in one flat list whose touched pages are known, so that a query that touches few
//! rows clears and reads few. Lists are lent from a pool and come back clean.

use std::sync::Mutex;

/// Rows per page: 1 KiB of scores, and a few thousand marks for a million rows, which stay in the nearest cache.
const PAGE_ROWS: usize = 256;
/// Lists kept for later queries: as many as run at once on a small machine; more are made and dropped.
const POOL_MAX: usize = 16;

static POOL: Mutex<Vec<Pages>> = Mutex::new(Vec::new());

#[derive(Default)]
struct Pages {
    scores: Vec<f32>,
    touched: Vec<u8>,
}

/// Scores of one query; untouched rows have 0.
pub(crate) struct PagedScores(Pages);

impl PagedScores {
    /// Zeros for this many rows.
    pub(crate) fn new(rows: usize) -> Self {
        let mut pages = pool().pop().unwrap_or_default();
        if pages.scores.len() < rows {
            pages.scores.resize(rows, 0.0);
            pages.touched.resize(rows.div_ceil(PAGE_ROWS), 0);
        }
        Self(pages)
    }

    /// Adds to a row's score.
    #[inline]
    pub(crate) fn add(&mut self, row: usize, score: f32) {
        self.0.scores[row] += score;
        self.0.touched[row / PAGE_ROWS] = 1;
    }

    /// A row's score.
    pub(crate) fn get(&self, row: usize) -> f32 {
        self.0.scores.get(row).copied().unwrap_or_default()
    }

    /// Calls `visit` with the first row and the scores of each touched page, in row order.
    pub(crate) fn for_each_page(&self, mut visit: impl FnMut(usize, &[f32])) {
        for (page, _) in self.0.touched.iter().enumerate().filter(|(_, touched)| **touched != 0) {
            let start = page * PAGE_ROWS;
            let end = (start + PAGE_ROWS).min(self.0.scores.len());
            visit(start, &self.0.scores[start..end]);
        }
    }

    /// Takes a row's score out again.
    pub(crate) fn clear(&mut self, row: usize) {
        if self.0.touched[row / PAGE_ROWS] != 0 {
            self.0.scores[row] = 0.0;
        }
    }
}

impl Drop for PagedScores {
    fn drop(&mut self) {
        let mut pages = std::mem::take(&mut self.0);
        for (scores, touched) in pages.scores.chunks_mut(PAGE_ROWS).zip(&mut pages.touched) {
            if std::mem::take(touched) != 0 {
                scores.fill(0.0);
            }
        }
        let mut pool = pool();
        if pool.len() < POOL_MAX {
            pool.push(pages);
        }
    }
}

fn pool() -> std::sync::MutexGuard<'static, Vec<Pages>> {
    POOL.lock().expect("no code panics while it holds this lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_comes_back_from_the_pool_is_clean() {
        for round in 0..POOL_MAX * 2 {
            let mut scores = PagedScores::new(1_000 + round * 100);
            scores.for_each_page(|start, _| panic!("page at {start} is touched in round {round}"));
            (0..1_000).step_by(7).for_each(|row| scores.add(row, 1.0));
            assert_eq!((scores.get(7), scores.get(8)), (1.0, 0.0));
        }
    }

    #[test]
    fn a_row_that_is_cleared_loses_its_score_and_no_other() {
        let mut scores = PagedScores::new(2_000);
        (0..2_000).for_each(|row| scores.add(row, 2.0));
        (300..900).step_by(2).for_each(|row| scores.clear(row));
        for row in 0..2_000 {
            let lost = (300..900).contains(&row) && row % 2 == 0;
            assert_eq!(scores.get(row), if lost { 0.0 } else { 2.0 }, "row {row}");
        }
    }
}
