//! A payload, read as typed values in whatever order the bytes say, next to a cursor that only counts.
//!
//! First byte: how far the payload lies from a multiple of 64 (low four bits). Second: how many operations, one byte
//! each, follow. The rest is the payload.
//!
//! # Invariants
//!
//! 1. What is read is what the payload's bytes say at the reader's offset; what fails moves nothing.

use std::fmt::Debug;

use scratchspace::bytemuck::CheckedBitPattern;
use scratchspace::{BlittableError, BlittableReader, BlittableWriter};

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

pub fn run(data: &[u8]) {
    let [start, count, rest @ ..] = data else { return };
    let (operations, payload) = rest.split_at(rest.len().min(usize::from(*count)));
    let payload = &payload[..payload.len().min(1 << 16)];
    let skew = usize::from(start & 15);
    let mut lines = vec![Line([0; 64]); (payload.len() + skew).div_ceil(64) + 1];
    let lined: Vec<u8> = [&vec![0; skew][..], payload].concat();
    for (line, bytes) in lines.iter_mut().zip(lined.chunks(64)) {
        line.0[..bytes.len()].copy_from_slice(bytes);
    }
    // The payload where it was asked to lie.
    let lines: &[u8] = lines.as_slice().as_flattened_bytes();
    let bytes = &lines[skew..skew + payload.len()];
    read_all(bytes, operations);
    reads_back_what_was_written(payload, operations);
}

trait AsFlattenedBytes {
    fn as_flattened_bytes(&self) -> &[u8];
}

impl AsFlattenedBytes for [Line] {
    fn as_flattened_bytes(&self) -> &[u8] {
        // SAFETY: a line is 64 initialised bytes without padding.
        unsafe { std::slice::from_raw_parts(self.as_ptr().cast(), size_of_val(self)) }
    }
}

fn read_all(bytes: &[u8], operations: &[u8]) {
    let mut readers = vec![BlittableReader::new(bytes)];
    for pair in operations.chunks(2) {
        let (operation, n) = (pair[0], pair.get(1).copied().unwrap_or(0));
        let reader = readers.last_mut().expect("never empty");
        let (offset, remaining) = (reader.offset(), reader.remaining());
        let here = &bytes[offset..offset + remaining];
        let result = step(reader, here, operation, usize::from(n));
        match result {
            Ok(inner) => {
                let moved = reader.offset() - offset;
                assert_eq!(reader.remaining() + moved, remaining, "operation {operation} at {offset}");
                if let Some(inner) = inner {
                    assert!(inner.offset() >= offset && inner.offset() + inner.remaining() <= reader.offset());
                    readers.push(inner);
                }
            }
            Err(error) => {
                assert_eq!((reader.offset(), reader.remaining()), (offset, remaining), "{error} has moved");
                assert!(error.offset <= bytes.len() && !error.to_string().is_empty(), "{error}");
                if operation % 5 == 0 && readers.len() > 1 {
                    readers.pop();
                }
            }
        }
    }
}

/// A value and the bytes that it stands for.
fn value<T: CheckedBitPattern + Debug>(reader: &mut BlittableReader<'_>, here: &[u8]) -> Result<(), BlittableError> {
    let value = reader.read::<T>()?;
    assert_eq!(bytes_of(&[value]), here[..size_of::<T>()]);
    Ok(())
}

fn many<T: CheckedBitPattern + Debug>(
    reader: &mut BlittableReader<'_>,
    here: &[u8],
    n: usize,
) -> Result<(), BlittableError> {
    let copied = reader.clone().read_vec::<T>(n);
    let borrowed = reader.clone().read_slice::<T>(n);
    if let (Ok(copied), Ok(borrowed)) = (&copied, &borrowed) {
        assert_eq!(bytes_of(copied), bytes_of(borrowed));
    }
    assert!(copied.is_ok() || borrowed.is_err(), "what can be borrowed can be copied");
    let values = reader.read_vec::<T>(n)?;
    assert_eq!(values.len(), n);
    assert_eq!(bytes_of(&values), here[..n * size_of::<T>()]);
    Ok(())
}

