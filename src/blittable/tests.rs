//! What a writer and a reader promise each other.
#![forbid(unsafe_code)]

use std::io::Write;
use std::mem;
use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::prelude::*;

use super::{BlittableReader, BlittableWriter, BlockSink, Delayed, MAX_ZERO_SIZED, checksum};
use crate::block::{BlockHash, HashKind, MAX_BLOCK, Realm};
use crate::error::{BlittableError, BlittableErrorKind as Kind, CommitError, WriteError};
use crate::sync::{Arc, Mutex};

/// Bytes as the store lends them: on a boundary that suits every type.
struct Aligned(Vec<u128>, usize);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0; bytes.len().div_ceil(16)];
        bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
        Self(words, bytes.len())
    }

    fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.0)[..self.1]
    }
}

/// What a sink was given: realm, key, hash, and address and bytes of each part.
#[derive(Debug, PartialEq)]
struct Stored {
    realm: Realm,
    key: Option<BlockHash>,
    hash: BlockHash,
    parts: Vec<(usize, Vec<u8>)>,
    len: u32,
}

/// Remembers every block, or refuses it.
#[derive(Default)]
struct Sink {
    stored: Mutex<Vec<Stored>>,
    refuse: bool,
}

impl BlockSink for Sink {
    fn hash_kind(&self) -> HashKind {
        HashKind::Xxh3
    }

    fn commit(
        &self,
        realm: Realm,
        key: Option<BlockHash>,
        hash: BlockHash,
        parts: &[&[u8]],
        len: u32,
    ) -> Result<(), WriteError> {
        if self.refuse {
            return Err(WriteError::Closed);
        }
        let parts = parts.iter().map(|part| (part.as_ptr().addr(), part.to_vec())).collect();
        self.stored.lock().push(Stored { realm, key, hash, parts, len });
        Ok(())
    }
}

impl Sink {
    fn writer(self: &Arc<Self>) -> BlittableWriter {
        let sink: Arc<dyn BlockSink> = Arc::<Self>::clone(self);
        BlittableWriter::new(sink, Realm::from(7_u16))
    }

    fn only(&self) -> Stored {
        let mut stored = self.stored.lock();
        assert_eq!(stored.len(), 1);
        stored.remove(0)
    }
}

fn bytes_of(write: impl FnOnce(&mut BlittableWriter)) -> Vec<u8> {
    let mut writer = BlittableWriter::detached();
    write(&mut writer);
    writer.to_bytes().unwrap()
}

fn error<T>(offset: usize, kind: Kind) -> Result<T, BlittableError> {
    Err(BlittableError::new(offset, kind))
}

#[test]
fn layout_is_the_documented_one() {
    let mut expected = Vec::new();
    expected.extend([1_u8]); // write
    expected.extend([2, 0, 0, 0, b'h', b'i']); // write_str
    expected.extend([0; 1]); // align_to::<u32>
    expected.extend([0xdd, 0xcc, 0xbb, 0xaa]); // delayed
    expected.extend([2, 0, 0, 0, 0, 0, 0, 0]); // write_prefixed::<u64>: number,
    expected.extend([0; 4]); // padding,
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]); // elements
    expected.extend([3, 0, 0, 0, 0, 0, 0, 0, 7, 8, 9]); // checksummed: length, payload,
    expected.extend(checksum::of(&[7, 8, 9]).to_le_bytes()); // checksum
    expected.extend([5, 0, 6, 0]); // write_vec, write_shared
    expected.extend(*b"io");

    let bytes = bytes_of(|w| {
        w.write(&true);
        w.write_str("hi");
        w.align_to::<u32>();
        let at = w.delayed::<u32>();
        w.write_prefixed(&[3_u64, 4]);
        w.checksummed(|w| w.write_slice(&[7_u8, 8, 9]));
        w.write_vec(vec![5_u16]);
        w.write_shared(Arc::from([6_u16]));
        w.io().write_all(b"io").unwrap();
        w.set(at, &0xaabb_ccdd);
    });
    assert_eq!(bytes, expected);
}

