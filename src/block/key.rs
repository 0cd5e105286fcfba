//! Where a key leads: its lane, its buckets and tag in the index, its stripe of locks.
//!
//! # Invariants
//!
//! 1. All of them depend on nothing but the store's secret, the realm and the key. A key's lane is thus the same for
//!    the life of the store: the formula of the lane belongs to the format and never changes.
//! 2. The two buckets of a key, its lane, and its tag come from bits that share nothing.
#![forbid(unsafe_code)]

use twox_hash::XxHash3_128;

use super::{BlockHash, Realm};

/// A realm and a key, mixed with the store's secret: chosen keys cannot crowd a bucket.
///
/// Bits 0..32 are the tag, 32..64 and 64..96 the buckets, 96..128 the lane: the high ones of these decide, and the low ones
/// which bucket of a larger level of the index stands for one of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyHash(u128);

impl KeyHash {
    /// XXH3-128 of the key and the realm, seeded by the secret.
    pub(crate) fn of(secret: u64, realm: Realm, key: BlockHash) -> Self {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&key.to_le_bytes());
        bytes[16..].copy_from_slice(&realm.get().to_le_bytes());
        Self(XxHash3_128::oneshot_with_seed(secret, &bytes))
    }

    /// What tells keys of one bucket apart, but for one pair in `2^32`: never 0.
    pub(crate) fn tag(self) -> u32 {
        self.word(0).max(1)
    }

    /// The two buckets of the key among `mask + 1`, a power of two; they differ if there are two.
    pub(crate) fn buckets(self, mask: u32) -> (u32, u32) {
        debug_assert!(mask.wrapping_add(1).is_power_of_two() || mask == u32::MAX, "{mask:#x} is no mask");
        let (first, second) = (self.word(1) & mask, self.word(2) & mask);
        if first == second { (first, (second ^ 1) & mask) } else { (first, second) }
    }

    /// Bits that say nothing of the tag, the buckets, or, the low ones, the lane.
    pub(crate) fn spread(self) -> u32 {
        self.word(3)
    }

    /// The lane of the key among `lanes`, for ever: `docs/format.md` has the formula.
    pub(crate) fn lane(self, lanes: u16) -> u16 {
        let lane = (u64::from(self.word(3)) * u64::from(lanes)) >> 32;
        #[expect(clippy::cast_possible_truncation, reason = "a fraction below 1 of a u16")]
        let lane = lane as u16;
        lane
    }

    /// The lock among `count` that serialises the writers of the key.
    pub(crate) fn stripe(self, count: usize) -> usize {
        // The tag's bits: those of the lane would leave each lane only its share of the locks.
        let stripe = (u128::from(self.word(0)) * count as u128) >> 32;
        usize::try_from(stripe).expect("a fraction below 1 of a usize")
    }

    /// One of the four 32-bit words, the least significant first.
    #[expect(clippy::cast_possible_truncation, reason = "that is what a word is")]
    fn word(self, number: u32) -> u32 {
        (self.0 >> (32 * number)) as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> impl Iterator<Item = KeyHash> {
        // Keys that differ in a few low bits only, as counters do.
        let count = if cfg!(miri) { 0..64 } else { 0..20_000_u32 };
        count.map(|number| KeyHash::of(7, Realm::DEFAULT, BlockHash::from_u128(u128::from(number))))
    }

    /// Computed from `docs/format.md` by another implementation: the lane of a key must never change.
    #[test]
    fn lanes_are_the_same_for_ever() {
        let named = BlockHash::from_u128(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100);
        for (secret, realm, key, value, lanes) in [
            (0, Realm::DEFAULT, BlockHash::from_u128(0), 0x9098_098c_9951_f3d7_1677_3ceb_7fe4_97b1, [0, 1, 1, 9, 192]),
            (1, Realm::MAX, named, 0x472b_c0f9_0948_78a4_f4a9_be47_b780_9ba1, [0, 0, 0, 4, 94]),
            (
                0x271f_86d1_006a_ada7,
                Realm::from(7),
                BlockHash::of(b"some bytes"),
                0x117e_db0e_f070_5dc5_61c7_0f91_9a1a_f2b4,
                [0, 0, 0, 1, 23],
            ),
        ] {
            let hash = KeyHash::of(secret, realm, key);
            assert_eq!(hash, KeyHash(value));
            assert_eq!([1, 2, 3, 16, 341].map(|count| hash.lane(count)), lanes);
        }
    }

    #[test]
    fn tag_buckets_lane_and_stripe_come_from_their_own_bits() {
        let hash = KeyHash(0x8000_0000_0000_0003_0000_0002_4000_0000);
        assert_eq!(hash.tag(), 0x4000_0000);
        assert_eq!(hash.buckets(0xFF), (2, 3));
        assert_eq!(hash.lane(2), 1);
        assert_eq!(hash.stripe(4), 1);
    }

    #[test]
    fn keys_that_crowd_a_bucket_of_one_store_are_spread_over_those_of_another() {
        const MASK: u32 = 0xFF;
        let buckets = |secret, key| KeyHash::of(secret, Realm::DEFAULT, BlockHash::from_u128(key)).buckets(MASK);
        let tried = if cfg!(miri) { 4096 } else { 400_000 };
        let chosen: Vec<u128> = (0..tried).filter(|key| buckets(7, *key).0 == 5).collect();
        for secret in [6, 8, 7 << 32, u64::MAX] {
            let mut crowds = [0; MASK as usize + 1];
            for key in &chosen {
                crowds[buckets(secret, *key).0 as usize] += 1;
            }
            // Six or so are expected in each.
            let most = crowds.iter().max().unwrap();
            assert!(*most < 8 + chosen.len() / 50, "{most} of {} in one bucket under secret {secret}", chosen.len());
        }
    }

    #[test]
    fn a_tag_is_never_zero() {
        assert_eq!(KeyHash(0).tag(), 1);
        assert_eq!(KeyHash(1 << 32).tag(), 1);
        assert_eq!(KeyHash(u128::MAX).tag(), u32::MAX);
    }

    #[test]
    fn realm_key_and_secret_each_change_the_hash() {
        let of = |secret, realm: u16, key| KeyHash::of(secret, Realm::from(realm), BlockHash::from_u128(key));
        let all = [of(1, 1, 1), of(2, 1, 1), of(1, 2, 1), of(1, 1, 2)];
        for (number, one) in all.iter().enumerate() {
            assert!(all[number + 1..].iter().all(|other| other != one));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many keys to interpret")]
    fn keys_spread_evenly_over_lanes_buckets_and_stripes() {
        let mut counts = [[0_u32; 16]; 4];
        for hash in sample() {
            let (first, second) = hash.buckets(15);
            let places = [usize::from(hash.lane(16)), first as usize, second as usize, hash.stripe(16)];
            for (count, place) in counts.iter_mut().zip(places) {
                count[place] += 1;
            }
        }
        // 1250 each on average, with a standard deviation of 34.
        assert!(counts.iter().flatten().all(|count| (1080..1420).contains(count)), "{counts:?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many keys to interpret")]
    fn the_keys_of_one_lane_use_all_buckets_and_stripes() {
        let mut counts = [[0_u32; 16]; 2];
        for hash in sample().filter(|hash| hash.lane(4) == 1) {
            counts[0][hash.buckets(15).0 as usize] += 1;
            counts[1][hash.stripe(16)] += 1;
        }
        assert!(counts.iter().flatten().all(|count| (220..410).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn every_place_is_in_its_range(bits: u128, log in 0..=32_u32, lanes in 1..=u16::MAX, count in 1..=usize::MAX) {
            let hash = KeyHash(bits);
            let mask = u32::try_from((1_u64 << log) - 1).unwrap();
            let (first, second) = hash.buckets(mask);
            prop_assert!(first <= mask && second <= mask);
            prop_assert_eq!(first == second, mask == 0);
            prop_assert!(hash.tag() != 0 && hash.lane(lanes) < lanes && hash.stripe(count) < count);
            prop_assert_eq!((hash.lane(1), hash.stripe(1)), (0, 0));
        }
    }
}
