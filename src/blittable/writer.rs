//! Writes values into one block.
//!
//! # Invariants
//!
//! 1. A write never fails: the first misuse is kept, and reported by whatever asks for the finished bytes.
#![forbid(unsafe_code)]

use std::fmt;

use bytemuck::NoUninit;

use super::checksum::Regions;
use super::commit::error_at;
use super::delayed::{Delayed, Places};
use super::io::BlittableIo;
use super::parts::Parts;
use super::{BlockSink, MAX_ZERO_SIZED};
use crate::block::Realm;
use crate::error::{BlittableError, BlittableErrorKind};
use crate::sync::Arc;

/// Writes values, one after the other, into one block.
///
/// The methods that write cannot fail: a block that became too large, or a delayed value that was never set, shows at
/// [`commit`](Self::commit). Until then everything is kept in memory: small writes are gathered, a [`Vec`] or an
/// [`Arc`] is taken as it is. A writer may be moved to another thread; dropping one forgets the block.
///
/// What may be written is [`NoUninit`], what may be read is [`CheckedBitPattern`](bytemuck::CheckedBitPattern):
/// integers, floats, `bool`, `char`, arrays of them, and your own types, see below. A block is at most 2^31 - 33 bytes
/// long.
///
/// # Layout
///
/// Integers are little-endian, as are the platforms this crate compiles on: a value is written as it lies in memory.
/// Offsets count from the start of the block, which lies on a page boundary (4096 bytes) where the store lends it from
/// its files. Copies (verified reads, and blocks held while they are gathered) are aligned as the allocator aligns
/// bytes.
///
/// ```text
/// write, write_slice,   the bytes of the values, one after the other, at whatever position;
/// write_vec,            io() writes bytes in the same way
/// write_shared
/// delayed::<T>          the bytes of one T, filled in later
/// align_to::<T>         zeros, up to the next multiple of align_of::<T>()
/// write_str             length in bytes: u32 | that many bytes of UTF-8
/// write_prefixed::<T>   number of elements: u64 | zeros up to align_of::<T>() | elements
/// checksummed           length of the payload in bytes: u64 | payload | XXH3-64 of the payload: u64
/// ```
///
/// # Examples
///
/// The traits are derived through the re-exported `bytemuck`, for types without gaps. In a struct that derives `Pod`
/// every bit pattern is a value; an enum is checked when it is read:
///
/// ```
/// use scratchspace::{BlittableErrorKind, BlittableReader, BlittableWriter, bytemuck};
///
/// #[derive(Clone, Copy, Debug, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
/// #[bytemuck(crate = "scratchspace::bytemuck")]
/// #[repr(C)]
/// struct Reading {
///     value: f32,
///     station: u32,
/// }
///
/// #[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::CheckedBitPattern)]
/// #[bytemuck(crate = "scratchspace::bytemuck")]
/// #[repr(u8)]
/// enum Unit {
///     Kelvin,
///     Celsius,
/// }
///
/// let reading = Reading { value: 21.5, station: 7 };
/// let mut writer = BlittableWriter::detached();
/// writer.write(&reading);
/// writer.write(&Unit::Celsius);
/// let mut bytes = writer.to_bytes()?;
/// bytes.push(2);
///
/// let mut reader = BlittableReader::new(&bytes);
/// assert_eq!(reader.read::<Reading>()?, reading);
/// assert_eq!(reader.read::<Unit>()?, Unit::Celsius);
/// let error = reader.read::<Unit>().unwrap_err();
/// assert!(matches!(error.kind, BlittableErrorKind::BadValue { .. }));
/// # let _ = Unit::Kelvin;
/// # Ok::<(), scratchspace::BlittableError>(())
/// ```
///
/// A struct may hold enums, `bool` and `char` as well, if it derives `CheckedBitPattern`. For a struct, and for an enum
/// with fields, that derive (of `bytemuck_derive` up to 1.12) looks for `bytemuck` in spite of the attribute: such a
/// crate adds `bytemuck` 1 with its feature `derive` to its own dependencies.
///
/// ```
/// # use scratchspace::{BlittableReader, BlittableWriter};
/// #[derive(Clone, Copy, Debug, PartialEq, bytemuck::NoUninit, bytemuck::CheckedBitPattern)]
/// #[repr(C)]
/// struct Sample {
///     value: f32,
///     station: u16,
///     grade: u8,
///     valid: bool,
/// }
///
/// let samples = vec![Sample { value: 21.5, station: 7, grade: 1, valid: true }; 2];
/// let mut writer = BlittableWriter::detached();
/// writer.write_prefixed(&samples);
/// let mut bytes = writer.to_bytes()?;
/// assert_eq!(BlittableReader::new(&bytes).read_prefixed_vec::<Sample>()?, samples);
///
/// bytes[8 + 7] = 2; // neither false nor true
/// assert!(BlittableReader::new(&bytes).read_prefixed_vec::<Sample>().is_err());
/// # Ok::<(), scratchspace::BlittableError>(())
/// ```
///
/// What is known only at the end is written last, into its place at the beginning:
///
/// ```
/// use scratchspace::{BlittableReader, BlittableWriter};
///
/// let mut writer = BlittableWriter::detached();
/// let count = writer.delayed::<u64>();
/// let mut n = 0_u64;
/// for name in ["Ada", "Grace"] {
///     writer.write_str(name);
///     n += 1;
/// }
/// writer.set(count, &n);
/// let bytes = writer.to_bytes()?;
///
/// let mut reader = BlittableReader::new(&bytes);
/// assert_eq!(reader.read::<u64>()?, 2);
/// assert_eq!(reader.read_str()?, "Ada");
/// assert_eq!(reader.read_str()?, "Grace");
/// assert!(reader.is_empty());
/// # Ok::<(), scratchspace::BlittableError>(())
/// ```
#[must_use = "nothing is stored before `commit`"]
pub struct BlittableWriter {
    pub(super) sink: Option<Arc<dyn BlockSink>>,
    pub(super) realm: Realm,
    pub(super) parts: Parts,
    pub(super) regions: Regions,
    pub(super) places: Places,
    pub(super) fault: Option<BlittableError>,
}