#[test]
fn commit_hands_over_the_hash_of_all_bytes() {
    let sink = Arc::new(Sink::default());
    let mut writer = sink.writer();
    writer.write(&1_u8);
    writer.write_vec(vec![2_u32; 5000]);
    writer.write_str("end");
    let bytes = writer.to_bytes().unwrap();
    let hash = writer.commit().unwrap();

    let stored = sink.only();
    assert_eq!(hash, BlockHash::of(&bytes));
    assert_eq!((stored.realm, stored.key, stored.hash), (Realm::from(7_u16), None, hash));
    assert_eq!(stored.len as usize, bytes.len());
    assert_eq!(stored.parts.iter().flat_map(|(_, part)| part).copied().collect::<Vec<_>>(), bytes);
}

#[test]
fn named_commit_hands_over_key_and_hash() {
    let sink = Arc::new(Sink::default());
    let mut writer = sink.writer();
    writer.write(&1_u8);
    let key = BlockHash::from_u128(99);
    writer.commit_named(key).unwrap();
    let stored = sink.only();
    assert_eq!((stored.key, stored.hash), (Some(key), BlockHash::of(&[1])));
}

#[test]
fn empty_block_can_be_committed() {
    let sink = Arc::new(Sink::default());
    assert_eq!(sink.writer().commit().unwrap(), BlockHash::of(&[]));
    let stored = sink.only();
    assert_eq!((stored.len, stored.parts.len()), (0, 0));
}

#[test]
fn taken_values_reach_the_sink_without_a_copy() {
    let (values, shared): (Vec<u64>, Arc<[u16]>) = (vec![1; 1000], vec![2; 1000].into());
    let addresses = [values.as_ptr().addr(), shared.as_ptr().addr()];
    let sink = Arc::new(Sink::default());
    let mut writer = sink.writer();
    writer.write(&0_u8);
    writer.write_vec(values);
    writer.write_shared(Arc::clone(&shared));
    writer.commit().unwrap();
    let parts = sink.only().parts;
    assert_eq!(parts.iter().map(|(_, part)| part.len()).collect::<Vec<_>>(), [1, 8000, 2000]);
    assert_eq!([parts[1].0, parts[2].0], addresses);
}

#[test]
fn small_writes_reach_the_sink_as_one_part() {
    let sink = Arc::new(Sink::default());
    let mut writer = sink.writer();
    for n in 0..1000_u32 {
        writer.write(&n);
    }
    writer.commit().unwrap();
    assert_eq!(sink.only().parts.len(), 1);
}

#[test]
fn refusal_of_the_sink_is_returned() {
    let sink = Arc::new(Sink { refuse: true, ..Sink::default() });
    assert_eq!(sink.writer().commit(), Err(CommitError::Write(WriteError::Closed)));
}

#[test]
fn detached_writer_cannot_be_committed() {
    let result = BlittableWriter::detached().commit();
    assert_eq!(result, Err(CommitError::Blittable(BlittableError::new(0, Kind::Detached))));
}

#[test]
fn block_beyond_the_limit_is_refused_and_never_reaches_the_sink() {
    let sink = Arc::new(Sink::default());
    let mut writer = sink.writer();
    let shared: Arc<[u64]> = vec![0; 1 << 22].into();
    for _ in 0..64 {
        writer.write_shared(Arc::clone(&shared));
    }
    let at = writer.delayed::<u64>();
    writer.set(at, &1);
    writer.checksummed(|w| w.write_str("more"));
    let len = writer.len();
    assert_eq!(len, (1 << 31) + 8 + 8 + 8 + 8);
    let too_large = Kind::TooLarge { len, max: u64::from(MAX_BLOCK) };
    assert_eq!(writer.to_bytes(), error(MAX_BLOCK as usize, too_large.clone()));
    let refused = writer.commit();
    assert_eq!(refused, Err(CommitError::Blittable(BlittableError::new(MAX_BLOCK as usize, too_large))));
    assert!(sink.stored.lock().is_empty());
}

