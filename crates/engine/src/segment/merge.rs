//! Merging segments: their live rows, in order, written as one segment. Vectors and states are copied, never made anew.

use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;
use verdigris_core::document::DocumentState;
use verdigris_core::merge::Origin;

use crate::error::EngineError;
use crate::segment::Segment;
use crate::segment::write::{NewRow, SegmentShape, SegmentWriter, WrittenSegment};

/// A segment to be merged, with the rows that were dead when the merge began.
pub struct MergeInput {
    /// The segment.
    pub segment: Arc<Segment>,
    /// Its dead rows.
    pub dead: Arc<RoaringBitmap>,
}

/// A merged segment, and where each of its rows came from: the rows that died meanwhile are found by it.
#[derive(Debug)]
pub struct Merged {
    /// The files.
    pub written: WrittenSegment,
    /// Origin of each row, ghost rows included.
    pub origins: Vec<Origin>,
}

/// Writes the live rows of `inputs` as one segment in `folder`. `proceed` is asked between rows; a false ends the
/// merge with [`EngineError::Cancelled`].
pub fn merge(
    inputs: &[MergeInput],
    folder: &Path,
    shape: SegmentShape<'_>,
    proceed: &dyn Fn() -> bool,
) -> Result<Merged, EngineError> {
    let mut writer = SegmentWriter::new(folder, shape)?;
    let mut origins = Vec::new();
    let vector_rows = |input: &MergeInput| 0..input.segment.rows.vector_rows();
    for_each_live(inputs, &vector_rows, proceed, &mut origins, |input, row| {
        let new = copied_row(input, row)?;
        writer.add(&new, &input.segment.ann.vector(row))
    })?;
    let ghost_rows = |input: &MergeInput| input.segment.rows.vector_rows()..input.segment.rows.rows();
    for_each_live(inputs, &ghost_rows, proceed, &mut origins, |input, row| {
        writer.add_ghost(&copied_row(input, row)?)
    })?;
    Ok(Merged {
        written: writer.finish()?,
        origins,
    })
}

fn for_each_live(
    inputs: &[MergeInput],
    range: &dyn Fn(&MergeInput) -> std::ops::Range<u32>,
    proceed: &dyn Fn() -> bool,
    origins: &mut Vec<Origin>,
    mut write: impl FnMut(&MergeInput, u32) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    for (segment, input) in (0u32..).zip(inputs) {
        for row in range(input).filter(|row| !input.dead.contains(*row)) {
            if !proceed() {
                return Err(EngineError::Cancelled);
            }
            write(input, row)?;
            origins.push(Origin { segment, row });
        }
    }
    Ok(())
}

fn copied_row(input: &MergeInput, row: u32) -> Result<NewRow, EngineError> {
    let stored = input.segment.rows.stored(row)?;
    let state = DocumentState::decode(&stored.state).map_err(|source| EngineError::State {
        segment: input.segment.id().clone(),
        row,
        source,
    })?;
    let generation = stored.generation;
    Ok(NewRow {
        id: stored.id,
        generation,
        document: state.document(),
        state: stored.state,
    })
}
