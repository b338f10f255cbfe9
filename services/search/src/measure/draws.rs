//! What is sampled: drawn evenly by a seed, so that the same release is sampled alike each time, and the next one
//! elsewhere.

use std::collections::BTreeSet;

use verdigris_core::digest::Digest;

/// Numbers drawn by a seed. Each purpose has a sequence of its own, so that parts do not depend on each other.
#[derive(Debug, Clone)]
pub(crate) struct Draws {
    seed: u64,
}

impl Draws {
    /// Draws that belong to this manifest.
    pub(crate) fn new(manifest: &Digest) -> Self {
        let hex = manifest.to_string();
        Self {
            seed: u64::from_str_radix(&hex[..16], 16).expect("a digest is hexadecimal"),
        }
    }

    /// `wanted` of the numbers below `count`, in order; all where there are no more.
    pub(crate) fn some(&self, purpose: &str, count: usize, wanted: usize) -> Vec<usize> {
        if wanted >= count {
            return (0..count).collect();
        }
        let mut state = self.seed
            ^ u64::from_str_radix(&Digest::of(purpose.as_bytes()).to_string()[..16], 16)
                .expect("a digest is hexadecimal");
        let mut chosen = BTreeSet::new();
        // Floyd's way: each subset is as likely as any other, and each step adds one.
        for last in count - wanted..count {
            let drawn = (u128::from(next(&mut state)) * (last as u128 + 1)) >> 64;
            if !chosen.insert(drawn as usize) {
                chosen.insert(last);
            }
        }
        chosen.into_iter().collect()
    }
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_the_same_for_one_release_and_others_for_another() {
        let of = |release: &[u8], purpose: &str| Draws::new(&Digest::of(release)).some(purpose, 10_000, 100);
        assert_eq!(of(b"a", "rows"), of(b"a", "rows"));
        assert_ne!(of(b"a", "rows"), of(b"b", "rows"));
        assert_ne!(of(b"a", "rows"), of(b"a", "queries"));
    }

    #[test]
    fn all_is_drawn_from_all() {
        let draws = Draws::new(&Digest::of(b"a"));
        assert_eq!(draws.some("rows", 3, 5), [0, 1, 2]);
        assert_eq!(draws.some("rows", 0, 5), Vec::<usize>::new());
        let half = draws.some("rows", 1_000, 500);
        assert_eq!(half.len(), 500);
        let low = half.iter().filter(|n| **n < 500).count();
        assert!((200..300).contains(&low), "{low}");
    }
}
