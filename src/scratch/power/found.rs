//! What chance has found, step by step: each was a defect.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::{PATIENCE, REALM};
use crate::block::{BlockHash, FileId, FileSize, PAGE_SIZE};
use crate::scratch::Scratch;
use crate::storage::lossy::{Crash, LossySource, Plan};
use crate::sync::thread;

/// Of threads that meet in another order each time: after so many it is no chance any more that none of them was seen where
/// the test is about.
const MOST_SEEDS: u64 = 10_000;
const KEY: BlockHash = BlockHash::from_u128(5);
const FIRST: FileId = FileId::new(1).unwrap();

fn open(source: LossySource) -> Scratch {
    let scratch = Scratch::builder(source).gather(0, Duration::ZERO).open().unwrap();
    scratch.wait_recovered(PATIENCE).unwrap();
    scratch
}

fn fill(scratch: &Scratch, numbers: std::ops::Range<u64>) {
    for number in numbers {
        // A disk that fails is told.
        let _ = scratch.put(REALM, &number.to_le_bytes());
    }
}

/// A process was killed between the store of a header and its sync. The next one saw the file as empty and let the file
/// with the tombstone die; then the power was cut, and the old header was back with the removed block.
#[test]
fn a_removed_block_stays_removed_if_a_kill_in_a_recycle_is_followed_by_a_power_cut() {
    let put = |scratch: &Scratch, numbers: std::ops::Range<u64>| {
        for number in numbers {
            scratch.put(REALM, &number.to_le_bytes()).unwrap();
        }
    };
    // The header of the first file is synced by the 22nd call or so; with fewer files the second file dies at once,
    // otherwise after a few blocks more.
    let cuts = [2, 2, 2, 2, 2, 10, 11, 12, 13, 14, 15, 16];
    let crashes = (21..23).flat_map(|at_call| cuts.map(|cut| (at_call, cut)));
    for (seed, (at_call, cut)) in (0..).zip(crashes.cycle().take(300)) {
        // Three blocks fill a file: the block dies with the first, its tombstone with the second.
        let source = LossySource::new(1, 4, FileSize::new(5 * PAGE_SIZE).unwrap(), seed);
        let remote = source.remote();
        let scratch = open(source);
        put(&scratch, 0..2);
        scratch.put_named(REALM, KEY, b"removed").unwrap();
        put(&scratch, 2..3);
        scratch.remove(REALM, KEY).unwrap();
        scratch.flush().unwrap();
        remote.set_plan(Plan { crash: Crash::Kill, at_call, failing_syncs: 0, failing_stores: 0 });
        put(&scratch, 3..15);
        let mut image = remote.crash();
        drop(scratch);
        // With fewer files the oldest die at once, otherwise by and by.
        let shrinks = cut < 4;
        image.set_files_per_folder(if shrinks { 3 } else { 4 });
        let source = LossySource::open(&image, seed + 1000);
        let remote = source.remote();
        remote.set_plan(Plan { crash: Crash::PowerCut, at_call: cut, failing_syncs: 0, failing_stores: 0 });
        let scratch = open(source);
        put(&scratch, 100..if shrinks { 100 } else { 108 });
        let image = remote.crash();
        drop(scratch);
        let scratch = open(LossySource::open(&image, 0));
        let read = scratch.get(REALM, KEY);
        assert!(read.is_err(), "killed at call {at_call}, cut at call {cut}: the block is back");
    }
}

