//! Vectors from hashes of words: for tests and for demonstrations without a model.
//!
//! Deterministic on every machine. Texts with the same words are equal, texts that share words are near; meaning there
//! is none.

use async_trait::async_trait;
use verdigris_core::digest::Digest;
use verdigris_core::embedder::EmbedderIdentity;

use crate::{EmbedError, Embedder, TextKind};

/// What the vectors are made of. Changes whenever [`HashEmbedder`] would give a text another vector.
const RECIPE: &[u8] = b"lowercase words, blake3 bytes, sum, unit length; 1";

/// An embedder without a model.
#[derive(Debug, Clone)]
pub struct HashEmbedder {
    identity: EmbedderIdentity,
}

impl HashEmbedder {
    /// An embedder of `dimension` coordinates, at least 1.
    pub fn new(dimension: u32) -> Result<Self, EmbedError> {
        if dimension == 0 {
            return Err(EmbedError::NoDimension);
        }
        let identity = EmbedderIdentity {
            provider: "hash".to_owned(),
            model: "words".to_owned(),
            revision: Digest::of(RECIPE).to_string(),
            dimension,
            max_tokens: 0,
            normalised: true,
            chunker: "document".to_owned(),
        };
        Ok(Self { identity })
    }

    /// The vector of one text.
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let lower = text.to_lowercase();
        let mut sum = vec![0i64; self.identity.dimension as usize];
        let mut words = lower
            .split(|c: char| !c.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .peekable();
        if words.peek().is_none() {
            add(&mut sum, text);
        }
        words.for_each(|word| add(&mut sum, word));
        // Sums of odd numbers can cancel out; a zero vector has no direction.
        if sum.iter().all(|x| *x == 0) {
            sum[0] = 1;
        }
        let length = sum.iter().map(|x| (*x as f64).powi(2)).sum::<f64>().sqrt();
        sum.iter().map(|x| (*x as f64 / length) as f32).collect()
    }
}

/// Adds a word's own direction: odd numbers from -255 to 255, in integers so that the order of words leaves no trace.
fn add(sum: &mut [i64], word: &str) {
    let mut bytes = vec![0; sum.len()];
    blake3::Hasher::new()
        .update(word.as_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    sum.iter_mut()
        .zip(bytes)
        .for_each(|(sum, byte)| *sum += 2 * i64::from(byte) - 255);
}

#[async_trait]
impl Embedder for HashEmbedder {
    fn identity(&self) -> &EmbedderIdentity {
        &self.identity
    }

    async fn embed(&self, texts: &[String], _: TextKind) -> Result<Vec<Vec<f32>>, EmbedError> {
        Ok(texts.iter().map(|text| self.vector(text)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &str, b: &str) -> f32 {
        let embedder = HashEmbedder::new(128).unwrap();
        embedder
            .vector(a)
            .iter()
            .zip(embedder.vector(b))
            .map(|(a, b)| a * b)
            .sum()
    }

    #[test]
    fn texts_of_the_same_words_are_equal_and_shared_words_draw_nearer() {
        let embedder = HashEmbedder::new(128).unwrap();
        assert_eq!(
            embedder.vector("Copper pipe, 15 mm"),
            embedder.vector("15 MM copper PIPE")
        );
        let near = cosine("copper pipe 15 mm", "copper pipe 22 mm");
        let far = cosine("copper pipe 15 mm", "wooden garden chair");
        assert!(near > 0.5 && far < 0.4, "{near} {far}");
    }

    #[test]
    fn every_text_has_a_vector_of_length_one() {
        let long = "word ".repeat(3000);
        for text in ["", " ", "\0", "---", "…", "日本語", long.as_str()] {
            let vector = HashEmbedder::new(7).unwrap().vector(text);
            let length = vector.iter().map(|x| x * x).sum::<f32>();
            assert!((length - 1.0).abs() < 1e-5, "{text:?}: {length}");
        }
        assert!(matches!(HashEmbedder::new(0), Err(EmbedError::NoDimension)));
    }

    #[test]
    fn a_vector_is_the_same_on_every_machine() {
        let vector = HashEmbedder::new(4).unwrap().vector("Bosch GSR 12V-15");
        let text: Vec<String> = vector.iter().map(|x| format!("{x:.6}")).collect();
        assert_eq!(text.join(" "), "-0.386690 0.888565 0.197459 -0.148094");
    }

    #[test]
    fn dimensions_are_spaces_of_their_own() {
        assert_ne!(
            HashEmbedder::new(8).unwrap().identity(),
            HashEmbedder::new(16).unwrap().identity()
        );
    }
}
