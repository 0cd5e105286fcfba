//! What one look at the two buckets of a key has shown, and the candidates in it.
#![forbid(unsafe_code)]

use super::bucket::{Bucket, SLOTS, Word};
use crate::block::BlockAddress;

/// Words in the two buckets of a key.
pub(super) const WAYS: usize = 2 * SLOTS;

/// The words of two buckets, each read once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scan {
    words: [Word; WAYS],
}

impl Scan {
    pub(super) fn new(first: &Bucket, second: &Bucket) -> Self {
        let mut words = [Word::EMPTY; WAYS];
        let (left, right) = words.split_at_mut(SLOTS);
        first.read(left);
        second.read(right);
        Self { words }
    }

    pub(super) fn word(&self, way: usize) -> Word {
        self.words[way]
    }

    /// The words of this tag, without a branch: which of them match cannot be predicted.
    pub(super) fn tagged(&self, tag: u32) -> Ways {
        self.ways(|word| word.tag() == tag)
    }

    /// An empty word in the emptier one of the two buckets.
    pub(super) fn emptiest(&self) -> Option<usize> {
        let empty = self.ways(|word| word == Word::EMPTY).0;
        let (first, second) = (empty & ((1 << SLOTS) - 1), empty >> SLOTS << SLOTS);
        let emptier = if first.count_ones() >= second.count_ones() { first } else { second };
        Ways(emptier).next()
    }

    pub(super) fn candidates(&self, tag: u32) -> Candidates {
        Candidates { ways: self.tagged(tag), addresses: self.words.map(Word::address_bits) }
    }

    fn ways(&self, is: impl Fn(Word) -> bool) -> Ways {
        Ways(self.words.iter().enumerate().fold(0, |ways, (way, &word)| ways | u32::from(is(word)) << way))
    }
}

/// A set of positions in a [`Scan`], and the iterator over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ways(u32);

impl Ways {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn insert(&mut self, way: usize) {
        self.0 |= 1 << way;
    }

    pub(super) fn holds(self, way: usize) -> bool {
        self.0 >> way & 1 == 1
    }
}

#[expect(clippy::copy_iterator, reason = "a bit mask: looping over a copy is the point")]
impl Iterator for Ways {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let way = self.0.trailing_zeros();
        // Clears the lowest bit; 0 stays 0.
        self.0 &= self.0.wrapping_sub(1);
        (way < u32::BITS).then_some(way as usize)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.0.count_ones() as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Ways {}

/// The addresses that may be those of a key: the tag is a hint, the block's entry or record decides.
///
/// None, and none in the other tables of an index that has grown, is a proof that the key was not in the index at some instant of
/// the look-up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidates {
    ways: Ways,
    addresses: [u32; WAYS],
}

impl Candidates {
    /// As of a scan of the two buckets, without one: each word is looked at as it is read.
    #[inline]
    pub(super) fn of(buckets: [&Bucket; 2], tag: u32) -> Self {
        let mut found = Self { ways: Ways::NONE, addresses: [0; WAYS] };
        for (way, address) in found.addresses.iter_mut().enumerate() {
            let word = buckets[way / SLOTS].word(way % SLOTS);
            *address = word.address_bits();
            found.ways.0 |= u32::from(word.tag() == tag) << way;
        }
        found
    }
}

#[expect(clippy::copy_iterator, reason = "a few words that a look-up may want to walk again")]
impl Iterator for Candidates {
    type Item = BlockAddress;

    fn next(&mut self) -> Option<BlockAddress> {
        BlockAddress::from_bits(self.addresses[self.ways.next()?])
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ways.size_hint()
    }
}

impl ExactSizeIterator for Candidates {}