/// The header of a new lap was stored and not synced. Then the file with the tombstone began its next lap, whose header
/// chance wrote back; the power was cut, and the lap with the removed block lived again.
#[test]
fn a_removed_block_stays_removed_if_the_power_is_cut_when_both_files_have_just_turned() {
    for seed in 0..60 {
        // Six blocks fill a file.
        let source = LossySource::new(1, 3, FileSize::new(8 * PAGE_SIZE).unwrap(), seed);
        let remote = source.remote();
        let scratch = open(source);
        let put = |numbers: std::ops::Range<u64>| {
            let put = |_, number: u64| scratch.put(REALM, &number.to_le_bytes()).unwrap();
            scratch.info(REALM, numbers.fold(KEY, put)).unwrap()
        };
        let first = put(0..5).file;
        scratch.put_named(REALM, KEY, b"removed").unwrap();
        put(10..11);
        scratch.remove(REALM, KEY).unwrap();
        let second = put(11..16);
        assert_ne!(first, second.file);
        put(20..23);
        scratch.flush().unwrap();
        put(23..26);
        // The first file is filled once more, until the second one has to be ready.
        assert_eq!(put(30..35).file, first);
        let deadline = Instant::now() + PATIENCE;
        while remote.generation(second.file) == Some(second.generation) {
            assert!(Instant::now() < deadline, "the second file does not turn");
            thread::sleep(Duration::from_millis(1));
        }
        let image = remote.crash();
        drop(scratch);
        let scratch = Scratch::builder(LossySource::open(&image, seed)).open().unwrap();
        scratch.wait_recovered(PATIENCE).unwrap();
        assert!(scratch.get(REALM, KEY).is_err(), "seed {seed}: the block is back");
    }
}

/// A process was killed between the name of a new file and the sync of its folder. The next one found the file, filled it
/// and flushed; then the power was cut, and the file had no name.
#[test]
fn what_is_flushed_to_a_file_that_a_killed_process_has_created_survives_a_power_cut() {
    for seed in 0..20 {
        let source = LossySource::new(1, 3, FileSize::new(8 * PAGE_SIZE).unwrap(), seed);
        let remote = source.remote();
        // The name is the first change of a creation, the sync of the folder the second.
        remote.set_plan(Plan { crash: Crash::Kill, at_call: 2, failing_syncs: 0, failing_stores: 0 });
        drop(Scratch::open(source).unwrap());
        let source = LossySource::open(&remote.crash(), seed);
        let remote = source.remote();
        let scratch = Scratch::open(source).unwrap();
        scratch.wait_recovered(PATIENCE).unwrap();
        let hash = scratch.put(REALM, b"flushed").unwrap();
        scratch.flush().unwrap();
        let image = remote.crash();
        drop(scratch);
        let scratch = Scratch::open(LossySource::open(&image, seed)).unwrap();
        scratch.wait_recovered(PATIENCE).unwrap();
        assert_eq!(scratch.get(REALM, hash).as_deref(), Ok(&b"flushed"[..]), "seed {seed}");
    }
}

/// The sync of the header of a new lap failed, and the process was killed before the file was deleted: only the page cache
/// had that header, and no later sync made it durable. The next process took the old lap for dead, so that a removal of
/// what lay there wrote nothing, and let younger files die before it; then the power was cut, and the old lap was back.
#[test]
fn a_lap_whose_end_only_the_page_cache_knows_after_a_kill_does_not_come_back_with_a_power_cut() {
    let mut hollow = 0;
    for seed in 0..MOST_SEEDS {
        if seed >= 240 && hollow > 0 {
            break;
        }
        // Three blocks fill a file.
        let source = LossySource::new(1, 3, FileSize::new(5 * PAGE_SIZE).unwrap(), seed);
        let remote = source.remote();
        let scratch = open(source);
        scratch.put_named(REALM, KEY, b"of the old lap").unwrap();
        fill(&scratch, 0..5);
        scratch.flush().unwrap();
        remote.set_plan(Plan { crash: Crash::Kill, at_call: 3 + seed % 8, failing_syncs: 1, failing_stores: 0 });
        fill(&scratch, 5..12);
        let image = remote.crash();
        drop(scratch);
        let source = LossySource::open(&image, seed + 1000);
        let remote = source.remote();
        let scratch = open(source);
        hollow += u32::from(!image.harmed().is_empty() && scratch.get(REALM, KEY).is_err());
        if seed % 2 == 0 {
            scratch.remove(REALM, KEY).unwrap();
        } else {
            scratch.put_named(REALM, KEY, b"newer").unwrap();
        }
        scratch.flush().unwrap();
        // The newer one dies, and its death is durable: that of the older one has to be so before.
        fill(&scratch, 20..20 + seed / 8 % 8);
        let image = remote.crash();
        drop(scratch);
        let scratch = open(LossySource::open(&image, seed));
        if let Ok(read) = scratch.get(REALM, KEY) {
            assert!(seed % 2 == 1 && read[..] == b"newer"[..], "seed {seed}: the old lap is back");
        }
    }
    assert!(hollow > 0, "no lap ended in the page cache only");
}