impl BlittableWriter {
    /// A writer whose block goes to `sink`.
    pub(crate) fn new(sink: Arc<dyn BlockSink>, realm: Realm) -> Self {
        Self { sink: Some(sink), realm, ..Self::detached() }
    }

    /// A writer without a store: its bytes are taken with [`to_bytes`](Self::to_bytes) or [`dump_to`](Self::dump_to).
    pub fn detached() -> Self {
        Self {
            sink: None,
            realm: Realm::DEFAULT,
            parts: Parts::default(),
            regions: Regions::default(),
            places: Places::default(),
            fault: None,
        }
    }

    /// Bytes written so far; counted on, but not kept, beyond the largest block.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.parts.len()
    }

    /// Whether nothing was written yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the bytes of one value, at whatever position: [`BlittableReader::read`](crate::BlittableReader::read)
    /// needs no alignment.
    pub fn write<T: NoUninit>(&mut self, value: &T) {
        self.parts.append(bytemuck::bytes_of(value));
    }

    /// Copies the bytes of `values`, without their number.
    pub fn write_slice<T: NoUninit>(&mut self, values: &[T]) {
        self.parts.append(bytemuck::cast_slice(values));
    }

    /// Takes `values`, without their number: they are not copied on their way to the disk.
    ///
    /// Reads back like [`write_slice`](Self::write_slice), which is the better choice for a few bytes.
    pub fn write_vec<T: NoUninit + Send + Sync>(&mut self, values: Vec<T>) {
        self.parts.take(Box::new(values));
    }

    /// Takes a share of `values`, without their number: they are not copied on their way to the disk.
    ///
    /// Reads back like [`write_slice`](Self::write_slice).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlittableReader, BlittableWriter};
    /// # use std::sync::Arc;
    /// let samples: Arc<[f32]> = vec![0.5; 1000].into();
    /// let mut writer = BlittableWriter::detached();
    /// writer.write_shared(Arc::clone(&samples));
    /// let bytes = writer.to_bytes()?;
    /// assert_eq!(BlittableReader::new(&bytes).read_vec::<f32>(1000)?, samples[..]);
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn write_shared<T: NoUninit + Send + Sync>(&mut self, values: Arc<[T]>) {
        self.parts.take(Box::new(values));
    }

    /// Writes a string behind its length.
    pub fn write_str(&mut self, string: &str) {
        // A longer string makes the block too large, whatever its length says.
        self.write(&u32::try_from(string.len()).unwrap_or(u32::MAX));
        self.parts.append(string.as_bytes());
    }

    /// Copies `values` behind their number, aligned so that a reader can borrow them.
    ///
    /// The same bytes come from `write(&(n as u64))`, `align_to::<T>()` and [`write_vec`](Self::write_vec), which takes
    /// large slices as they are. More than 65,536 values of a zero-sized type are refused at commit.
    pub fn write_prefixed<T: NoUninit>(&mut self, values: &[T]) {
        if size_of::<T>() == 0 && values.len() > MAX_ZERO_SIZED {
            self.blame(BlittableErrorKind::BadLength { found: values.len() as u64, max: MAX_ZERO_SIZED as u64 });
        }
        self.write(&(values.len() as u64));
        self.align_to::<T>();
        self.write_slice(values);
    }

    /// Fills up with zeros to the next multiple of the alignment of `T`, counted from the start of the block.
    ///
    /// A block starts on a page boundary: up to an alignment of 4096 bytes, the next value is aligned in memory, too,
    /// but in copies: see [Layout](Self#layout).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlittableReader, BlittableWriter};
    /// let mut writer = BlittableWriter::detached();
    /// writer.write(&true);
    /// writer.align_to::<f64>();
    /// writer.write_vec(vec![0.25_f64, 0.5]);
    /// let bytes = writer.to_bytes()?;
    /// assert_eq!(bytes.len(), 8 + 16);
    ///
    /// let mut reader = BlittableReader::new(&bytes);
    /// assert!(reader.read::<bool>()?);
    /// reader.align_to::<f64>()?;
    /// assert_eq!(reader.read_vec::<f64>(2)?, [0.25, 0.5]);
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn align_to<T>(&mut self) {
        let align = align_of::<T>() as u64;
        // An alignment is a power of two.
        let padding = self.len().wrapping_neg() & (align - 1);
        #[expect(clippy::cast_possible_truncation, reason = "less than the alignment, which is a usize")]
        self.parts.append_zeros(padding as usize);
    }

    /// Leaves room for a value that is not known yet: give it to [`set`](Self::set) before the commit.
    pub fn delayed<T: NoUninit>(&mut self) -> Delayed<T> {
        let place = self.places.leave(self.len());
        // One call, so the room lies unbroken in one part that may be patched.
        self.parts.append_zeros(size_of::<T>());
        place
    }

    /// Fills in a value that was [delayed](Self::delayed).
    ///
    /// A handle of another writer changes nothing here, and makes the commit of both writers fail.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::BlittableWriter;
    /// let mut writer = BlittableWriter::detached();
    /// let at = writer.delayed::<u8>();
    /// writer.write(&2_u8);
    /// assert!(writer.to_bytes().is_err());
    /// writer.set(at, &1);
    /// assert_eq!(writer.to_bytes()?, [1, 2]);
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn set<T: NoUninit>(&mut self, at: Delayed<T>, value: &T) {
        match self.places.fill(at) {
            Some(offset) => self.parts.patch(offset, bytemuck::bytes_of(value)),
            None => self.blame(BlittableErrorKind::ForeignHandle),
        }
    }

    /// Runs `write` and puts a length before and a checksum behind everything it writes.
    ///
    /// Regions may be nested. The checksum covers the final bytes: a delayed value inside may be set after the region
    /// has ended.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlittableReader, BlittableWriter};
    /// let mut writer = BlittableWriter::detached();
    /// let at = writer.checksummed(|writer| {
    ///     writer.write_str("checked by itself");
    ///     writer.delayed::<u32>()
    /// });
    /// writer.set(at, &17);
    /// let mut bytes = writer.to_bytes()?;
    ///
    /// let mut region = BlittableReader::new(&bytes).checksummed()?;
    /// assert_eq!(region.read_str()?, "checked by itself");
    /// assert_eq!(region.read::<u32>()?, 17);
    ///
    /// bytes[12] ^= 1;
    /// assert!(BlittableReader::new(&bytes).checksummed().is_err());
    /// # Ok::<(), scratchspace::BlittableError>(())
    /// ```
    pub fn checksummed<R>(&mut self, write: impl FnOnce(&mut Self) -> R) -> R {
        self.regions.open(&mut self.parts);
        let result = write(self);
        // Only a closure that put another writer in this one's place leaves nothing to close.
        if !self.regions.close(&mut self.parts) {
            self.blame(BlittableErrorKind::BrokenRegion);
        }
        result
    }

    /// An [`io::Write`](std::io::Write) that appends to this block; it never fails.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::BlittableWriter;
    /// use std::io::Write;
    ///
    /// let mut writer = BlittableWriter::detached();
    /// write!(writer.io(), "{} blocks", 3)?;
    /// assert_eq!(writer.to_bytes()?, b"3 blocks");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn io(&mut self) -> BlittableIo<'_> {
        BlittableIo::new(&mut self.parts)
    }

    /// Keeps the first fault, for `finish` to report.
    fn blame(&mut self, kind: BlittableErrorKind) {
        let fault = error_at(self.len(), kind);
        self.fault.get_or_insert(fault);
    }
}

impl fmt::Debug for BlittableWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlittableWriter")
            .field("realm", &self.realm)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}
