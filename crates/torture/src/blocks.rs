//! The bytes of every version of every key, from their numbers alone.
//!
//! # Invariants
//!
//! 1. A block begins with its key's number and its version: whatever is read says what it claims to be, and the rest
//!    of its bytes follows from that.
//! 2. The bytes of a content key are the same in each version, so that its hash can be its name.
#![forbid(unsafe_code)]

use scratchspace::BlockHash;

use crate::dice::Dice;

/// Shortest block: the two numbers it begins with.
pub(crate) const LEAST: usize = 16;

/// What a key's blocks are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    /// Named by its number: each version has other bytes.
    Named,
    /// Named by the hash of its bytes, which never change.
    Content,
}

/// How the blocks of one run look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks {
    seed: u64,
    /// The longest block, at least [`LEAST`].
    most: usize,
    /// Whether every length is as likely as any other, instead of short ones.
    even: bool,
}

impl Blocks {
    pub(crate) fn new(seed: u64, most: usize) -> Self {
        Self { seed, most: most.max(LEAST), even: false }
    }

    /// Blocks that are half as long as the longest on average.
    pub(crate) fn even(seed: u64, most: usize) -> Self {
        Self { even: true, ..Self::new(seed, most) }
    }

    /// Bytes of a version, mostly short, now and then as long as they may be.
    pub(crate) fn len(&self, key: u64, version: u64) -> usize {
        let mut dice = Dice::of(self.seed, &[key, version, 1]);
        let most = match dice.below(16) {
            _ if self.even => self.most,
            0 => self.most,
            1 | 2 => self.most.min(100_000),
            3..=6 => self.most.min(16_384),
            7 => return self.most.min(4096),
            8 => return LEAST,
            _ => self.most.min(4096),
        };
        LEAST + usize::try_from(dice.below((most - LEAST + 1) as u64)).expect("at most a length")
    }

    pub(crate) fn bytes(&self, key: u64, version: u64) -> Vec<u8> {
        let mut bytes = vec![0; self.len(key, version)];
        self.fill(key, version, &mut bytes);
        bytes
    }

    /// Writes what [`bytes`](Self::bytes) gives.
    pub(crate) fn fill(&self, key: u64, version: u64, into: &mut [u8]) {
        let (head, tail) = into.split_at_mut(LEAST);
        head[..8].copy_from_slice(&key.to_le_bytes());
        head[8..].copy_from_slice(&version.to_le_bytes());
        let mut dice = Dice::of(self.seed, &[key, version, 2]);
        for word in tail.chunks_mut(8) {
            word.copy_from_slice(&dice.next().to_le_bytes()[..word.len()]);
        }
    }

    /// The version that `bytes` are of, if they are a block of `key` to the last byte.
    pub(crate) fn version_of(&self, key: u64, bytes: &[u8]) -> Result<u64, String> {
        let number = |at: usize| bytes.get(at..at + 8).map(|word| u64::from_le_bytes(word.try_into().expect("eight")));
        let (Some(of), Some(version)) = (number(0), number(8)) else {
            return Err(format!("{} bytes are too few for any block", bytes.len()));
        };
        if of != key {
            return Err(format!("a block that says it is version {version} of key {of}"));
        }
        let expected = self.len(key, version);
        if bytes.len() != expected {
            return Err(format!("{} bytes of version {version}, which has {expected}", bytes.len()));
        }
        let right = self.bytes(key, version);
        match right.iter().zip(bytes).position(|(right, read)| right != read) {
            None => Ok(version),
            Some(at) => Err(format!("version {version} with other bytes from {at} of {expected} on")),
        }
    }

    /// The name of a key.
    pub(crate) fn hash(&self, key: u64, kind: KeyKind) -> BlockHash {
        match kind {
            KeyKind::Named => BlockHash::from_u128(u128::from(key) << 64 | u128::from(self.seed)),
            KeyKind::Content => BlockHash::of(&self.bytes(key, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_says_what_it_is_and_every_changed_byte_shows() {
        let blocks = Blocks::new(9, 30_000);
        for version in 1..60 {
            let bytes = blocks.bytes(5, version);
            assert_eq!(blocks.version_of(5, &bytes), Ok(version));
            assert!(blocks.version_of(6, &bytes).is_err() && blocks.version_of(5, &bytes[1..]).is_err());
            for at in [0, 8, bytes.len() / 2, bytes.len() - 1] {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert!(blocks.version_of(5, &other).is_err(), "byte {at} of version {version}");
            }
        }
        assert!(Blocks::new(10, 30_000).version_of(5, &blocks.bytes(5, 3)).is_err(), "another seed");
        assert!(blocks.version_of(5, b"short").is_err());
    }
}