fn prefixed<T: CheckedBitPattern + Debug>(reader: &mut BlittableReader<'_>) -> Result<(), BlittableError> {
    let borrowed = reader.clone().read_prefixed::<T>().map(bytes_of);
    let copied = reader.read_prefixed_vec::<T>()?;
    assert!(borrowed.is_err() || borrowed == Ok(bytes_of(&copied)));
    Ok(())
}

/// The bytes of values that have no padding.
fn bytes_of<T: CheckedBitPattern>(values: &[T]) -> Vec<u8> {
    // SAFETY: only types without padding are used here.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size_of_val(values)) }.to_vec()
}

fn step<'a>(
    reader: &mut BlittableReader<'a>,
    here: &[u8],
    operation: u8,
    n: usize,
) -> Result<Option<BlittableReader<'a>>, BlittableError> {
    match operation % 24 {
        0 => value::<u8>(reader, here)?,
        1 => value::<u16>(reader, here)?,
        2 => value::<u64>(reader, here)?,
        3 => value::<u128>(reader, here)?,
        4 => value::<bool>(reader, here)?,
        5 => value::<char>(reader, here)?,
        6 => value::<[u16; 3]>(reader, here)?,
        7 => value::<()>(reader, here)?,
        8 => many::<u8>(reader, here, n)?,
        9 => many::<u32>(reader, here, n)?,
        10 => many::<u64>(reader, here, n << 56 | n)?,
        11 => many::<bool>(reader, here, n)?,
        12 => many::<char>(reader, here, n)?,
        13 => many::<()>(reader, here, n << 9)?,
        14 => {
            let string = reader.read_str()?;
            assert_eq!(string.as_bytes(), &here[4..4 + string.len()]);
        }
        15 => prefixed::<u8>(reader)?,
        16 => prefixed::<u64>(reader)?,
        17 => prefixed::<bool>(reader)?,
        18 => prefixed::<()>(reader)?,
        19 => return reader.sub_reader(n).map(Some),
        20 => reader.skip(n)?,
        21 => reader.align_to::<u128>()?,
        22 => return reader.checksummed().map(Some),
        _ => reader.align_to::<u16>()?,
    }
    Ok(None)
}

/// Values drawn from the payload come back, and a region with a bit changed does not.
fn reads_back_what_was_written(payload: &[u8], operations: &[u8]) {
    let mut writer = BlittableWriter::detached();
    let text = String::from_utf8_lossy(payload).into_owned();
    let words: Vec<u64> = payload.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8"))).collect();
    for operation in operations {
        match operation % 4 {
            0 => writer.write_str(&text),
            1 => writer.write_prefixed(&words),
            2 => writer.checksummed(|writer| writer.write_slice(payload)),
            _ => writer.write(operation),
        }
    }
    let bytes = writer.to_bytes().expect("small");
    let mut reader = BlittableReader::new(&bytes);
    let mut region = None;
    for operation in operations {
        match operation % 4 {
            0 => assert_eq!(reader.read_str(), Ok(&*text)),
            1 => assert_eq!(reader.read_prefixed_vec::<u64>(), Ok(words.clone())),
            2 => {
                region = Some(reader.offset());
                let mut inner = reader.checksummed().expect("just written");
                assert_eq!(inner.read_slice::<u8>(payload.len()), Ok(payload));
            }
            _ => assert_eq!(reader.read::<u8>(), Ok(*operation)),
        }
    }
    assert!(reader.is_empty());
    if let (Some(at), Some(bit)) = (region, operations.first()) {
        let mut changed = bytes[at..].to_vec();
        let bits = (payload.len() + 16) * 8;
        let bit = usize::from(*bit) * 7919 % bits;
        changed[bit / 8] ^= 1 << (bit % 8);
        BlittableReader::new(&changed).checksummed().expect_err("a bit has changed");
    }
}
