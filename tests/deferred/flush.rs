//! Facts about when blocks reach their files: gathered, flushed, or at once.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use scratchspace::{DiskFileSource, FailedClosure, Scratch};

use crate::place::{FILE_SIZE, Hung, Place, REALM, bytes_of, key, panic_quietly, write_later};
use crate::waiting::until;

/// Whether some file of the store holds these bytes, at the start of a page.
fn is_in_a_file(folder: &Path, bytes: &[u8]) -> bool {
    let files = std::fs::read_dir(folder).unwrap().flatten().filter_map(|file| std::fs::read(file.path()).ok());
    files.into_iter().any(|file| file.chunks(4096).any(|page| page.starts_with(bytes)))
}

fn on_disk(test: impl Fn(&Place, &Path)) {
    Place::each(|place| {
        if let Place::Disk(folder) = place {
            test(place, folder.path());
        }
    });
}

#[test]
fn a_small_block_is_readable_at_once_and_in_its_file_after_the_delay_without_another_call() {
    on_disk(|place, folder| {
        let scratch = place.builder().gather(64 << 10, Duration::from_millis(20)).open().unwrap();
        for number in 0..5 {
            let bytes = bytes_of(number + 1, 500);
            let hash = scratch.put(REALM, &bytes).unwrap();
            assert_eq!(&scratch.get(REALM, hash).unwrap()[..], bytes);
            until("the store of the buffer", || is_in_a_file(folder, &bytes));
            assert_eq!(&scratch.get(REALM, hash).unwrap()[..], bytes);
        }
        // So is what a closure wrote that nobody read.
        let bytes = bytes_of(9, 500);
        write_later(&scratch, bytes.clone()).unwrap();
        until("the store of the buffer", || is_in_a_file(folder, &bytes));
    });
}

/// The flusher alone looked at the delay: with a closure that hung, small blocks stayed in memory until a flush.
#[test]
fn a_closure_that_hangs_keeps_no_gathered_block_from_its_file() {
    on_disk(|place, folder| {
        let scratch = place.open();
        let hung = Hung::in_flusher(&scratch);
        let bytes = bytes_of(1, 500);
        scratch.put(REALM, &bytes).unwrap();
        until("the store of the buffer", || is_in_a_file(folder, &bytes));
        hung.release();
    });
}

#[test]
fn without_gathering_each_block_is_in_its_file_when_its_put_returns() {
    on_disk(|place, folder| {
        let scratch = place.builder().gather(0, Duration::ZERO).open().unwrap();
        for number in 1..8 {
            let bytes = bytes_of(number, number * 500);
            match number % 3 {
                0 => drop(scratch.put(REALM, &bytes).unwrap()),
                1 => scratch.put_named(REALM, key("k"), &bytes).unwrap(),
                _ => drop(scratch.put_many(REALM, &[&bytes]).unwrap()),
            }
            assert!(is_in_a_file(folder, &bytes), "{number}");
        }
    });
}

#[test]
fn a_flush_stores_what_is_gathered_and_what_waits() {
    on_disk(|place, folder| {
        let scratch = place.builder().gather(1 << 20, Duration::from_secs(10)).open().unwrap();
        let hung = Hung::in_flusher(&scratch);
        let (gathered, waiting, large) = (bytes_of(1, 500), bytes_of(2, 500), bytes_of(3, 100_000));
        scratch.put(REALM, &gathered).unwrap();
        write_later(&scratch, waiting.clone()).unwrap();
        write_later(&scratch, large.clone()).unwrap();
        // The flush runs what nobody has begun, and waits for what somebody has.
        thread::scope(|threads| {
            let flush = threads.spawn(|| scratch.flush());
            until("the other closures", || scratch.stats().closures_run == 2);
            hung.release();
            assert_eq!(flush.join().unwrap(), Ok(()));
        });
        for bytes in [gathered, waiting] {
            assert!(is_in_a_file(folder, &bytes));
        }
        assert!(is_in_a_file(folder, &large[..4096]));
    });
}