#[test]
fn delayed_value_left_unset_is_an_error_at_its_offset() {
    let mut writer = BlittableWriter::detached();
    let (first, second) = (writer.delayed::<u32>(), writer.delayed::<u16>());
    assert_eq!(writer.to_bytes(), error(0, Kind::Unset));
    writer.set(first, &1);
    assert_eq!(writer.to_bytes(), error(4, Kind::Unset));
    writer.set(second, &2);
    assert_eq!(writer.to_bytes().unwrap(), [1, 0, 0, 0, 2, 0]);
}

#[test]
fn delayed_values_survive_any_write_between() {
    let bytes = bytes_of(|w| {
        let first = w.delayed::<u64>();
        w.write_slice(&vec![1_u8; 100_000]);
        let second = w.delayed::<u64>();
        w.write_vec(vec![2_u8; 10]);
        let third = w.delayed::<[u8; 3]>();
        w.set(third, &[3; 3]);
        w.set(first, &u64::MAX);
        w.set(second, &5);
    });
    let mut reader = BlittableReader::new(&bytes);
    assert_eq!(reader.read(), Ok(u64::MAX));
    assert_eq!(reader.read_vec::<u8>(100_000), Ok(vec![1; 100_000]));
    assert_eq!(reader.read(), Ok(5_u64));
    assert_eq!(reader.read_vec::<u8>(10), Ok(vec![2; 10]));
    assert_eq!(reader.read(), Ok([3_u8; 3]));
}

#[test]
fn handle_of_another_writer_is_an_error_in_both() {
    let (mut one, mut other) = (BlittableWriter::detached(), BlittableWriter::detached());
    let (handle, own) = (one.delayed::<u32>(), other.delayed::<u32>());
    other.set(own, &1);
    other.set(handle, &2);
    assert_eq!(one.to_bytes(), error(0, Kind::Unset));
    assert_eq!(other.to_bytes(), error(4, Kind::ForeignHandle));
}

#[test]
fn region_covers_the_final_value_of_a_delayed_one() {
    let mut writer = BlittableWriter::detached();
    let (first, (second, third)) = (
        writer.checksummed(BlittableWriter::delayed::<u32>),
        writer.checksummed(|w| (w.delayed::<u32>(), w.checksummed(BlittableWriter::delayed::<u32>))),
    );
    writer.set(third, &3);
    writer.set(second, &2);
    writer.set(first, &1);
    let bytes = writer.to_bytes().unwrap();
    let mut reader = BlittableReader::new(&bytes);
    assert_eq!(reader.checksummed().unwrap().read(), Ok(1_u32));
    let mut outer = reader.checksummed().unwrap();
    assert_eq!(outer.read(), Ok(2_u32));
    assert_eq!(outer.checksummed().unwrap().read(), Ok(3_u32));
    assert!(reader.is_empty() && outer.is_empty());
}

#[test]
#[cfg_attr(miri, ignore = "too many bytes to interpret")]
fn region_may_hold_taken_and_large_parts() {
    let values: Vec<u32> = (0..50_000).collect();
    let bytes = bytes_of(|w| {
        w.write(&1_u8);
        w.checksummed(|w| {
            w.write_vec(values.clone());
            w.write_slice(&values);
        });
    });
    let mut region = BlittableReader::new(&bytes[1..]).checksummed().unwrap();
    assert_eq!(region.read_vec::<u32>(50_000).unwrap(), values);
    assert_eq!(region.read_vec::<u32>(50_000).unwrap(), values);
    assert!(region.is_empty());
}

#[test]
fn each_flipped_bit_of_a_region_is_noticed() {
    let bytes = bytes_of(|w| w.checksummed(|w| w.write_str("precious")));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        BlittableReader::new(&flipped).checksummed().unwrap_err();
    }
    BlittableReader::new(&bytes).checksummed().unwrap();
}

#[test]
fn writer_replaced_inside_a_region_is_an_error_in_both() {
    let (mut writer, mut other) = (BlittableWriter::detached(), BlittableWriter::detached());
    writer.write(&1_u8);
    writer.checksummed(|w| mem::swap(w, &mut other));
    assert_eq!(writer.to_bytes(), error(0, Kind::BrokenRegion));
    assert_eq!(other.to_bytes(), error(9, Kind::BrokenRegion));
}

