//! Regions of a block that carry their own checksum.
//!
//! The store checks a block as a whole where it must; a region is for what a reader wants to check by itself: a part of
//! a large block, or a copy that went through other hands.
//!
//! # Invariants
//!
//! 1. Regions are closed in the reverse order in which they were opened; the list of closed ones is in the order of
//!    closing, so that the checksum of an inner region is in place before the outer one is summed up.
//! 2. A checksum is computed over final bytes: once nothing in the block changes any more.
#![forbid(unsafe_code)]

use std::hash::Hasher;
use std::ops::Range;

use twox_hash::XxHash3_64;

use super::parts::Parts;

/// Bytes of the length in front of the payload, and of the checksum behind it.
pub(super) const LEN: usize = size_of::<u64>();

/// The checksum of a payload that lies in one piece.
pub(super) fn of(payload: &[u8]) -> u64 {
    XxHash3_64::oneshot(payload)
}

/// The regions of one block that is being written.
#[derive(Debug, Default)]
pub(super) struct Regions {
    /// Where the payloads of the regions not yet closed begin, outermost first.
    open: Vec<u64>,
    /// The payloads of the closed regions.
    closed: Vec<Range<u64>>,
}

impl Regions {
    /// Begins a region at the end of `parts`.
    pub(super) fn open(&mut self, parts: &mut Parts) {
        parts.append(&[0; LEN]);
        self.open.push(parts.len());
    }

    /// Ends the innermost region at the end of `parts`. Returns false if none is open.
    pub(super) fn close(&mut self, parts: &mut Parts) -> bool {
        let Some(start) = self.open.pop() else { return false };
        let payload = start..parts.len();
        parts.patch(start - LEN as u64, &(payload.end - start).to_le_bytes());
        parts.append(&[0; LEN]);
        self.closed.push(payload);
        true
    }

    /// Where the payload of the innermost open region begins.
    pub(super) fn innermost(&self) -> Option<u64> {
        self.open.last().copied()
    }

    /// Puts the checksum of each closed region in its place. May be repeated after a change.
    pub(super) fn sum_up(&self, parts: &mut Parts) {
        for payload in &self.closed {
            let mut hasher = XxHash3_64::new();
            parts.for_each(payload.clone(), |bytes| hasher.write(bytes));
            parts.patch(payload.end, &hasher.finish().to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_plain_xxh3_64() {
        // The published check value of XXH3-64 with seed 0.
        assert_eq!(of(b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn region_without_a_beginning_cannot_be_closed() {
        let (mut regions, mut parts) = (Regions::default(), Parts::default());
        assert!(!regions.close(&mut parts));
        assert_eq!(parts.len(), 0);
    }

    #[test]
    fn summing_up_again_follows_a_change() {
        let (mut regions, mut parts) = (Regions::default(), Parts::default());
        regions.open(&mut parts);
        parts.append(b"first");
        assert!(regions.close(&mut parts));
        regions.sum_up(&mut parts);
        let first = parts.to_vec();
        assert_eq!(first[13..], of(b"first").to_le_bytes());
        parts.patch(8, b"other");
        regions.sum_up(&mut parts);
        assert_eq!(parts.to_vec()[13..], of(b"other").to_le_bytes());
    }
}
