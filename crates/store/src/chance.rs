//! Chance: where nonces, fresh names and the jitter of waits are drawn.
//!
//! A thread that was given a seed draws the same again, so that what happens in it can be repeated.

use std::cell::Cell;

thread_local! {
    /// The seed of this thread and how often it was drawn from.
    static SEEDED: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

/// From now on this thread draws what follows from `seed`. Names that must differ from those of others must not be
/// drawn so.
pub fn seed(seed: u64) {
    SEEDED.set(Some((seed, 0)));
}

/// 128 random bits.
pub fn draw() -> u128 {
    let Some((seed, drawn)) = SEEDED.get() else {
        return rand::random();
    };
    SEEDED.set(Some((seed, drawn + 1)));
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(&drawn.to_le_bytes());
    let bytes = hasher.finalize();
    u128::from_le_bytes(bytes.as_bytes()[..16].try_into().expect("16 bytes"))
}

/// A number from 0 to 1.
pub fn share() -> f64 {
    (draw() >> 75) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeded_thread_draws_the_same_again_and_others_do_not() {
        let drawn = |with: Option<u64>| {
            std::thread::spawn(move || {
                with.into_iter().for_each(seed);
                [draw(), draw()]
            })
            .join()
            .expect("it draws")
        };
        assert_eq!(drawn(Some(7)), drawn(Some(7)));
        assert_ne!(drawn(Some(7)), drawn(Some(8)));
        assert_ne!(drawn(None), drawn(None));
        assert!((0..100).map(|_| share()).all(|share| (0.0..1.0).contains(&share)));
    }
}