/// A flush looked for closures from where the last one had ended, and that was behind the end of the file by then: those
/// in the tail of a full file were never run.
#[test]
fn a_flush_runs_the_closures_of_a_file_that_is_full() {
    Place::each(|place| {
        let scratch = place.builder().wait_timeout(Duration::from_millis(300)).open().unwrap();
        let hung = Hung::in_flusher(&scratch);
        let waiting = bytes_of(1, 1000);
        let hash = write_later(&scratch, waiting.clone()).unwrap();
        let first = scratch.info(REALM, hash).unwrap().file;
        // Nobody waits for the next file: a writer that does runs what is queued.
        let put = |number| scratch.put(REALM, &bytes_of(number, 100_000)).unwrap();
        let _ = [put(2), put(3)];
        until("a spare file", || scratch.stats().files > 1);
        assert_ne!(scratch.info(REALM, put(4)).unwrap().file, first);
        assert_eq!(scratch.stats().closures_run, 0);
        let busy = scratch.flush().unwrap_err();
        assert!(matches!(busy.first, Some(FailedClosure::Busy { .. })), "the flusher hangs: {busy}");
        assert_eq!(scratch.stats().closures_run, 1);
        assert_eq!(scratch.read(REALM, hash, <[u8]>::to_vec), Ok(waiting));
        hung.release();
    });
}

#[test]
fn flushes_of_many_threads_under_load_cover_the_writes_of_each() {
    Place::each(|place| {
        let scratch = place.open();
        let writing = AtomicBool::new(true);
        thread::scope(|threads| {
            threads.spawn(|| {
                while writing.load(Ordering::Relaxed) {
                    assert_eq!(scratch.flush(), Ok(()));
                }
            });
            let writers = [0, 1, 2].map(|writer| {
                let scratch = &scratch;
                threads.spawn(move || {
                    for number in 0..12 {
                        let hash = write_later(scratch, bytes_of(writer << 32 | number, 3000)).unwrap();
                        scratch.put(REALM, &bytes_of(writer << 32 | number, 100)).unwrap();
                        assert_eq!(scratch.flush(), Ok(()));
                        assert_eq!(scratch.read(REALM, hash, <[u8]>::len), Ok(3000));
                    }
                })
            });
            for writer in writers {
                writer.join().unwrap();
            }
            writing.store(false, Ordering::Relaxed);
        });
        assert_eq!((scratch.stats().closures_run, scratch.stats().pending_bytes), (36, 0));
    });
}

#[test]
fn failures_are_told_to_the_next_flush_and_to_no_later_one() {
    Place::each(|place| {
        let scratch = place.open();
        assert_eq!(scratch.flush(), Ok(()));
        for number in 0..3 {
            scratch.write_named(REALM, key(&number.to_string()), 10, |_| panic_quietly()).unwrap();
            // Told or not to a reader: the flush says it all the same.
            scratch.read(REALM, key(&number.to_string()), |_| ()).unwrap_err();
        }
        let error = scratch.flush().unwrap_err();
        assert_eq!(error.failed, 3);
        assert!(error.to_string().starts_with("3 blocks were not stored"), "{error}");
        scratch.put(REALM, b"fine").unwrap();
        assert_eq!((scratch.flush(), scratch.flush()), (Ok(()), Ok(())));
    });
}

#[test]
fn a_flush_covers_every_folder_and_every_lane() {
    let folder = tempfile::tempdir().unwrap();
    let source = || {
        let folders = [folder.path().join("a"), folder.path().join("b")];
        DiskFileSource::builder().folders(folders).files_per_folder(6).file_size(FILE_SIZE).build().unwrap()
    };
    let delay = Duration::from_secs(10);
    let scratch = Scratch::builder(source()).lanes_per_folder(2).gather(64 << 10, delay).open().unwrap();
    let all: Vec<_> = (1..40).map(|number| bytes_of(number, 100 + number)).collect();
    for bytes in &all {
        write_later(&scratch, bytes.clone()).unwrap();
    }
    assert_eq!(scratch.flush(), Ok(()));
    for bytes in &all {
        assert!(is_in_a_file(&folder.path().join("a"), bytes) || is_in_a_file(&folder.path().join("b"), bytes));
    }
}
