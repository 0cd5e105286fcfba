//! Files cut into blocks.
//!
//! # Invariants
//!
//! 1. The blocks of a file, one after the other, are its bytes; only the last is shorter than asked for.
//! 2. An empty file is one empty block.
#![forbid(unsafe_code)]

use std::io::{self, Read};

/// Reads `from` to its end and hands it on in blocks of `longest` bytes.
pub(crate) fn cut<E: From<io::Error>>(
    mut from: impl Read,
    longest: usize,
    mut block: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = Vec::new();
    let mut first = true;
    loop {
        buffer.clear();
        from.by_ref().take(longest as u64).read_to_end(&mut buffer)?;
        if buffer.is_empty() && !first {
            return Ok(());
        }
        block(&buffer)?;
        if buffer.len() < longest {
            return Ok(());
        }
        first = false;
    }
}

/// How many blocks a file of `len` bytes gives.
pub(crate) fn count(len: u64, longest: u64) -> u64 {
    len.div_ceil(longest).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_the_bytes_of_the_file_in_order() {
        let bytes: Vec<u8> = (0..=255).collect();
        for len in [0, 1, 9, 10, 11, 20, 256] {
            let mut blocks: Vec<Vec<u8>> = Vec::new();
            let taken: io::Result<()> = cut(&bytes[..len], 10, |block| {
                blocks.push(block.to_vec());
                Ok(())
            });
            taken.unwrap();
            assert_eq!(blocks.concat(), bytes[..len], "{len}");
            assert!(blocks.iter().rev().skip(1).all(|block| block.len() == 10), "{len}");
            assert_eq!(blocks.len() as u64, count(len as u64, 10), "{len}");
        }
    }

    #[test]
    fn an_error_of_the_receiver_ends_the_cutting() {
        let mut calls = 0;
        let failed = cut(&[0; 100][..], 10, |_| {
            calls += 1;
            Err(io::Error::other("full"))
        });
        assert_eq!((failed.unwrap_err().to_string().as_str(), calls), ("full", 1));
    }
}
