//! Text to token ids, as the model was trained: the file's own truncation (128) and padding are overridden.

use std::path::{Path, PathBuf};

use tokenizers::{Tokenizer, TruncationParams};

use super::{TOKENS_MAX, VOCABULARY};
use crate::EmbedError;

/// A tokenizer that cuts at [`TOKENS_MAX`] and never pads.
pub(super) struct Tokens {
    tokenizer: Tokenizer,
    path: PathBuf,
}

impl Tokens {
    /// Reads `tokenizer.json`.
    pub(super) fn read(path: &Path) -> Result<Self, EmbedError> {
        let error = |source| EmbedError::Tokenizer {
            path: path.to_owned(),
            source,
        };
        let bytes = std::fs::read(path).map_err(|source| EmbedError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(error)?;
        let truncation = TruncationParams {
            max_length: TOKENS_MAX,
            ..TruncationParams::default()
        };
        tokenizer.with_truncation(Some(truncation)).map_err(error)?;
        tokenizer.with_padding(None);
        if tokenizer.get_vocab_size(true) > VOCABULARY {
            return Err(error("the vocabulary is larger than the model's".into()));
        }
        Ok(Self {
            tokenizer,
            path: path.to_owned(),
        })
    }

    /// 2 to [`TOKENS_MAX`] ids, frame tokens included.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>, EmbedError> {
        self.all_ids(beginning(text))
    }

    fn all_ids(&self, text: &str) -> Result<Vec<u32>, EmbedError> {
        let encoding = self.tokenizer.encode_fast(text, true);
        let encoding = encoding.map_err(|source| EmbedError::Tokenizer {
            path: self.path.clone(),
            source,
        })?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// As much of `text` as can reach the model. A megabyte would be cut into tokens whole, to keep 256 of them.
///
/// A word with a letter or digit of ASCII is at least one token, and what follows a space changes nothing before it.
fn beginning(text: &str) -> &str {
    if text.len() <= TOKENS_MAX {
        return text;
    }
    let mut words = 0;
    let mut counted = false;
    for (at, byte) in text.bytes().enumerate() {
        if byte == b' ' {
            if counted {
                words += 1;
            }
            counted = false;
            if words == TOKENS_MAX {
                return &text[..at];
            }
        } else if byte.is_ascii_alphanumeric() {
            counted = true;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_a_long_text_early_leaves_its_tokens_as_they_were() {
        let Some(files) = super::super::tests::model("cutting_a_long_text_early_leaves_its_tokens_as_they_were") else {
            return;
        };
        let tokens = Tokens::read(files.tokenizer()).unwrap();
        let long = [
            "drill DW-745/B ".repeat(3000),
            "日本語 のテキスト ".repeat(2000),
            format!("{} end", "\u{1} \u{2} ".repeat(4000)),
            format!("{} x", "A".repeat(5000)),
            (0..3000).map(|n| format!("w{n} [SEP] … ")).collect::<String>(),
        ];
        for text in &long {
            assert_eq!(tokens.ids(text).unwrap(), tokens.all_ids(text).unwrap(), "{:.40}", text);
        }
        assert!(beginning(&long[0]).len() < 5000, "nothing was cut");
        assert_eq!(tokens.ids(&long[0]).unwrap().len(), TOKENS_MAX);
    }

    #[test]
    fn a_beginning_ends_before_a_space_after_enough_words() {
        let text = "a . ".repeat(300);
        let cut = beginning(&text);
        assert_eq!(cut.bytes().filter(|b| *b == b'a').count(), TOKENS_MAX);
        assert_eq!(beginning("short"), "short");
    }
}
