//! What every [`FileSource`] promises, as code. Each source runs it from its own tests.

use std::collections::BTreeSet;
use std::io;

use super::{FileMemory, FileSource, Found};
use crate::block::{FileId, PAGE_SIZE};
use crate::error::OpenError;
use crate::sync::{Arc, thread};

/// Opens the same files each time.
type Open<'a> = &'a dyn Fn() -> Box<dyn FileSource>;

/// Runs everything a single owner is promised. `open` opens the same files each time, at least three pages long.
pub(crate) fn check_file_source(open: impl Fn() -> Box<dyn FileSource>) {
    let facts: [fn(Open<'_>); 16] = [
        a_store_keeps_its_identity,
        files_have_different_places,
        a_created_file_reads_as_zeros_behind_its_header,
        a_header_longer_than_a_page_creates_nothing,
        creating_a_file_that_is_there_leaves_it_alone,
        recreating_a_deleted_file_erases_it,
        deleting_a_missing_file_is_fine,
        memory_of_a_deleted_file_stays_readable,
        an_unnamed_file_is_like_one_that_was_deleted,
        what_is_stored_is_seen_through_base_and_load,
        many_parts_are_stored_in_their_order,
        out_of_bounds_is_an_error_and_changes_nothing,
        stores_to_different_bytes_run_at_the_same_time,
        hints_change_nothing_and_accept_any_range,
        scan_finds_what_was_created_and_nothing_else,
        a_marked_file_is_found_suspect_until_it_is_made_anew,
    ];
    for fact in facts {
        delete_all(&*open());
        fact(&open);
    }
    delete_all(&*open());
}

/// Runs what is promised about owners. `try_open` opens and scans the same files each time.
pub(crate) fn check_owner(try_open: impl Fn() -> Result<Box<dyn FileSource>, OpenError>) {
    let assert_in_use = |why: &str| {
        let second = try_open();
        assert!(matches!(second, Err(OpenError::InUse { .. })), "{why}: {second:?}");
    };
    let source = try_open().unwrap();
    assert_in_use("while the first source lives");
    let memory = source.create(file(1), b"header").unwrap();
    let found = source.scan().unwrap();
    drop(source);
    assert_in_use("while memory lives that was created");
    drop(memory);
    assert_in_use("while memory lives that was found");
    drop(found);
    try_open().unwrap().delete(file(1)).unwrap();
}

fn file(number: u16) -> FileId {
    FileId::new(number).unwrap()
}

fn delete_all(source: &dyn FileSource) {
    for Found { file, .. } in source.scan().unwrap() {
        source.delete(file).unwrap();
    }
}

/// The whole file, by `load` and through `base`, which must agree.
fn contents(memory: &dyn FileMemory) -> Vec<u8> {
    let len = usize::try_from(memory.size().get()).unwrap();
    let mut loaded = vec![0xee; len];
    memory.load(0, &mut loaded).unwrap();
    // SAFETY: `base` is valid for reads of `size` bytes; no test stores while it looks.
    let lent = unsafe { std::slice::from_raw_parts(memory.base().as_ptr(), len) };
    assert!(loaded == lent, "load and base do not agree");
    loaded
}

/// A pattern that differs from byte to byte and from seed to seed.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..251_u8).map(|at| at.wrapping_mul(7) ^ seed).cycle().take(len).collect()
}

