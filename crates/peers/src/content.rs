//! Blocks to write, each its own content, and the proof that a block is the one that was asked for.
//!
//! # Invariants
//!
//! 1. All blocks of a length are the same noise but for their number, so the sum over all words tells a block with a wrong
//!    word from the right one, and its first word tells it from all others.
#![forbid(unsafe_code)]

use memmap2::MmapMut;

use crate::store::Failure;

/// One block, at a page of its own, so that it can be stored without the page cache.
#[derive(Debug)]
pub(crate) struct Block(MmapMut);

impl Block {
    pub(crate) fn of(&mut self, number: u64) -> &[u8] {
        benchkit::stamp(&mut self.0, number);
        &self.0
    }
}

/// What the blocks of one length hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    len: usize,
    /// The sum of all words but the first.
    rest: u64,
}

impl Content {
    pub(crate) fn new(len: usize) -> Self {
        let noise = benchkit::noise(len);
        Self { len, rest: sum(&noise).wrapping_sub(sum(&noise[..8])) }
    }

    /// Bytes of a block.
    pub(crate) fn len(self) -> usize {
        self.len
    }

    pub(crate) fn block(self) -> Result<Block, Failure> {
        let mut block = MmapMut::map_anon(self.len)?;
        block.copy_from_slice(&benchkit::noise(self.len));
        Ok(Block(block))
    }

    /// Touches every byte of a block, and says whether it is the right one.
    pub(crate) fn is(self, number: u64, block: &[u8]) -> bool {
        block.len() == self.len && block[..8] == number.to_le_bytes() && sum(block) == self.rest.wrapping_add(number)
    }
}

/// Reads each word once, several at a time: as fast as memory gives them.
fn sum(bytes: &[u8]) -> u64 {
    let mut sums = [0_u64; 8];
    let mut chunks = bytes.chunks_exact(64);
    for chunk in &mut chunks {
        for (sum, word) in sums.iter_mut().zip(chunk.chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
    }
    let rest = chunks.remainder().chunks(8).fold(0_u64, |sum, word| {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        sum.wrapping_add(u64::from_le_bytes(bytes))
    });
    sums.into_iter().fold(rest, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_told_from_another_a_shorter_and_a_damaged_one() {
        for len in [64, 100, 4096, 65536] {
            let content = Content::new(len);
            let mut block = content.block().unwrap();
            assert!(content.is(7, block.of(7)), "{len}");
            assert!(!content.is(8, block.of(7)) && !content.is(7, &block.of(7)[..len - 8]), "{len}");
            for at in [0, 8, len / 2, len - 1] {
                let mut damaged = block.of(7).to_vec();
                damaged[at] ^= 0x10;
                assert!(!content.is(7, &damaged), "byte {at} of {len}");
            }
        }
    }
}