#[test]
#[cfg_attr(miri, ignore = "there are no files where it is interpreted")]
fn dump_holds_the_bytes_of_the_block_and_needs_a_complete_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dump");
    let mut writer = BlittableWriter::detached();
    let at = writer.delayed::<u8>();
    writer.checksummed(|w| w.write_vec(vec![1_u16; 3]));
    assert_eq!(writer.dump_to(&path), error(0, Kind::Unset));
    assert!(!path.exists());
    writer.set(at, &9);
    writer.dump_to(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), writer.to_bytes().unwrap());
    let failed = writer.dump_to(folder.path()).unwrap_err();
    assert!(matches!(failed.kind, Kind::Io(_)), "{failed}");
}

#[test]
fn bytes_that_are_no_value_are_refused_with_their_offset() {
    let mut bytes = vec![1_u8, 2, 0, 0];
    bytes.extend(0xd800_u32.to_le_bytes());
    bytes.extend([0; 4]);
    let aligned = Aligned::new(&bytes);
    let mut reader = BlittableReader::new(aligned.bytes());
    reader.skip(1).unwrap();
    assert_eq!(reader.read::<bool>(), error(1, Kind::BadValue { type_name: "bool" }));
    reader.skip(3).unwrap();
    assert_eq!(reader.read::<char>(), error(4, Kind::BadValue { type_name: "char" }));
    reader.skip(4).unwrap();
    assert!(matches!(reader.read::<NonZeroU32>(), Err(BlittableError { offset: 8, kind: Kind::BadValue { .. } })));
    assert_eq!(reader.read(), Ok(0_u32));
}

#[test]
fn first_bad_element_of_a_slice_is_named() {
    let mut bytes = vec![1_u8, 0, 1, 2, 1, 3];
    let bad = || Kind::BadValue { type_name: "bool" };
    assert_eq!(BlittableReader::new(&bytes).read_slice::<bool>(6), error(3, bad()));
    assert_eq!(BlittableReader::new(&bytes).read_vec::<bool>(6), error(3, bad()));
    // The same from a place where chars are not aligned.
    bytes = [0x61, 0x62, 0xd800, 0xd801].iter().fold(vec![0], |mut bytes, char: &u32| {
        bytes.extend(char.to_le_bytes());
        bytes
    });
    let aligned = Aligned::new(&bytes);
    let mut reader = BlittableReader::new(aligned.bytes());
    reader.skip(1).unwrap();
    assert_eq!(reader.read_vec::<char>(4), error(9, Kind::BadValue { type_name: "char" }));
    assert_eq!(reader.read_vec::<char>(2), Ok(vec!['a', 'b']));
}

#[test]
fn misaligned_slice_can_only_be_copied() {
    let aligned = Aligned::new(&[0, 1, 0, 0, 0, 2, 0, 0, 0]);
    let mut reader = BlittableReader::new(aligned.bytes());
    reader.skip(1).unwrap();
    assert_eq!(reader.read_slice::<u32>(2), error(1, Kind::Misaligned { align: 4 }));
    assert_eq!(reader.read_slice::<u32>(0), Ok(&[][..]));
    assert_eq!(reader.clone().read::<u32>(), Ok(1));
    assert_eq!(reader.read_vec::<u32>(2), Ok(vec![1, 2]));
}

#[test]
fn borrowed_values_lie_in_the_block() {
    let aligned = Aligned::new(&bytes_of(|w| {
        w.write_str("abc");
        w.write_prefixed(&[1_u64, 2]);
    }));
    let range = aligned.bytes().as_ptr_range();
    let mut reader = BlittableReader::new(aligned.bytes());
    assert!(range.contains(&reader.read_str().unwrap().as_ptr()));
    let values = reader.read_prefixed::<u64>().unwrap();
    assert_eq!(values, [1, 2]);
    assert!(range.contains(&values.as_ptr().cast()));
}