fn a_marked_file_is_found_suspect_until_it_is_made_anew(open: Open<'_>) {
    let suspects = || {
        let found = open().scan().unwrap();
        let of = |found: &Found| (found.file.get(), found.memory.is_suspect(), contents(&*found.memory)[..6].to_vec());
        found.iter().map(of).collect::<Vec<_>>()
    };
    let header = || b"header".to_vec();
    {
        let source = open();
        for number in [1, 2] {
            assert!(!source.create(file(number), b"header").unwrap().is_suspect());
        }
        for number in [2, 2, 3] {
            source.mark_suspect(file(number)).unwrap();
        }
        assert_eq!(source.create(file(2), b"other").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }
    for _ in 0..2 {
        assert_eq!(suspects(), [(1, false, header()), (2, true, header())]);
    }
    open().delete(file(2)).unwrap();
    assert!(!open().create(file(2), b"header").unwrap().is_suspect());
    assert_eq!(suspects(), [(1, false, header()), (2, false, header())]);
}

fn a_store_keeps_its_identity(open: Open<'_>) {
    let shape =
        |source: &dyn FileSource| (source.store_id(), source.file_size(), source.folders(), source.files_per_folder());
    let first = shape(&*open());
    assert_eq!(shape(&*open()), first);
    assert!(first.2 >= 1 && first.3 >= 3);
}

fn files_have_different_places(open: Open<'_>) {
    let source = open();
    let places: Vec<_> = (1..=FileId::MAX).filter_map(|number| source.describe(file(number))).collect();
    let different: BTreeSet<_> = places.iter().collect();
    assert!(places.is_empty() || different.len() == usize::from(FileId::MAX));
    for (at, place) in places.iter().enumerate() {
        let same_folder = place.parent() == places[0].parent();
        assert_eq!(same_folder, at % usize::from(source.folders()) == 0, "file n lies in folder (n - 1) % folders");
    }
}

fn a_created_file_reads_as_zeros_behind_its_header(open: Open<'_>) {
    let source = open();
    for (number, header) in [(1, pattern(1, 4096)), (2, b"short".to_vec()), (3, Vec::new())] {
        let memory = source.create(file(number), &header).unwrap();
        assert_eq!(memory.size(), source.file_size());
        assert!(memory.base().addr().get().is_multiple_of(4096));
        let bytes = contents(&*memory);
        assert_eq!(bytes[..header.len()], header);
        assert!(bytes[header.len()..].iter().all(|&byte| byte == 0));
    }
}

fn a_header_longer_than_a_page_creates_nothing(open: Open<'_>) {
    let source = open();
    let error = source.create(file(1), &[1; 4097]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(source.scan().unwrap().is_empty());
}

fn creating_a_file_that_is_there_leaves_it_alone(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), b"first").unwrap();
    assert_eq!(source.create(file(1), b"second").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(&contents(&*memory)[..6], b"first\0");
    let found = source.scan().unwrap();
    assert_eq!(&contents(&*found[0].memory)[..6], b"first\0");
}

fn recreating_a_deleted_file_erases_it(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), b"first header").unwrap();
    let end = memory.size().get();
    memory.store(end - 4096, &[&pattern(3, 4096)]).unwrap();
    source.delete(file(1)).unwrap();
    let again = source.create(file(1), b"second").unwrap();
    let bytes = contents(&*again);
    assert_eq!(&bytes[..12], b"second\0\0\0\0\0\0");
    assert!(bytes[12..].iter().all(|&byte| byte == 0));
}

fn deleting_a_missing_file_is_fine(open: Open<'_>) {
    let source = open();
    source.delete(file(1)).unwrap();
    drop(source.create(file(1), b"header").unwrap());
    for _ in 0..2 {
        source.delete(file(1)).unwrap();
        assert!(source.scan().unwrap().is_empty());
    }
    assert!(open_again(source, open).scan().unwrap().is_empty());
}

fn memory_of_a_deleted_file_stays_readable(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), b"old").unwrap();
    let before = contents(&*memory);
    source.delete(file(1)).unwrap();
    let young = source.create(file(1), b"young").unwrap();
    drop(source);
    young.store(4096, &[&pattern(9, 4096)]).unwrap();
    assert!(contents(&*memory) == before);
}

fn an_unnamed_file_is_like_one_that_was_deleted(open: Open<'_>) {
    let source = open();
    let memories: Vec<_> = (1..=2_u8).map(|seed| source.create_unnamed(file(1), &[seed; 9]).unwrap()).collect();
    assert!(source.scan().unwrap().is_empty());
    let named = source.create(file(1), b"named").unwrap();
    assert_eq!(source.create_unnamed(file(1), b"").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(source.create_unnamed(file(2), &[1; 4097]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert_eq!(source.scan().unwrap().len(), 1);
    source.delete(file(1)).unwrap();
    drop(source);
    for (seed, memory) in (1..).zip(&memories) {
        let end = memory.size().get();
        memory.store(end - 4096, &[&pattern(seed, 4096)]).unwrap();
        memory.sync().unwrap();
        let mut expected = vec![0; contents(&**memory).len()];
        expected[..9].fill(seed);
        let tail = expected.len() - 4096;
        expected[tail..].copy_from_slice(&pattern(seed, 4096));
        assert!(contents(&**memory) == expected);
    }
    assert_eq!(&contents(&*named)[..6], b"named\0");
    drop((memories, named));
    assert!(open().scan().unwrap().is_empty());
}

fn what_is_stored_is_seen_through_base_and_load(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), b"header").unwrap();
    let end = memory.size().get();
    let mut expected = contents(&*memory);
    for (seed, offset, len) in [(1, 4096, 4096), (2, 4095, 4098), (3, 8191, 1), (4, end - 1, 1), (5, 0, 5), (6, end, 0)]
    {
        let bytes = pattern(seed, len);
        let (one, two) = bytes.split_at(len / 3);
        memory.store(offset, &[one, b"", two]).unwrap();
        let at = usize::try_from(offset).unwrap();
        expected[at..at + len].copy_from_slice(&bytes);
        assert!(contents(&*memory) == expected, "{len} bytes at {offset}");
        let mut loaded = vec![0; len];
        memory.load(offset, &mut loaded).unwrap();
        assert_eq!(loaded, bytes);
    }
    memory.sync().unwrap();
    drop(memory);
    let found = open_again(source, open).scan().unwrap();
    assert!(contents(&*found[0].memory) == expected, "and after it was opened again");
}

fn many_parts_are_stored_in_their_order(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), b"").unwrap();
    let all = pattern(11, 4000);
    let parts: Vec<&[u8]> = all.chunks(3).collect();
    memory.store(100, &parts).unwrap();
    memory.store(0, &[]).unwrap();
    memory.store(0, &[b"", b""]).unwrap();
    let bytes = contents(&*memory);
    assert!(bytes[..100].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[100..4100], all);
    assert!(bytes[4100..].iter().all(|&byte| byte == 0));
}

