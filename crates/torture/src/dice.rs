//! Numbers that a seed repeats.
#![forbid(unsafe_code)]

/// The generator `SplitMix64`: the same numbers for the same seed, on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Dice of their own for each purpose of one seed.
    pub(crate) fn of(seed: u64, purpose: &[u64]) -> Self {
        let mut dice = Self(seed);
        for part in purpose {
            dice = Self(dice.next() ^ part.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        }
        dice
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub(crate) fn of_these<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = self.below(choices.len() as u64);
        choices[usize::try_from(at).expect("below the number of choices")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers_and_purposes_have_their_own() {
        let draw = |mut dice: Dice| [dice.next(), dice.next(), dice.next()];
        assert_eq!(draw(Dice::of(7, &[1, 2])), draw(Dice::of(7, &[1, 2])));
        assert_ne!(draw(Dice::of(7, &[1, 2])), draw(Dice::of(7, &[2, 1])));
        assert_ne!(draw(Dice::of(7, &[1])), draw(Dice::of(8, &[1])));
        assert!((0..1000).all(|_| Dice::new(3).below(5) < 5));
    }
}
