//! Reads values back from the bytes of a block, each checked before it is given out.
#![forbid(unsafe_code)]

use std::any::type_name;
use std::fmt;

use bytemuck::checked::{self, CheckedBitPattern, CheckedCastError};

use super::{MAX_ZERO_SIZED, checksum};
use crate::error::{BlittableError, BlittableErrorKind};

/// Walks over the bytes of a block and gives back the values a [`BlittableWriter`](crate::BlittableWriter) wrote.
///
/// Read in the order in which you wrote, with the same types: the bytes do not say what they are. Whatever they hold, a
/// read returns a valid value or an error, never panics, and allocates no more than the block is long. After an error
/// the reader stands where it stood before.
///
/// Offsets, in errors too, count from the start of the bytes given to [`new`](Self::new). Slices are borrowed from
/// these bytes, which must lie in memory as the writer aligned them: blocks that the store lends start on a page
/// boundary, copies of them ([`read`](crate::Scratch::read) and [`get`](crate::Scratch::get) say when) at a multiple of
/// 16 bytes.
///
/// # Examples
///
/// ```
/// use scratchspace::{BlittableErrorKind, BlittableReader};
///
/// let mut reader = BlittableReader::new(&[7, 0, 1, 2]);
/// assert_eq!(reader.read::<u16>()?, 7);
/// assert!(reader.read::<bool>()?);
/// let error = reader.read::<bool>().unwrap_err();
/// assert_eq!(error.offset, 3);
/// assert_eq!(error.kind, BlittableErrorKind::BadValue { type_name: "bool" });
/// assert_eq!(reader.read::<u8>()?, 2);
/// # Ok::<(), scratchspace::BlittableError>(())
/// ```
#[derive(Clone)]
pub struct BlittableReader<'a> {
    /// What is left.
    bytes: &'a [u8],
    /// Where it begins.
    offset: usize,
}

