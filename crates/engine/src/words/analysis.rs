//! From text to terms: normalise, cut into chunks and parts, stem, split, join.
//!
//! A *chunk* is a run of characters between white space and a few separators (`dw-745/b`), a *part* a run of letters and
//! digits in it (`dw`, `745`, `b`), and a chunk *joined* is its parts in one (`dw745b`).

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use rust_stemmers::{Algorithm, Stemmer};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Characters that end a chunk, beside white space.
const SEPARATORS: &str = ",;|()[]{}<>\"“”‘’▷…!?*=";
/// Parts that a chunk has at most to be joined: more is prose or an address.
const JOINED_PARTS_MAX: usize = 4;
/// The longest joined chunk among words, in characters.
const JOINED_CHARACTERS_MAX: usize = 30;
/// The longest first half of a neighbour join (`kx tg6702`, `16 gb`), in characters.
const NEIGHBOUR_FIRST_MAX: usize = 5;
/// The longest neighbour join, in characters.
const NEIGHBOUR_CHARACTERS_MAX: usize = 20;
/// The shortest prefix of a code.
const CODE_PREFIX_MIN: usize = 3;
/// The longest prefix of a code: beyond it, a chunk is an address or a hash, and its prefixes fill the dictionary.
const CODE_PREFIX_MAX: usize = 40;
/// Chunks that a query may split a code into.
const CODE_CHUNKS_MAX: usize = 4;
/// Characters of a code that a query joins.
const CODE_JOINED: std::ops::RangeInclusive<usize> = 4..=20;
/// The longest term in bytes: longer ones are encoded data, which nobody types.
const TERM_BYTES_MAX: usize = 256;
/// Terms of a query at most, of words and of codes each: two pages of text; what follows is left out.
const QUERY_TERMS_MAX: usize = 1_024;

/// A query, as distinct terms in the order in which they occur.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WordsQuery {
    pub(crate) words: Vec<String>,
    pub(crate) codes: Vec<String>,
}

impl WordsQuery {
    /// Analyses a query's text.
    pub fn parse(text: &str) -> Self {
        let text = normalise(text);
        let chunks = chunks(&text);
        let mut words = DistinctTerms::default();
        for_each_word(&text, &chunks, &Stems::default(), &mut |term| words.add(term));
        let mut codes = DistinctTerms::default();
        for_each_code(&chunks, &mut |term| codes.add(term));
        for_each_split_code(&chunks, &mut |term| codes.add(term));
        Self {
            words: words.list,
            codes: codes.list,
        }
    }

    /// Whether nothing can be found by it.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && self.codes.is_empty()
    }
}

#[derive(Default)]
struct DistinctTerms {
    list: Vec<String>,
    seen: HashSet<String>,
}

impl DistinctTerms {
    fn add(&mut self, term: &str) {
        if self.list.len() < QUERY_TERMS_MAX && self.seen.insert(term.to_owned()) {
            self.list.push(term.to_owned());
        }
    }
}

/// The English Snowball stemmer.
pub(crate) struct Stems(Stemmer);

impl Default for Stems {
    fn default() -> Self {
        Self(Stemmer::create(Algorithm::English))
    }
}

/// Calls `emit` with each term of the field `words`, repetitions included: they count as frequency.
pub(crate) fn words_of(text: &str, stems: &Stems, emit: &mut dyn FnMut(&str)) {
    let text = normalise(text);
    for_each_word(&text, &chunks(&text), stems, emit);
}

/// Calls `emit` with each term of the field `codes`.
pub(crate) fn codes_of(text: &str, emit: &mut dyn FnMut(&str)) {
    for_each_code(&chunks(&normalise(text)), emit);
}

/// NFKD without combining marks, in lower case.
pub(crate) fn normalise(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        return if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        };
    }
    let plain = text.nfkd().filter(|c| !is_combining_mark(*c));
    Cow::Owned(
        plain
            .flat_map(char::to_lowercase)
            .filter(|c| !is_combining_mark(*c))
            .collect(),
    )
}

/// A run of characters between separators that has at least one part.
struct Chunk<'a> {
    parts: Vec<Range<usize>>,
    joined: Cow<'a, str>,
    characters: usize,
    has_digit: bool,
}

fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let separator = |c: char| c.is_whitespace() || SEPARATORS.contains(c);
    let start_of = |piece: &str| piece.as_ptr() as usize - text.as_ptr() as usize;
    text.split(separator)
        .filter_map(|piece| Chunk::new(text, start_of(piece), piece))
        .collect()
}

impl<'a> Chunk<'a> {
    fn new(text: &'a str, start: usize, piece: &str) -> Option<Self> {
        let mut parts: Vec<Range<usize>> = Vec::new();
        let (mut characters, mut has_digit) = (0, false);
        for (at, c) in piece.char_indices().filter(|(_, c)| c.is_alphanumeric()) {
            let (at, end) = (start + at, start + at + c.len_utf8());
            match parts.last_mut() {
                Some(part) if part.end == at => part.end = end,
                _ => parts.push(at..end),
            }
            characters += 1;
            has_digit |= c.is_numeric();
        }
        let joined = match &parts[..] {
            [] => return None,
            [part] => Cow::Borrowed(&text[part.clone()]),
            parts => Cow::Owned(parts.iter().map(|part| &text[part.clone()]).collect()),
        };
        Some(Self {
            parts,
            joined,
            characters,
            has_digit,
        })
    }
}

