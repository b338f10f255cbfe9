//! `field:words`: whether a text has all these words, in any order, whatever their case and accents.

use crate::words::normalise;

/// The words that a text must have.
pub(crate) struct Contains {
    words: Vec<String>,
    /// What must occur as it is where the argument has no word at all, such as `++`.
    symbols: Option<String>,
}

impl Contains {
    /// All words of an argument.
    pub(crate) fn new(argument: &str) -> Self {
        let argument = normalise(argument);
        let words: Vec<String> = argument
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let symbols = words.is_empty().then(|| argument.into_owned());
        Self { words, symbols }
    }

    /// Whether `text` has them.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text = normalise(text);
        match &self.symbols {
            Some(symbols) => text.contains(symbols.as_str()),
            None => self.words.iter().all(|word| has_word(&text, word)),
        }
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        outside(text[..at].chars().next_back()) && outside(text[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_words_must_occur_whole_in_any_order() {
        let check = |argument: &str, text: &str, expect: bool| {
            assert_eq!(
                Contains::new(argument).matches(text),
                expect,
                "{argument:?} in {text:?}"
            );
        };
        check("toys", "Toys & Games", true);
        check("games toys", "Toys > Games", true);
        check("toy", "Toys", false);
        check("art", "part art", true);
        check("CAFÉ", "the cafe", true);
        check("c++", "C and D", true);
        check("++", "C++", true);
        check("++", "C", false);
        check("18v", "18-V", false);
    }
}