impl<'a> BlittableReader<'a> {
    /// Reads `bytes` from their beginning.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// Bytes from the start of the block to the next value.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// Bytes that were not read yet.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.bytes.len()
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads one value, wherever it lies.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::EndOfBlock`] if the block ends before the value does, [`BlittableErrorKind::BadValue`] if
    /// its bytes are no `T`.
    pub fn read<T: CheckedBitPattern>(&mut self) -> Result<T, BlittableError> {
        let value = value_in(self.peek(size_of::<T>())?, self.offset)?;
        self.advance(size_of::<T>());
        Ok(value)
    }

    /// Reads `n` values, copied, wherever they lie.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::EndOfBlock`] if the block ends before the values do, before anything is allocated;
    /// [`BlittableErrorKind::BadValue`] at the first that is no `T`; [`BlittableErrorKind::BadLength`] if `T` takes no
    /// bytes and `n` is above 65,536.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::BlittableReader;
    /// let mut reader = BlittableReader::new(&[0, 1, 0, 2, 0]);
    /// reader.skip(1)?;
    /// assert!(reader.read_vec::<u16>(usize::MAX).is_err());
    /// assert_eq!(reader.read_vec::<u16>(2)?, [1, 2]);
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn read_vec<T: CheckedBitPattern>(&mut self, n: usize) -> Result<Vec<T>, BlittableError> {
        let bytes = self.peek_values::<T>(n)?;
        let values = if let Some(values) = cast(bytes, n, self.offset)? {
            values.to_vec()
        } else {
            let mut values = Vec::with_capacity(n);
            for at in (0..n).map(|i| i * size_of::<T>()) {
                values.push(value_in(&bytes[at..at + size_of::<T>()], self.offset + at)?);
            }
            values
        };
        self.advance(bytes.len());
        Ok(values)
    }

    /// Reads `n` values, borrowed from the block.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::Misaligned`] if the values do not lie where a slice of `T` may: write with `align_to`, or
    /// use [`read_vec`](Self::read_vec). Else as `read_vec`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::BlittableReader;
    /// let mut reader = BlittableReader::new(b"abcdef");
    /// assert_eq!(reader.read_slice::<u8>(4)?, b"abcd");
    /// assert!(reader.read_slice::<u8>(3).is_err());
    /// assert_eq!(reader.read_slice::<u8>(2)?, b"ef");
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn read_slice<T: CheckedBitPattern>(&mut self, n: usize) -> Result<&'a [T], BlittableError> {
        let bytes = self.peek_values::<T>(n)?;
        let values = cast(bytes, n, self.offset)?
            .ok_or(BlittableError::new(self.offset, BlittableErrorKind::Misaligned { align: align_of::<T>() }))?;
        self.advance(bytes.len());
        Ok(values)
    }

    /// Reads a string, borrowed from the block.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::EndOfBlock`] if there is no length, [`BlittableErrorKind::BadLength`] if it leads beyond
    /// the block, [`BlittableErrorKind::BadUtf8`] at the first byte that is not UTF-8.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlittableErrorKind, BlittableReader};
    /// let mut reader = BlittableReader::new(b"\x03\0\0\0abc\xff\xff\xff\xff");
    /// assert_eq!(reader.read_str()?, "abc");
    /// let error = reader.read_str().unwrap_err();
    /// assert_eq!((error.offset, error.kind), (7, BlittableErrorKind::BadLength { found: 0xffff_ffff, max: 0 }));
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn read_str(&mut self) -> Result<&'a str, BlittableError> {
        let mut next = self.clone();
        let len = next.read::<u32>()?;
        let bytes = next.bytes_behind(self.offset, u64::from(len), 0)?;
        let string = str::from_utf8(bytes).map_err(|error| {
            BlittableError::new(next.offset - bytes.len() + error.valid_up_to(), BlittableErrorKind::BadUtf8)
        })?;
        *self = next;
        Ok(string)
    }

    /// Reads the values of one `write_prefixed`, borrowed from the block.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::BadLength`] if their number leads beyond the block, [`BlittableErrorKind::BadPadding`] if
    /// what lies between it and them is not zero; else as [`read_slice`](Self::read_slice).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlittableReader, BlittableWriter};
    /// let mut writer = BlittableWriter::detached();
    /// writer.write_prefixed(&[true, false]);
    /// let bytes = writer.to_bytes()?;
    /// assert_eq!(BlittableReader::new(&bytes).read_prefixed::<bool>()?, [true, false]);
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn read_prefixed<T: CheckedBitPattern>(&mut self) -> Result<&'a [T], BlittableError> {
        let (mut next, n) = self.prefix::<T>()?;
        let values = next.read_slice(n)?;
        *self = next;
        Ok(values)
    }

    /// Reads the values of one `write_prefixed`, copied, wherever the block lies in memory.
    ///
    /// # Errors
    ///
    /// As [`read_prefixed`](Self::read_prefixed), but never [`BlittableErrorKind::Misaligned`].
    pub fn read_prefixed_vec<T: CheckedBitPattern>(&mut self) -> Result<Vec<T>, BlittableError> {
        let (mut next, n) = self.prefix::<T>()?;
        let values = next.read_vec(n)?;
        *self = next;
        Ok(values)
    }

    /// A reader of the next `n` bytes only; this one goes on behind them.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::EndOfBlock`] if there are fewer.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::BlittableReader;
    /// let mut reader = BlittableReader::new(&[1, 2, 3]);
    /// let mut two = reader.sub_reader(2)?;
    /// assert_eq!(reader.read::<u8>()?, 3);
    /// assert_eq!(two.read::<[u8; 2]>()?, [1, 2]);
    /// assert_eq!(two.read::<u8>().unwrap_err().offset, 2);
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn sub_reader(&mut self, n: usize) -> Result<BlittableReader<'a>, BlittableError> {
        let sub = Self { bytes: self.peek(n)?, offset: self.offset };
        self.advance(n);
        Ok(sub)
    }

    /// Passes over `n` bytes.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::EndOfBlock`] if there are fewer.
    pub fn skip(&mut self, n: usize) -> Result<(), BlittableError> {
        self.sub_reader(n).map(drop)
    }

    /// Passes over the zeros up to the next multiple of the alignment of `T`, counted from the start of the block.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::EndOfBlock`] if the block ends before, [`BlittableErrorKind::BadPadding`] at the first
    /// byte that is not zero.
    pub fn align_to<T>(&mut self) -> Result<(), BlittableError> {
        // An alignment is a power of two.
        let padding = self.peek(self.offset.wrapping_neg() & (align_of::<T>() - 1))?;
        if let Some(at) = padding.iter().position(|byte| *byte != 0) {
            return Err(BlittableError::new(self.offset + at, BlittableErrorKind::BadPadding));
        }
        self.advance(padding.len());
        Ok(())
    }

    /// A reader of the next checksummed region, all of it compared with its checksum; this one goes on behind it.
    ///
    /// # Errors
    ///
    /// [`BlittableErrorKind::EndOfBlock`] if there is no length or no checksum, [`BlittableErrorKind::BadLength`] if
    /// the length leads beyond the block, [`BlittableErrorKind::Checksum`] if the bytes are not those that were
    /// written.
    pub fn checksummed(&mut self) -> Result<BlittableReader<'a>, BlittableError> {
        let mut next = self.clone();
        let len = next.read::<u64>()?;
        let payload = next.bytes_behind(self.offset, len, checksum::LEN)?;
        let region = Self { bytes: payload, offset: next.offset - payload.len() };
        let expected = next.read::<u64>()?;
        if checksum::of(payload) != expected {
            return Err(BlittableError::new(region.offset + payload.len(), BlittableErrorKind::Checksum));
        }
        *self = next;
        Ok(region)
    }

    /// The number of values in a prefixed slice, and a reader that stands before them.
    fn prefix<T>(&self) -> Result<(Self, usize), BlittableError> {
        let mut next = self.clone();
        let found = next.read::<u64>()?;
        next.align_to::<T>()?;
        let max = next.bytes.len().checked_div(size_of::<T>()).unwrap_or(MAX_ZERO_SIZED);
        match usize::try_from(found) {
            Ok(n) if n <= max => Ok((next, n)),
            _ => Err(bad_length(self.offset, found, max)),
        }
    }

    /// Passes over `len` bytes, a length found at `offset`, behind which `spare` bytes must be left.
    fn bytes_behind(&mut self, offset: usize, len: u64, spare: usize) -> Result<&'a [u8], BlittableError> {
        let max = self.bytes.len().saturating_sub(spare);
        match usize::try_from(len) {
            Ok(len) if len <= max => Ok(self.sub_reader(len)?.bytes),
            _ => Err(bad_length(offset, len, max)),
        }
    }

    /// The bytes of the next `n` values.
    fn peek_values<T>(&self, n: usize) -> Result<&'a [u8], BlittableError> {
        if size_of::<T>() == 0 && n > MAX_ZERO_SIZED {
            return Err(bad_length(self.offset, n as u64, MAX_ZERO_SIZED));
        }
        // No slice is usize::MAX long, so a product too large for a usize is refused as well.
        self.peek(n.saturating_mul(size_of::<T>()))
    }

    fn peek(&self, n: usize) -> Result<&'a [u8], BlittableError> {
        let end = BlittableErrorKind::EndOfBlock { wanted: n, remaining: self.bytes.len() };
        self.bytes.get(..n).ok_or(BlittableError::new(self.offset, end))
    }

    /// Passes over bytes that were peeked at.
    fn advance(&mut self, n: usize) {
        self.bytes = &self.bytes[n..];
        self.offset += n;
    }
}