#[test]
fn prefixed_values_can_be_copied_from_anywhere() {
    let mut bytes = vec![0];
    bytes.extend(bytes_of(|w| w.write_prefixed(&[1_u64, 2])));
    let aligned = Aligned::new(&bytes);
    let mut reader = BlittableReader::new(&aligned.bytes()[1..]);
    assert_eq!(reader.read_prefixed::<u64>(), error(8, Kind::Misaligned { align: 8 }));
    assert_eq!(reader.read_prefixed_vec::<u64>(), Ok(vec![1, 2]));
}

#[test]
fn lengths_beyond_the_block_are_refused() {
    let found = u64::MAX;
    let mut bytes = found.to_le_bytes().to_vec();
    bytes.extend([0; 16]);
    let reader = || BlittableReader::new(&bytes);
    let n = usize::MAX;
    assert_eq!(reader().read_vec::<u8>(n), error(0, Kind::EndOfBlock { wanted: n, remaining: 24 }));
    assert_eq!(reader().read_vec::<u64>(n / 8 + 1), error(0, Kind::EndOfBlock { wanted: n, remaining: 24 }));
    assert_eq!(reader().read_slice::<u64>(4), error(0, Kind::EndOfBlock { wanted: 32, remaining: 24 }));
    assert_eq!(reader().read_slice::<u64>(n), error(0, Kind::EndOfBlock { wanted: n, remaining: 24 }));
    assert_eq!(reader().read_prefixed::<u64>(), error(0, Kind::BadLength { found, max: 2 }));
    assert_eq!(reader().read_prefixed_vec::<[u8; 5]>(), error(0, Kind::BadLength { found, max: 3 }));
    assert_eq!(reader().read_str(), error(0, Kind::BadLength { found: u64::from(u32::MAX), max: 20 }));
    assert!(matches!(reader().checksummed(), Err(BlittableError { kind: Kind::BadLength { max: 8, .. }, .. })));
    assert!(reader().sub_reader(25).is_err() && reader().skip(n).is_err());
}

#[test]
fn zero_sized_values_take_no_bytes_and_have_a_limit() {
    let bytes = bytes_of(|w| {
        w.write(&());
        w.write_prefixed(&[(); 3]);
        w.write_prefixed(&[[0_u64; 0]; 2]);
        let at = w.delayed::<()>();
        w.set(at, &());
    });
    assert_eq!(bytes.len(), 16);
    let mut reader = BlittableReader::new(&bytes);
    assert_eq!(reader.read(), Ok(()));
    assert_eq!(reader.read_prefixed::<()>(), Ok(&[(); 3][..]));
    assert_eq!(reader.read_prefixed_vec::<[u64; 0]>(), Ok(vec![[]; 2]));
    assert_eq!(reader.read_vec::<()>(MAX_ZERO_SIZED).map(|values| values.len()), Ok(MAX_ZERO_SIZED));

    let (found, max) = (u64::MAX, MAX_ZERO_SIZED as u64);
    assert_eq!(reader.read_slice::<()>(usize::MAX), error(16, Kind::BadLength { found, max }));
    assert_eq!(reader.read_vec::<()>(usize::MAX), error(16, Kind::BadLength { found, max }));
    let huge = found.to_le_bytes();
    assert_eq!(BlittableReader::new(&huge).read_prefixed::<()>(), error(0, Kind::BadLength { found, max }));

    let mut writer = BlittableWriter::detached();
    writer.write_prefixed(&[(); MAX_ZERO_SIZED + 1]);
    assert_eq!(writer.to_bytes(), error(0, Kind::BadLength { found: max + 1, max }));
}

