//! From a filter to the rows that it lets through, by the columns of one segment.
//!
//! Texts are looked at once for each distinct value, by the column's dictionary; equality, order and prefixes are a range
//! of its ordinals. A row with several values passes where one of them does.

use std::ops::{Bound, RangeInclusive};

use roaring::RoaringBitmap;
use tantivy::columnar::{Column, ColumnIndex, DynamicColumn, StrColumn};

use crate::error::EngineError;
use crate::filter::columns::{ID_FIELD, Kind, TEXT_BYTES_MAX, column_name, path_name, readable_text, stored_text};
use crate::filter::contains::Contains;
use crate::filter::literal::{Literal, Star, moment};
use crate::filter::number::{Number, Side};
use crate::filter::{Expression, Filter, Operator, Test};
use crate::rows::{READABLE, Rows};

/// Up to this many distinct matching texts, their rows are sought one text at a time; above, all rows are read once.
const ORDINALS_SOUGHT_MAX: usize = 8;

impl Rows {
    /// The rows with a vector that a filter lets through. Ghost rows never pass, and dead rows are not known here.
    ///
    /// # Errors
    /// [`EngineError::RowsArchive`] where a column cannot be opened.
    pub fn filter(&self, filter: &Filter) -> Result<RoaringBitmap, EngineError> {
        self.evaluate(&filter.root)
    }

    fn evaluate(&self, expression: &Expression) -> Result<RoaringBitmap, EngineError> {
        match expression {
            Expression::All => Ok(self.all()),
            Expression::And(parts) => {
                let mut rows = self.all();
                for part in parts {
                    if rows.is_empty() {
                        break;
                    }
                    rows &= self.evaluate(part)?;
                }
                Ok(rows)
            }
            Expression::Or(parts) => {
                let mut rows = RoaringBitmap::new();
                for part in parts {
                    rows |= self.evaluate(part)?;
                }
                Ok(rows)
            }
            Expression::Not(part) => Ok(self.all() - self.evaluate(part)?),
            Expression::Test(test) => Ok(self.test(test)? & self.all()),
        }
    }

    fn all(&self) -> RoaringBitmap {
        let mut rows = RoaringBitmap::new();
        rows.insert_range(0..self.vector_rows());
        rows
    }

    /// Rows that pass one comparison, ghosts among them where it is about the id.
    fn test(&self, test: &Test) -> Result<RoaringBitmap, EngineError> {
        let (path, literal) = (&test.path, &test.literal);
        match test.operator {
            Operator::Exists => self.exists(path),
            Operator::Equal => self.on_side(path, literal, Side::Equal),
            Operator::Less => self.on_side(path, literal, Side::Less),
            Operator::LessOrEqual => self.on_side(path, literal, Side::LessOrEqual),
            Operator::Greater => self.on_side(path, literal, Side::Greater),
            Operator::GreaterOrEqual => self.on_side(path, literal, Side::GreaterOrEqual),
            Operator::NotEqual => Ok(self.has_a_value(path)? - self.on_side(path, literal, Side::Equal)?),
            Operator::Has => self.has(path, literal),
        }
    }

    /// Rows with a value on a side of the literal: its equals, what is less, and so on.
    fn on_side(&self, path: &[String], literal: &Literal, side: Side) -> Result<RoaringBitmap, EngineError> {
        if path == [ID_FIELD] && side == Side::Equal && literal.star == Star::None && literal.moment.is_none() {
            return Ok(self.find(&literal.text).into_iter().collect());
        }
        let mut rows = self.scalars_on_side(path, literal, side)?;
        if let Some(texts) = self.texts(path)? {
            rows |= texts_on_side(&texts, literal, side);
        }
        Ok(rows)
    }

    /// The same without texts.
    fn scalars_on_side(&self, path: &[String], literal: &Literal, side: Side) -> Result<RoaringBitmap, EngineError> {
        let mut rows = match literal.number {
            Some(number) => self.numbers_on_side(path, number, side)?,
            None => RoaringBitmap::new(),
        };
        if let (Some(truth), Side::Equal) = (literal.truth, side)
            && let Some(DynamicColumn::Bool(column)) = self.column(&column_name(path, Kind::Truth))?
        {
            rows |= rows_in_range(&column, truth..=truth);
        }
        Ok(rows)
    }

