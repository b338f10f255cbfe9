//! Dead rows: what a release leaves out of its segments. One object per publish holds them for every segment that the
//! publish touched; a manifest names a range of such an object for each segment.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::SegmentId;

/// Where a segment's dead rows lie: a range of one object, and the digest of that range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRange {
    /// Key of the object, relative to the collection.
    pub path: String,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the range.
    pub digest: Digest,
}

/// Why a range of dead rows was refused.
#[derive(Debug, thiserror::Error)]
pub enum DeadError {
    /// The object is shorter than the range that the manifest names.
    #[error("dead rows object {path} has {found} bytes, but the manifest names bytes up to {expected}")]
    Short {
        /// Key of the object.
        path: String,
        /// Bytes needed.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// The range's bytes are not those that were written.
    #[error("dead rows in {path} at byte {offset} have digest {found}, but the manifest says {expected}")]
    Digest {
        /// Key of the object.
        path: String,
        /// First byte of the range.
        offset: u64,
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of the bytes.
        found: Digest,
    },
    /// The bytes are no roaring bitmap, although their digest is right.
    #[error("dead rows in {path} at byte {offset} are no roaring bitmap")]
    Bitmap {
        /// Key of the object.
        path: String,
        /// First byte of the range.
        offset: u64,
        /// What the decoder said.
        #[source]
        source: std::io::Error,
    },
}

/// Puts the dead rows of the touched segments into one object; returns its bytes and each segment's range.
pub fn encode(path: &str, dead: &BTreeMap<SegmentId, RoaringBitmap>) -> (Vec<u8>, BTreeMap<SegmentId, DeadRange>) {
    let mut object = Vec::new();
    let mut ranges = BTreeMap::new();
    for (segment, rows) in dead {
        let offset = object.len();
        rows.serialize_into(&mut object)
            .expect("writing to a vector cannot fail");
        let digest = Digest::of(&object[offset..]);
        let bytes = (object.len() - offset) as u64;
        ranges.insert(
            segment.clone(),
            DeadRange {
                path: path.to_owned(),
                offset: offset as u64,
                bytes,
                digest,
            },
        );
    }
    (object, ranges)
}

/// Reads one segment's dead rows out of the whole `object`.
pub fn decode(object: &[u8], range: &DeadRange) -> Result<RoaringBitmap, DeadError> {
    let end = range.offset.saturating_add(range.bytes);
    let Some(bytes) = object.get(range.offset as usize..end as usize) else {
        return Err(DeadError::Short {
            path: range.path.clone(),
            expected: end,
            found: object.len() as u64,
        });
    };
    let found = Digest::of(bytes);
    if found != range.digest {
        let (path, offset, expected) = (range.path.clone(), range.offset, range.digest);
        return Err(DeadError::Digest {
            path,
            offset,
            expected,
            found,
        });
    }
    RoaringBitmap::deserialize_from(bytes).map_err(|source| DeadError::Bitmap {
        path: range.path.clone(),
        offset: range.offset,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_segments() -> BTreeMap<SegmentId, RoaringBitmap> {
        [("a", vec![1u32, 5, 70_000]), ("b", vec![0])]
            .into_iter()
            .map(|(id, rows)| (SegmentId::from(id.to_owned()), rows.into_iter().collect()))
            .collect()
    }

    #[test]
    fn each_segment_finds_its_rows_in_the_shared_object() {
        let dead = two_segments();
        let (object, ranges) = encode("dead/x.roaring", &dead);
        for (segment, rows) in &dead {
            assert_eq!(&decode(&object, &ranges[segment]).expect("whole"), rows);
        }
    }

    #[test]
    fn a_flipped_bit_or_a_missing_byte_is_found() {
        let (object, ranges) = encode("dead/x.roaring", &two_segments());
        for range in ranges.values() {
            for byte in range.offset..range.offset + range.bytes {
                let mut damaged = object.clone();
                damaged[byte as usize] ^= 1;
                assert!(matches!(decode(&damaged, range), Err(DeadError::Digest { .. })));
            }
            assert!(matches!(
                decode(&object[..range.offset as usize], range),
                Err(DeadError::Short { .. })
            ));
        }
    }
}
