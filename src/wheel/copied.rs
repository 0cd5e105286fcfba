//! Bytes of a block that were copied out of the store, aligned for every plain value.
#![forbid(unsafe_code)]

use std::ops::{Deref, DerefMut};

/// A copy of a block. It begins where a `u128` may, so that typed values borrow from it as from the block itself.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    words: Vec<u128>,
    len: usize,
}

impl Copied {
    /// As many zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(size_of::<u128>())], len }
    }

    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut copied = Self::zeroed(bytes.len());
        copied.copy_from_slice(bytes);
        copied
    }
}

impl Deref for Copied {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

impl DerefMut for Copied {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.words)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_begins_where_the_widest_value_may() {
        for len in [0, 1, 15, 16, 17, 4097] {
            let bytes: Vec<u8> = (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let copied = Copied::of(&bytes);
            assert_eq!(copied[..], bytes[..]);
            assert!(copied.is_empty() || copied.as_ptr().addr().is_multiple_of(align_of::<u128>()));
        }
    }
}