/// As above, and the next process was asked for fewer files: the oldest one that it dropped, for good, was the one with the
/// tombstone, while the page cache alone knew that an older lap had ended.
#[test]
fn a_lap_whose_end_only_the_page_cache_knows_does_not_come_back_with_a_smaller_layout() {
    let mut hollow = 0;
    for seed in 0..MOST_SEEDS {
        if seed >= 700 && hollow > 0 {
            break;
        }
        // Three blocks fill a file: the block dies with the first, its tombstone with the second.
        let source = LossySource::new(1, 4, FileSize::new(5 * PAGE_SIZE).unwrap(), seed);
        let remote = source.remote();
        let scratch = open(source);
        scratch.put_named(REALM, KEY, b"removed").unwrap();
        fill(&scratch, 0..3);
        scratch.remove(REALM, KEY).unwrap();
        fill(&scratch, 3..4);
        scratch.flush().unwrap();
        remote.set_plan(Plan { crash: Crash::Kill, at_call: 8 + seed % 32, failing_syncs: 1, failing_stores: 0 });
        fill(&scratch, 4..20);
        let mut image = remote.crash();
        drop(scratch);
        image.set_files_per_folder(3);
        let source = LossySource::open(&image, seed + 1000);
        let remote = source.remote();
        // Of the first file: only a header was stored since its last sync.
        hollow += u32::from(image.harmed().contains(&FIRST) && remote.generation(FIRST) > Some(4));
        let at_call = 3 + seed / 32 % 8;
        remote.set_plan(Plan { crash: Crash::PowerCut, at_call, failing_syncs: 0, failing_stores: 0 });
        let scratch = open(source);
        assert!(scratch.get(REALM, KEY).is_err(), "seed {seed}: the old lap is there");
        let image = remote.crash();
        drop(scratch);
        let scratch = open(LossySource::open(&image, seed));
        assert!(scratch.get(REALM, KEY).is_err(), "seed {seed}: the old lap is back");
    }
    assert!(hollow > 0, "no lap ended in the page cache only");
}

/// A store was emptied by `reset`, the oldest file first, while the page cache alone knew that an older lap of another one
/// had ended; the power was cut in between, and what the deleted tombstones had removed was back.
#[test]
fn a_removed_block_stays_removed_if_a_reset_after_a_kill_in_a_recycle_is_cut_short() {
    let crashes = (18..26).flat_map(|at_call| (1..14).map(move |cut| (at_call, cut)));
    for (seed, (at_call, cut)) in (0..).zip(crashes.cycle().take(300)) {
        // Three blocks fill a file: the block dies with the first, its tombstone with the second.
        let source = LossySource::new(1, 4, FileSize::new(5 * PAGE_SIZE).unwrap(), seed);
        let remote = source.remote();
        let scratch = open(source);
        fill(&scratch, 0..2);
        scratch.put_named(REALM, KEY, b"removed").unwrap();
        fill(&scratch, 2..3);
        scratch.remove(REALM, KEY).unwrap();
        scratch.flush().unwrap();
        remote.set_plan(Plan { crash: Crash::Kill, at_call, failing_syncs: 0, failing_stores: 0 });
        fill(&scratch, 3..15);
        let image = remote.crash();
        drop(scratch);
        let source = LossySource::open(&image, seed + 1000);
        let remote = source.remote();
        remote.set_plan(Plan { crash: Crash::PowerCut, at_call: cut, failing_syncs: 0, failing_stores: 0 });
        drop(Scratch::builder(source).reset().open().unwrap());
        let scratch = open(LossySource::open(&remote.crash(), 0));
        let read = scratch.get(REALM, KEY);
        assert!(read.is_err(), "killed at call {at_call}, cut at call {cut}: the block is back");
    }
}