fn out_of_bounds_is_an_error_and_changes_nothing(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), &pattern(1, 4096)).unwrap();
    let before = contents(&*memory);
    let end = memory.size().get();
    for offset in [end - 3, end, end + 1, u64::MAX - 2, u64::MAX] {
        let error = memory.store(offset, &[b"ab", b"cd"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{offset}");
        let mut into = *b"left";
        let error = memory.load(offset, &mut into).unwrap_err();
        assert_eq!((error.kind(), &into), (io::ErrorKind::InvalidInput, b"left"), "{offset}");
        let error = memory.populate(offset..offset.saturating_add(4).max(end + 1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{offset}");
    }
    memory.store(end + 1, &[]).unwrap_err();
    assert!(contents(&*memory) == before);
    drop(memory);
    let found = open_again(source, open).scan().unwrap();
    assert_eq!(found[0].memory.size().get(), end);
    assert!(contents(&*found[0].memory) == before);
}

fn stores_to_different_bytes_run_at_the_same_time(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), b"").unwrap();
    let threads: Vec<_> = (0..4_u8)
        .map(|thread| {
            let memory = memory.clone();
            thread::spawn(move || {
                for at in 0..32 {
                    let offset = (at * 4 + u64::from(thread)) * 33;
                    memory.store(offset, &[&pattern(thread, 33)]).unwrap();
                    let mut loaded = [0; 33];
                    memory.load(offset, &mut loaded).unwrap();
                    assert_eq!(loaded[..], pattern(thread, 33));
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let bytes = contents(&*memory);
    for (at, piece) in bytes.chunks(33).take(128).enumerate() {
        assert_eq!(piece, pattern(u8::try_from(at % 4).unwrap(), 33));
    }
}

fn hints_change_nothing_and_accept_any_range(open: Open<'_>) {
    let source = open();
    let memory = source.create(file(1), &pattern(1, 4096)).unwrap();
    let before = contents(&*memory);
    let end = memory.size().get();
    for range in [0..0, 0..1, 1..2, 4095..4097, 0..end, end - 1..end, end..end] {
        memory.populate(range.clone()).unwrap();
        memory.start_write_back(range.clone());
        memory.finish_write_back(range.clone()).unwrap();
        memory.prepare(range.clone());
        memory.will_need(range);
    }
    for range in [0..end + 1, end + 5..end + 9, end..u64::MAX, u64::MAX..u64::MAX] {
        memory.start_write_back(range.clone());
        memory.finish_write_back(range.clone()).unwrap();
        memory.prepare(range.clone());
        memory.will_need(range);
    }
    assert!(contents(&*memory) == before);
}

fn scan_finds_what_was_created_and_nothing_else(open: Open<'_>) {
    let source = open();
    assert!(source.scan().unwrap().is_empty());
    let numbers = [3, 1, 7, 1023];
    for number in numbers {
        source.create(file(number), &number.to_le_bytes()).unwrap();
    }
    source.delete(file(7)).unwrap();
    let source = open_again(source, open);
    for _ in 0..2 {
        let found = source.scan().unwrap();
        assert_eq!(found.iter().map(|found| found.file.get()).collect::<Vec<_>>(), [1, 3, 1023]);
        for Found { file, memory, len } in found {
            assert_eq!(len, memory.size().get());
            assert_eq!(memory.size(), source.file_size());
            assert_eq!(contents(&*memory)[..2], file.get().to_le_bytes());
        }
    }
    // A file that was found and one that was created are the same.
    let found: Arc<dyn FileMemory> = source.scan().unwrap().swap_remove(0).memory;
    let twice = source.scan().unwrap().swap_remove(0).memory;
    found.store(PAGE_SIZE, &[b"seen"]).unwrap();
    assert_eq!(&contents(&*twice)[4096..4100], b"seen");
}

/// Closes a source, of which no memory may be held, and opens its files again.
fn open_again(source: Box<dyn FileSource>, open: Open<'_>) -> Box<dyn FileSource> {
    drop(source);
    open()
}