#[test]
fn sub_reader_ends_with_its_bytes_and_counts_offsets_from_the_block() {
    let mut bytes = bytes_of(|w| {
        w.write_slice(&[1_u8, 2, 3]);
        w.checksummed(|w| w.write(&true));
    });
    bytes[1] = 9;
    let mut reader = BlittableReader::new(&bytes);
    reader.skip(1).unwrap();
    let mut sub = reader.sub_reader(2).unwrap();
    assert_eq!((sub.offset(), sub.remaining(), reader.offset()), (1, 2, 3));
    assert_eq!(sub.read::<bool>(), error(1, Kind::BadValue { type_name: "bool" }));
    assert_eq!(sub.read::<u32>(), error(1, Kind::EndOfBlock { wanted: 4, remaining: 2 }));
    // Alignment counts from the start of the block, too.
    sub.skip(1).unwrap();
    assert_eq!(sub.align_to::<u16>(), Ok(()));
    let mut region = reader.checksummed().unwrap();
    assert_eq!((region.offset(), region.remaining()), (11, 1));
    region.skip(1).unwrap();
    assert_eq!(region.read::<u8>(), error(12, Kind::EndOfBlock { wanted: 1, remaining: 0 }));
    assert!(reader.is_empty());
}

#[test]
fn padding_that_is_not_zero_is_refused_with_its_offset() {
    let bytes = bytes_of(|w| {
        w.write(&1_u8);
        w.align_to::<u64>();
        w.align_to::<u64>();
        w.write(&2_u64);
    });
    assert_eq!(bytes.len(), 16);
    for at in 1..8 {
        let mut changed = bytes.clone();
        changed[at] = 1;
        let mut reader = BlittableReader::new(&changed);
        reader.skip(1).unwrap();
        assert_eq!(reader.align_to::<u64>(), error(at, Kind::BadPadding));
        assert_eq!(reader.offset(), 1);
    }
    let mut cut = BlittableReader::new(&bytes[..7]);
    cut.skip(1).unwrap();
    assert_eq!(cut.align_to::<u64>(), error(1, Kind::EndOfBlock { wanted: 7, remaining: 6 }));
}

#[test]
fn string_that_is_not_utf8_is_refused_at_the_bad_byte() {
    let mut bytes = bytes_of(|w| w.write_str("abcdef"));
    bytes[7] = 0xff;
    let mut reader = BlittableReader::new(&bytes);
    assert_eq!(reader.read_str(), error(7, Kind::BadUtf8));
    assert_eq!(reader.offset(), 0);
}

#[test]
fn writers_readers_and_handles_move_between_threads() {
    fn assert_moves<T: Send + 'static>() {}
    assert_moves::<BlittableWriter>();
    assert_moves::<Delayed<u64>>();
    assert_moves::<BlittableReader<'static>>();
}