fn for_each_word(text: &str, chunks: &[Chunk<'_>], stems: &Stems, emit: &mut dyn FnMut(&str)) {
    let mut emit = |term: &str| {
        if term.len() <= TERM_BYTES_MAX {
            emit(term);
        }
    };
    for chunk in chunks {
        for part in chunk.parts.iter().map(|part| &text[part.clone()]) {
            emit(&stems.0.stem(part));
            for_each_run(part, &mut emit);
        }
        if (2..=JOINED_PARTS_MAX).contains(&chunk.parts.len()) && chunk.characters <= JOINED_CHARACTERS_MAX {
            emit(&chunk.joined);
        }
    }
    for pair in chunks.windows(2) {
        let (first, second) = (&pair[0], &pair[1]);
        let characters = first.characters + second.characters;
        let joins = first.characters <= NEIGHBOUR_FIRST_MAX && characters <= NEIGHBOUR_CHARACTERS_MAX;
        if joins && (first.has_digit || second.has_digit) {
            emit(&[&*first.joined, &*second.joined].concat());
        }
    }
}

/// The runs of letters and of digits of a part that has both, where longer than one character: `16gb` gives `16`, `gb`.
fn for_each_run(part: &str, emit: &mut dyn FnMut(&str)) {
    let mut classes = part.chars().map(char::is_numeric);
    let first = classes.next();
    if classes.all(|class| Some(class) == first) {
        return;
    }
    let mut start = 0;
    let mut previous = first.unwrap_or_default();
    let mut emit_run = |run: &str| {
        if run.chars().nth(1).is_some() {
            emit(run);
        }
    };
    for (at, c) in part.char_indices() {
        if c.is_numeric() != previous {
            emit_run(&part[start..at]);
            (start, previous) = (at, c.is_numeric());
        }
    }
    emit_run(&part[start..]);
}

/// All prefixes of the joined chunks that have a digit.
fn for_each_code(chunks: &[Chunk<'_>], emit: &mut dyn FnMut(&str)) {
    for chunk in chunks.iter().filter(|chunk| chunk.has_digit) {
        let ends = chunk.joined.char_indices().map(|(at, c)| at + c.len_utf8());
        for end in ends.take(CODE_PREFIX_MAX).skip(CODE_PREFIX_MIN - 1) {
            emit(&chunk.joined[..end]);
        }
    }
}

/// Codes that a query splits by spaces: `dw 745 b`.
fn for_each_split_code(chunks: &[Chunk<'_>], emit: &mut dyn FnMut(&str)) {
    for count in 2..=CODE_CHUNKS_MAX {
        for run in chunks.windows(count) {
            let characters = run.iter().map(|chunk| chunk.characters).sum();
            if CODE_JOINED.contains(&characters) && run.iter().any(|chunk| chunk.has_digit) {
                emit(&run.iter().map(|chunk| &*chunk.joined).collect::<String>());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        words_of(text, &Stems::default(), &mut |term| terms.push(term.to_owned()));
        terms
    }

    fn codes(text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        codes_of(text, &mut |term| terms.push(term.to_owned()));
        terms
    }

    fn check(found: &[String], expect: &[&str]) {
        assert_eq!(found, expect);
    }

    #[test]
    fn parts_are_stemmed_in_lower_case_without_accents() {
        check(&words("Cordless DRILLS, Café"), &["cordless", "drill", "cafe"]);
        check(&words("ﬁne Ⅳ Straße"), &["fine", "iv", "straße"]);
        check(&words(""), &[]);
        check(&words(" - / … "), &[]);
    }

    #[test]
    fn a_part_with_digits_gives_its_runs() {
        check(&words("16gb"), &["16gb", "16", "gb"]);
        check(&words("2000"), &["2000"]);
        check(&words("a4x"), &["a4x"]);
    }

    #[test]
    fn a_chunk_of_two_to_four_parts_is_joined() {
        check(&words("dslr-a350"), &["dslr", "a350", "350", "dslra350"]);
        check(&words("men's"), &["men", "s", "mens"]);
        check(&words("a.b.c.d.e"), &["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn neighbours_with_a_digit_are_joined() {
        check(&words("kx tg6702"), &["kx", "tg6702", "tg", "6702", "kxtg6702"]);
        check(&words("16 gb"), &["16", "gb", "16gb"]);
        check(&words("red shoe"), &["red", "shoe"]);
        check(&words("abcdef 1"), &["abcdef", "1"]);
    }

    #[test]
    fn codes_are_all_prefixes_of_joined_chunks_with_a_digit() {
        check(&codes("DW-745/B drill"), &["dw7", "dw74", "dw745", "dw745b"]);
        check(&codes("drill 12"), &[]);
        assert_eq!(
            codes(&format!("1{}", "x".repeat(100))).len(),
            CODE_PREFIX_MAX - CODE_PREFIX_MIN + 1
        );
    }

    #[test]
    fn a_query_joins_codes_over_spaces_and_has_each_term_once() {
        let query = WordsQuery::parse("dw 745 b dw");
        assert!(query.codes.contains(&"dw745b".to_owned()), "{:?}", query.codes);
        assert_eq!(query.words.iter().filter(|term| *term == "dw").count(), 1);
    }

    #[test]
    fn a_query_of_any_length_has_a_bounded_number_of_terms() {
        let text: String = (0..10_000).map(|n| format!("word{n} ")).collect();
        let query = WordsQuery::parse(&text);
        assert_eq!(
            (query.words.len(), query.codes.len()),
            (QUERY_TERMS_MAX, QUERY_TERMS_MAX)
        );
    }
}
