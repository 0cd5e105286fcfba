//! The block as a sink of plain bytes, for code that knows [`Write`] only.
#![forbid(unsafe_code)]

use std::io::{self, Write};

use super::parts::Parts;

/// Appends to a block what is written to it: see [`BlittableWriter::io`](crate::BlittableWriter::io).
#[derive(Debug)]
pub struct BlittableIo<'w> {
    parts: &'w mut Parts,
}

impl<'w> BlittableIo<'w> {
    pub(super) fn new(parts: &'w mut Parts) -> Self {
        Self { parts }
    }
}

impl Write for BlittableIo<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.parts.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