/// One thing to write, and to find again.
#[derive(Clone, Debug)]
enum Op {
    Byte(u8),
    Bool(bool),
    Char(char),
    Wide(u128),
    Slice(Vec<u32>),
    Taken(Vec<u16>),
    Shared(Vec<u64>),
    Str(String),
    Prefixed(Vec<u64>),
    Chars(Vec<char>),
    Align,
    Io(Vec<u8>),
    Delayed(u64),
    Region(Vec<Op>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let leaf = prop_oneof![
        any::<u8>().prop_map(Op::Byte),
        any::<bool>().prop_map(Op::Bool),
        any::<char>().prop_map(Op::Char),
        any::<u128>().prop_map(Op::Wide),
        vec(any::<u32>(), 0..6).prop_map(Op::Slice),
        vec(any::<u16>(), 0..6).prop_map(Op::Taken),
        vec(any::<u64>(), 0..6).prop_map(Op::Shared),
        any::<String>().prop_map(Op::Str),
        vec(any::<u64>(), 0..6).prop_map(Op::Prefixed),
        vec(any::<char>(), 0..6).prop_map(Op::Chars),
        Just(Op::Align),
        vec(any::<u8>(), 0..6).prop_map(Op::Io),
        any::<u64>().prop_map(Op::Delayed),
    ];
    let op = leaf.prop_recursive(3, 24, 4, |inner| vec(inner, 0..4).prop_map(Op::Region));
    vec(op, 0..10)
}

fn write(writer: &mut BlittableWriter, ops: &[Op], delayed: &mut Vec<(Delayed<u64>, u64)>) {
    for op in ops {
        match op {
            Op::Byte(value) => writer.write(value),
            Op::Bool(value) => writer.write(value),
            Op::Char(value) => writer.write(value),
            Op::Wide(value) => writer.write(value),
            Op::Slice(values) => writer.write_slice(values),
            Op::Taken(values) => writer.write_vec(values.clone()),
            Op::Shared(values) => writer.write_shared(Arc::from(&values[..])),
            Op::Str(string) => writer.write_str(string),
            Op::Prefixed(values) => writer.write_prefixed(values),
            Op::Chars(values) => writer.write_prefixed(values),
            Op::Align => writer.align_to::<u128>(),
            Op::Io(bytes) => writer.io().write_all(bytes).unwrap(),
            Op::Delayed(value) => delayed.push((writer.delayed(), *value)),
            Op::Region(ops) => writer.checksummed(|writer| write(writer, ops, delayed)),
        }
    }
}

/// Reads what `ops` wrote. `Ok(true)` if all of it is equal.
fn read(reader: &mut BlittableReader<'_>, ops: &[Op]) -> Result<bool, BlittableError> {
    for op in ops {
        let is_equal = match op {
            Op::Byte(value) => reader.read::<u8>()? == *value,
            Op::Bool(value) => reader.read::<bool>()? == *value,
            Op::Char(value) => reader.read::<char>()? == *value,
            Op::Wide(value) => reader.read::<u128>()? == *value,
            Op::Slice(values) => reader.read_vec::<u32>(values.len())? == *values,
            Op::Taken(values) => reader.read_vec::<u16>(values.len())? == *values,
            Op::Shared(values) => reader.read_vec::<u64>(values.len())? == *values,
            Op::Str(string) => reader.read_str()? == *string,
            Op::Prefixed(values) => reader.read_prefixed::<u64>()? == *values,
            Op::Chars(values) => reader.read_prefixed_vec::<char>()? == *values,
            Op::Align => reader.align_to::<u128>().map(|()| true)?,
            Op::Io(bytes) => reader.read_slice::<u8>(bytes.len())? == *bytes,
            Op::Delayed(value) => reader.read::<u64>()? == *value,
            Op::Region(ops) => {
                let mut region = reader.checksummed()?;
                read(&mut region, ops)? && region.is_empty()
            }
        };
        if !is_equal {
            return Ok(false);
        }
    }
    Ok(true)
}

fn block(ops: &[Op]) -> Vec<u8> {
    let (mut writer, mut delayed) = (BlittableWriter::detached(), Vec::new());
    write(&mut writer, ops, &mut delayed);
    for (at, value) in delayed.into_iter().rev() {
        writer.set(at, &value);
    }
    let bytes = writer.to_bytes().unwrap();
    assert_eq!(bytes.len() as u64, writer.len());
    bytes
}

proptest! {
    #[test]
    fn what_was_written_is_read(ops in ops()) {
        let aligned = Aligned::new(&block(&ops));
        let mut reader = BlittableReader::new(aligned.bytes());
        prop_assert_eq!(read(&mut reader, &ops), Ok(true));
        prop_assert!(reader.is_empty());
        prop_assert_eq!(reader.offset(), aligned.bytes().len());
    }

    #[test]
    fn every_truncated_block_is_an_error(ops in ops()) {
        let aligned = Aligned::new(&block(&ops));
        for len in (0..aligned.bytes().len()).step_by(if cfg!(miri) { 7 } else { 1 }) {
            let error = read(&mut BlittableReader::new(&aligned.bytes()[..len]), &ops).unwrap_err();
            prop_assert!(error.offset <= len, "{} of {}", error.offset, len);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        bytes in vec(prop_oneof![3 => 0..4_u8, 1 => any::<u8>()], 0..200),
        ops in ops(),
        start in 0..16_usize,
    ) {
        let aligned = Aligned::new(&bytes);
        let mut reader = BlittableReader::new(&aligned.bytes()[start.min(bytes.len())..]);
        let mut left = reader.remaining();
        // Operations that fail are passed over; each must leave the reader where it was.
        for op in &ops {
            let before = reader.offset();
            if read(&mut reader, std::slice::from_ref(op)).is_err() {
                prop_assert_eq!(reader.offset(), before);
            }
            prop_assert!(reader.remaining() <= left);
            left = reader.remaining();
        }
    }
}