impl fmt::Debug for BlittableReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlittableReader").field("offset", &self.offset).field("remaining", &self.bytes.len()).finish()
    }
}

fn bad_length(offset: usize, found: u64, max: usize) -> BlittableError {
    BlittableError::new(offset, BlittableErrorKind::BadLength { found, max: max as u64 })
}

/// The value that these bytes are; they lie at `offset`.
fn value_in<T: CheckedBitPattern>(bytes: &[u8], offset: usize) -> Result<T, BlittableError> {
    checked::try_pod_read_unaligned(bytes)
        .map_err(|_| BlittableError::new(offset, BlittableErrorKind::BadValue { type_name: type_name::<T>() }))
}

/// The `n` values that these bytes are, or `None` if the bytes do not lie where a slice of `T` may.
fn cast<T: CheckedBitPattern>(bytes: &[u8], n: usize, offset: usize) -> Result<Option<&[T]>, BlittableError> {
    /// Zero-sized values are borrowed from here: they have no bytes in the block.
    static NOTHING: [[u128; 0]; MAX_ZERO_SIZED] = [[]; MAX_ZERO_SIZED];
    let cast = match (n, size_of::<T>()) {
        (0, _) => return Ok(Some(&[])),
        (_, 0) => checked::try_cast_slice(&NOTHING[..n]),
        _ => checked::try_cast_slice(bytes),
    };
    match cast {
        Ok(values) => Ok(Some(values)),
        Err(CheckedCastError::PodCastError(_)) => Ok(None),
        Err(CheckedCastError::InvalidBitPattern) => {
            // One of them is no value; look for the first.
            for at in (0..n).map(|i| i * size_of::<T>()) {
                value_in::<T>(&bytes[at..at + size_of::<T>()], offset + at)?;
            }
            Err(BlittableError::new(offset, BlittableErrorKind::BadValue { type_name: type_name::<T>() }))
        }
    }
}
