//! BLAKE3 digests, and the content sum: an order-free fingerprint of a set of documents.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A BLAKE3 digest of a whole file or value; text form is 64 hexadecimal digits, as `b3sum` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not 64 hexadecimal digits")]
pub struct DigestError(pub String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A digest from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hash = blake3::Hash::from_hex(text).map_err(|_| DigestError(text.to_owned()))?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

/// A sum of digests modulo 2^256. Adding and removing documents commute, so two ways to the same documents end in
/// the same sum, and a publish costs what changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContentSum([u64; 4]);

impl ContentSum {
    /// Adds one document's digest.
    pub fn add(&mut self, digest: &Digest) {
        let mut carry = false;
        for (limb, word) in self.0.iter_mut().zip(words(digest)) {
            let (sum, over_a) = limb.overflowing_add(word);
            let (sum, over_b) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = over_a || over_b;
        }
    }

    /// Takes one document's digest out again.
    pub fn remove(&mut self, digest: &Digest) {
        let mut borrow = false;
        for (limb, word) in self.0.iter_mut().zip(words(digest)) {
            let (rest, under_a) = limb.overflowing_sub(word);
            let (rest, under_b) = rest.overflowing_sub(u64::from(borrow));
            *limb = rest;
            borrow = under_a || under_b;
        }
    }
}

/// The digest as four little-endian words, least significant first.
fn words(digest: &Digest) -> [u64; 4] {
    let (chunks, _) = digest.0.as_chunks::<8>();
    [0, 1, 2, 3].map(|n| u64::from_le_bytes(chunks[n]))
}

impl fmt::Display for ContentSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|limb| write!(f, "{limb:016x}"))
    }
}

impl fmt::Debug for ContentSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ContentSum> for String {
    fn from(sum: ContentSum) -> String {
        sum.to_string()
    }
}

impl TryFrom<String> for ContentSum {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        let error = || DigestError(text.clone());
        if text.len() != 64 || !text.is_ascii() {
            return Err(error());
        }
        let mut limbs = [0u64; 4];
        for (n, limb) in limbs.iter_mut().rev().enumerate() {
            *limb = u64::from_str_radix(&text[n * 16..n * 16 + 16], 16).map_err(|_| error())?;
        }
        Ok(Self(limbs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_content_sum_forgets_the_order_and_undoes_what_was_added(bytes in prop::collection::vec(any::<[u8; 32]>(), 0..20)) {
            let mut forwards = ContentSum::default();
            let mut backwards = ContentSum::default();
            bytes.iter().for_each(|b| forwards.add(&Digest::from_bytes(*b)));
            bytes.iter().rev().for_each(|b| backwards.add(&Digest::from_bytes(*b)));
            prop_assert_eq!(forwards, backwards);
            prop_assert_eq!(ContentSum::try_from(String::from(forwards)).expect("round trip"), forwards);
            bytes.iter().for_each(|b| forwards.remove(&Digest::from_bytes(*b)));
            prop_assert_eq!(forwards, ContentSum::default());
        }
    }

    #[test]
    fn a_carry_reaches_the_next_word() {
        let mut sum = ContentSum::default();
        sum.add(&Digest::from_bytes([0xff; 32]));
        let mut one = [0; 32];
        one[0] = 1;
        sum.add(&Digest::from_bytes(one));
        assert_eq!(sum, ContentSum::default());
    }
}
