//! The analysis as Tantivy's tokenizers, used while rows are written. Positions and offsets mean nothing here: the fields
//! keep frequencies only.

use std::sync::Arc;

use tantivy::tokenizer::{Token, TokenStream, Tokenizer};

use crate::words::analysis::{Stems, codes_of, words_of};

/// Terms of the field `words`.
#[derive(Clone, Default)]
pub(crate) struct WordsTokenizer(Arc<Stems>);

/// Terms of the field `codes`.
#[derive(Clone)]
pub(crate) struct CodesTokenizer;

/// The terms of one text, one behind the other in one buffer.
pub(crate) struct Terms {
    text: String,
    ends: std::vec::IntoIter<usize>,
    start: usize,
    token: Token,
}

impl Terms {
    fn collect(fill: impl FnOnce(&mut dyn FnMut(&str))) -> Self {
        let (mut text, mut ends) = (String::new(), Vec::new());
        fill(&mut |term| {
            text.push_str(term);
            ends.push(text.len());
        });
        Self {
            text,
            ends: ends.into_iter(),
            start: 0,
            token: Token::default(),
        }
    }
}

impl TokenStream for Terms {
    fn advance(&mut self) -> bool {
        let Some(end) = self.ends.next() else { return false };
        self.token.text.clear();
        self.token.text.push_str(&self.text[self.start..end]);
        self.token.position = self.token.position.wrapping_add(1);
        self.start = end;
        true
    }

    fn token(&self) -> &Token {
        &self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.token
    }
}

impl Tokenizer for WordsTokenizer {
    type TokenStream<'a> = Terms;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Terms {
        Terms::collect(|emit| words_of(text, &self.0, emit))
    }
}

impl Tokenizer for CodesTokenizer {
    type TokenStream<'a> = Terms;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Terms {
        Terms::collect(|emit| codes_of(text, emit))
    }
}
