//! The file `ids` of `rows.tar`: the document id of each row, found by two reads, whatever else the row holds.
//!
//! Tantivy's column of ids is a dictionary in blocks: getting from a row to its id takes a walk through half a block,
//! which cost ten hits as much as finding them. First come the ends of the ids, four bytes a row, little-endian, counted
//! from the first id; then the ids, one behind the other. Absent: from id to row, which the dictionary answers.

use std::io;

use tantivy::directory::OwnedBytes;

const END_BYTES: usize = size_of::<u32>();

/// Collects the ids of a segment, row after row.
#[derive(Default)]
pub(crate) struct IdsWriter {
    ends: Vec<u8>,
    text: Vec<u8>,
}

impl IdsWriter {
    /// The next row's id. False when there is no room: ids of one segment have less than 4 GiB.
    #[must_use]
    pub(crate) fn push(&mut self, id: &str) -> bool {
        self.text.extend_from_slice(id.as_bytes());
        match u32::try_from(self.text.len()) {
            Ok(end) => {
                self.ends.extend_from_slice(&end.to_le_bytes());
                true
            }
            Err(_) => false,
        }
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.ends.append(&mut self.text);
        self.ends
    }
}

/// The ids of a segment, in place.
pub(crate) struct Ids {
    ends: OwnedBytes,
    text: OwnedBytes,
}

impl Ids {
    /// Refuses what does not hold this many ids.
    pub(crate) fn open(bytes: OwnedBytes, rows: u32) -> io::Result<Self> {
        let ends = rows as usize * END_BYTES;
        if bytes.len() < ends {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (ends, text) = bytes.split(ends);
        let ids = Self { ends, text };
        match rows.checked_sub(1).map_or(0, |last| ids.end(last)) == ids.text.len() {
            true => Ok(ids),
            false => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// The id of a row, which exists.
    pub(crate) fn get(&self, row: u32) -> io::Result<&str> {
        let start = row.checked_sub(1).map_or(0, |before| self.end(before));
        let id = self.text.get(start..self.end(row)).ok_or(io::ErrorKind::InvalidData)?;
        std::str::from_utf8(id).map_err(io::Error::other)
    }

    fn end(&self, row: u32) -> usize {
        let at = row as usize * END_BYTES;
        let end: [u8; END_BYTES] = self.ends[at..at + END_BYTES].try_into().expect("four bytes");
        u32::from_le_bytes(end) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ids: &[&str]) -> Vec<u8> {
        let mut writer = IdsWriter::default();
        assert!(ids.iter().all(|id| writer.push(id)));
        writer.finish()
    }

    #[test]
    fn ids_of_any_length_and_letters_are_read_back_by_row() {
        let ids = ["A-1", "", "Bohrmaschine größer/🔩", "A-1"];
        let opened = Ids::open(OwnedBytes::new(written(&ids)), 4).unwrap();
        for (row, id) in (0..).zip(ids) {
            assert_eq!(opened.get(row).unwrap(), id);
        }
    }

    #[test]
    fn ids_that_do_not_fit_the_rows_are_refused() {
        let bytes = written(&["A-1", "A-2"]);
        for (bytes, rows) in [
            (&bytes[..7], 2),
            (&bytes[..13], 2),
            (&bytes[..], 1),
            (&bytes[..], 3),
            (&bytes[..], 0),
        ] {
            assert!(Ids::open(OwnedBytes::new(bytes.to_vec()), rows).is_err(), "{rows} rows");
        }
    }

    #[test]
    fn ends_out_of_order_are_an_error_and_no_panic() {
        let mut bytes = written(&["A-1", "A-2", "A-3"]);
        bytes[4] = 200;
        let opened = Ids::open(OwnedBytes::new(bytes), 3).unwrap();
        assert!(opened.get(1).is_err() && opened.get(2).is_err());
        assert_eq!(opened.get(0).unwrap(), "A-1");
    }
}
