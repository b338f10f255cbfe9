//! What is wrong with a candidate: its rows, its vectors, or the links of its graph.
//!
//! Deliberately absent: what readers find without measuring, such as a wrong digest; other tests have that.

use std::ops::Range;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use verdigris_engine::release::{Release, RowPlace};
use verdigris_engine::segment::write::NewRow;

/// Of ten documents, this many are lost.
const LOST_OF_TEN: usize = 3;
/// Links lead into so many rows alone; more than an answer looks at, or too few hits would be made up for by an exact
/// search.
const REACHED: i32 = 400;
/// The least number of links that FAISS keeps for a row on the lowest level of its graph.
const LOWEST: usize = 64;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The graph leads astray; vectors and rows are right.
    Graph,
    /// Three documents of ten are missing.
    Documents,
    /// Vectors are another model's of the same dimension.
    Model,
    /// Deleted documents are back.
    Deletes,
}

/// A row to be written; a ghost has no vector.
pub(crate) struct Row {
    pub(crate) row: NewRow,
    pub(crate) vector: Option<Vec<f32>>,
}

/// The rows of the bad candidate.
pub(crate) fn rows(release: &Release, kind: Kind) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut back = Vec::new();
    if kind == Kind::Deletes {
        for place in release.dead_rows() {
            let id = release.id(place)?;
            let is_deleted = release.find(&id).is_none_or(|live| !release.has_vector(live));
            if is_deleted && !back.contains(&id) {
                rows.push(row(release, place, kind)?);
                back.push(id);
            }
        }
        ensure!(!back.is_empty(), "nothing was deleted that could come back");
    }
    for (n, place) in release.live_rows().enumerate() {
        let is_lost = kind == Kind::Documents && n % 10 < LOST_OF_TEN && release.has_vector(place);
        if !is_lost && !back.contains(&release.id(place)?) {
            rows.push(row(release, place, kind)?);
        }
    }
    // Ghosts come after the last row with a vector.
    rows.sort_by_key(|row| row.vector.is_none());
    Ok(rows)
}

fn row(release: &Release, place: RowPlace, kind: Kind) -> anyhow::Result<Row> {
    let (stored, state) = release.state(place)?;
    let mut vector = release.has_vector(place).then(|| release.vector(place));
    if let (Kind::Model, Some(vector)) = (kind, &mut vector) {
        // A model has an order of its own for what it sees.
        vector.reverse();
    }
    let row = NewRow {
        id: stored.id,
        generation: stored.generation,
        state: stored.state,
        document: state.document(),
    };
    Ok(Row { row, vector })
}

/// Bends every fourth link of the lowest level into the first rows: a walk finds as many as it wants there, and none
/// beyond.
pub(crate) fn bend(bytes: &mut [u8], rows: usize) -> anyhow::Result<()> {
    ensure!(
        rows > 2 * REACHED as usize,
        "{rows} rows are too few for a graph that leads astray"
    );
    for range in links(bytes, rows)? {
        for at in range.step_by(4) {
            let link = i32::from_le_bytes(bytes[at..at + 4].try_into()?);
            if link >= 0 {
                bytes[at..at + 4].copy_from_slice(&(link % REACHED).to_le_bytes());
            }
        }
    }
    Ok(())
}

/// Where the links of a graph's rows on the lowest level are in its file. Before all links stands where those of each
/// row begin: a count, and then that many rising numbers; the last one is the count of links.
fn links(bytes: &[u8], rows: usize) -> anyhow::Result<Vec<Range<usize>>> {
    let number = |at: usize| -> usize {
        let bytes = bytes[at..at + 8].try_into().expect("eight bytes");
        u64::from_le_bytes(bytes) as usize
    };
    let begins = (0..bytes.len() - 8 * (rows + 3)).find(|at| {
        let value = |n: usize| number(at + 8 + 8 * n);
        number(*at) == rows + 1 && value(0) == 0 && (1..=rows).all(|n| value(n) >= value(n - 1) + LOWEST)
    });
    let begins = begins.context("no graph in the file")?;
    let begin = |row: usize| number(begins + 8 + 8 * row);
    let links = (begins + 8 * (rows + 2)..bytes.len() - 8).find(|at| number(*at) == begin(rows));
    let links = links.context("no links in the file")? + 8;
    let of_row = |row: usize| links + 4 * begin(row)..links + 4 * (begin(row) + LOWEST);
    Ok((0..rows).map(of_row).collect())
}