    fn numbers_on_side(&self, path: &[String], number: Number, side: Side) -> Result<RoaringBitmap, EngineError> {
        let mut rows = RoaringBitmap::new();
        for kind in [Kind::Whole, Kind::Large, Kind::Fraction] {
            match self.column(&column_name(path, kind))? {
                Some(DynamicColumn::I64(column)) => {
                    if let Some(range) = number.whole_range(side).and_then(narrow::<i64>) {
                        rows |= rows_in_range(&column, range);
                    }
                }
                Some(DynamicColumn::U64(column)) => {
                    if let Some(range) = number.whole_range(side).and_then(narrow::<u64>) {
                        rows |= rows_in_range(&column, range);
                    }
                }
                Some(DynamicColumn::F64(column)) => {
                    if let Some(range) = number.fraction_range(side) {
                        rows |= rows_in_range(&column, range);
                    }
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    /// `field:value`: a text with these words, an equal number or truth value, or an object with this key.
    fn has(&self, path: &[String], literal: &Literal) -> Result<RoaringBitmap, EngineError> {
        let key: Vec<String> = path.iter().cloned().chain([literal.text.clone()]).collect();
        let mut rows = self.exists(&key)? | self.scalars_on_side(path, literal, Side::Equal)?;
        if let Some(texts) = self.texts(path)? {
            let contains = Contains::new(&literal.text);
            rows |= rows_of_texts(&texts, |text| contains.matches(readable_text(text)));
        }
        Ok(rows)
    }

    /// Rows with any value at this path or below.
    fn exists(&self, path: &[String]) -> Result<RoaringBitmap, EngineError> {
        let mut rows = RoaringBitmap::new();
        if path == [ID_FIELD] {
            return Ok(self.all());
        }
        for column in self.columns_below(&path_name(path))? {
            rows |= rows_with_value(column.column_index(), self.rows());
        }
        Ok(rows)
    }

    /// Rows with a value at this very path.
    fn has_a_value(&self, path: &[String]) -> Result<RoaringBitmap, EngineError> {
        let mut rows = RoaringBitmap::new();
        if path == [ID_FIELD] {
            return Ok(self.all());
        }
        for kind in [Kind::Text, Kind::Whole, Kind::Large, Kind::Fraction, Kind::Truth] {
            if let Some(column) = self.column(&column_name(path, kind))? {
                rows |= rows_with_value(column.column_index(), self.rows());
            }
        }
        Ok(rows)
    }

    fn texts(&self, path: &[String]) -> Result<Option<StrColumn>, EngineError> {
        if path == [ID_FIELD] {
            return Ok(Some(self.id_column().clone()));
        }
        Ok(self.column(&column_name(path, Kind::Text))?.and_then(Into::into))
    }
}

fn texts_on_side(texts: &StrColumn, literal: &Literal, side: Side) -> RoaringBitmap {
    match (literal.star, literal.moment) {
        (Star::None, Some(wanted)) => rows_of_texts(texts, |text| {
            moment(text).is_some_and(|found| side.holds(found, wanted))
        }),
        (Star::None, None) if side == Side::Equal => {
            let ordinal = texts
                .dictionary()
                .term_ord(stored_text(&literal.text).as_bytes())
                .expect(READABLE);
            ordinal
                .map(|ordinal| rows_in_range(texts.ords(), ordinal..=ordinal))
                .unwrap_or_default()
        }
        // A number's order is that of numbers; texts are not compared with it.
        (Star::None, None) if literal.number.is_some() => RoaringBitmap::new(),
        (Star::None, None) => {
            let text = literal.text.as_bytes();
            let (lower, upper) = match side {
                Side::Equal => (Bound::Included(text), Bound::Included(text)),
                Side::Less => (Bound::Unbounded, Bound::Excluded(text)),
                Side::LessOrEqual => (Bound::Unbounded, Bound::Included(text)),
                Side::Greater => (Bound::Excluded(text), Bound::Unbounded),
                Side::GreaterOrEqual => (Bound::Included(text), Bound::Unbounded),
            };
            rows_of_text_range(texts, lower, upper)
        }
        // A prefix longer than what a cut text keeps can only be looked for in texts that are not cut.
        (Star::After, _) if literal.text.len() <= TEXT_BYTES_MAX => rows_with_prefix(texts, literal.text.as_bytes()),
        (Star::After, _) => RoaringBitmap::new(),
        (Star::Before, _) => rows_of_texts(texts, |text| {
            text.len() <= TEXT_BYTES_MAX && text.ends_with(&literal.text)
        }),
        (Star::Around, _) => rows_of_texts(texts, |text| readable_text(text).contains(&literal.text)),
    }
}

impl Side {
    fn holds(self, found: i128, wanted: i128) -> bool {
        match self {
            Self::Equal => found == wanted,
            Self::Less => found < wanted,
            Self::LessOrEqual => found <= wanted,
            Self::Greater => found > wanted,
            Self::GreaterOrEqual => found >= wanted,
        }
    }
}

fn rows_with_prefix(texts: &StrColumn, prefix: &[u8]) -> RoaringBitmap {
    // UTF-8 has no byte 255, so the prefix with its last byte raised is above all texts that begin with it.
    let mut above = prefix.to_vec();
    *above.last_mut().expect("a star alone is refused by the parser") += 1;
    rows_of_text_range(texts, Bound::Included(prefix), Bound::Excluded(&above))
}

fn rows_of_text_range(texts: &StrColumn, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> RoaringBitmap {
    let bounds = texts.dictionary().term_bounds_to_ord(lower, upper).expect(READABLE);
    let first = match bounds.0 {
        Bound::Included(ordinal) => ordinal,
        Bound::Excluded(ordinal) => ordinal + 1,
        Bound::Unbounded => 0,
    };
    let end = match bounds.1 {
        Bound::Included(ordinal) => ordinal + 1,
        Bound::Excluded(ordinal) => ordinal,
        Bound::Unbounded => texts.num_terms() as u64,
    };
    if first < end {
        rows_in_range(texts.ords(), first..=end - 1)
    } else {
        RoaringBitmap::new()
    }
}

/// Rows with a text that passes; each distinct text is looked at once.
fn rows_of_texts(texts: &StrColumn, mut passes: impl FnMut(&str) -> bool) -> RoaringBitmap {
    let mut ordinals = RoaringBitmap::new();
    let mut stream = texts.dictionary().stream().expect(READABLE);
    while stream.advance() {
        let text = std::str::from_utf8(stream.key()).expect("columns of text are written from text");
        if passes(text) {
            ordinals.insert(u32::try_from(stream.term_ord()).expect("a segment has fewer rows than 2^32"));
        }
    }
    if ordinals.len() as usize <= ORDINALS_SOUGHT_MAX {
        let mut rows = RoaringBitmap::new();
        for ordinal in ordinals.iter().map(u64::from) {
            rows |= rows_in_range(texts.ords(), ordinal..=ordinal);
        }
        return rows;
    }
    let passing = |row: &u32| texts.term_ords(*row).any(|ordinal| ordinals.contains(ordinal as u32));
    ascending((0..texts.num_rows()).filter(passing))
}

fn rows_in_range<T>(column: &Column<T>, range: RangeInclusive<T>) -> RoaringBitmap
where
    T: PartialOrd + Copy + std::fmt::Debug + Send + Sync + 'static,
{
    // Tantivy takes a range beyond the column's values for one that meets the nearest of them.
    let (first, last) = range.into_inner();
    let (least, most) = (column.min_value(), column.max_value());
    let (first, last) = (
        if first < least { least } else { first },
        if last > most { most } else { last },
    );
    if first > last {
        return RoaringBitmap::new();
    }
    let mut rows = Vec::new();
    column.get_docids_for_value_range(first..=last, 0..column.num_docs(), &mut rows);
    ascending(rows)
}

/// A bitmap of rows that come in ascending order, each once, as columns give them.
fn ascending(rows: impl IntoIterator<Item = u32>) -> RoaringBitmap {
    RoaringBitmap::from_sorted_iter(rows).expect("columns give rows in order")
}

fn rows_with_value(index: &ColumnIndex, rows: u32) -> RoaringBitmap {
    match index {
        ColumnIndex::Empty { .. } => RoaringBitmap::new(),
        ColumnIndex::Full => ascending(0..rows),
        ColumnIndex::Optional(index) => ascending(index.iter_non_null_docs()),
        ColumnIndex::Multivalued(index) => ascending(index.iter_non_null_docs()),
    }
}

/// The part of a range that a column's integers can have.
fn narrow<T: TryFrom<i128> + Bounded>(range: RangeInclusive<i128>) -> Option<RangeInclusive<T>> {
    let (first, last) = range.into_inner();
    let (first, last) = (first.max(T::LEAST), last.min(T::MOST));
    match (T::try_from(first), T::try_from(last)) {
        (Ok(start), Ok(end)) if first <= last => Some(start..=end),
        _ => None,
    }
}

trait Bounded {
    const LEAST: i128;
    const MOST: i128;
}

impl Bounded for i64 {
    const LEAST: i128 = Self::MIN as i128;
    const MOST: i128 = Self::MAX as i128;
}

impl Bounded for u64 {
    const LEAST: i128 = 0;
    const MOST: i128 = Self::MAX as i128;
}
