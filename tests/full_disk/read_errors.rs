//! A device that cannot read some sectors: the file below a loop device is cut short.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use scratchspace::{Access, DiskFileSource, MissingOk, OnFull, ReadError, Scratch, Verify};

use crate::device::{Kind, here, on_each};
use crate::store::{FILE_SIZE, REALM, block, folder, hash, open, open_with, read};

/// Blocks in three files, the third of which has room left.
const NUMBERS: u64 = 45;

const NAME: &str = "read_errors::sectors_that_cannot_be_read_are_errors_of_their_blocks";

/// Where each block lies on the device.
fn places(image: &Path) -> Vec<u64> {
    let file = File::open(image).unwrap();
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let place = |number| {
        let wanted = block(number);
        let at = bytes.chunks_exact(4096).position(|page| page == &wanted[..4096]);
        at.unwrap_or_else(|| panic!("block {number} is not on the device")) as u64 * 4096
    };
    (0..NUMBERS).map(place).collect()
}

#[test]
fn sectors_that_cannot_be_read_are_errors_of_their_blocks() {
    if let Some((place, _, step)) = here() {
        return match step.split(' ').collect::<Vec<_>>()[..] {
            ["prepare"] => prepare(&place),
            ["directory"] => directory(&place),
            ["refused"] => refused(&place),
            ["payloads", verify, cut, image] => payloads(&place, verify, cut.parse().unwrap(), Path::new(image)),
            _ => panic!("{step}"),
        };
    }
    for what in ["first", "never", "always", "directory", "refused"] {
        on_each(NAME, &[Kind::Ext4], |mut device, test| {
            device.child(test, "prepare");
            device.unmount();
            let places = places(device.image());
            assert!(places.is_sorted(), "files and blocks lie in their order: {places:?}");
            if matches!(what, "directory" | "refused") {
                // In the last payload of the third file, so before its directory.
                device.mount_cut(Some(places[44])).unwrap();
                device.child(test, what);
            } else {
                // In the second file; all of the third is lost with it.
                device.mount().unwrap();
                device.child(test, &format!("payloads {what} {} {}", places[30], device.image().display()));
            }
        });
    }
}

fn prepare(place: &Path) {
    let scratch = open(place, 6).unwrap();
    for number in 0..NUMBERS {
        scratch.put(REALM, &block(number)).unwrap();
    }
    scratch.flush().unwrap();
    let file = |number| scratch.info(REALM, hash(number)).unwrap().file.get();
    assert_eq!((file(0), file(30), file(44)), (1, 2, 3));
}

/// The directories are known when the device begins to fail.
fn payloads(place: &Path, verify: &str, cut: u64, image: &Path) {
    let verify = match verify {
        "never" => Verify::Never,
        "always" => Verify::Always,
        _ => Verify::FirstRead,
    };
    let scratch = open_with(place, 6, |builder| builder.verify(verify)).unwrap();
    for entry in fs::read_dir(folder(place)).unwrap() {
        // Its directory stays in memory, in the last pages; its payloads leave it.
        let file = File::open(entry.unwrap().path()).unwrap();
        let payloads = NonZero::new(FILE_SIZE - (64 << 10));
        rustix::fs::fadvise(&file, 0, payloads, rustix::fs::Advice::DontNeed).unwrap();
    }
    File::options().write(true).open(image).unwrap().set_len(cut).unwrap();
    let (mut failed, mut zeros) = (Vec::new(), Vec::new());
    for number in 0..NUMBERS {
        match read(&scratch, number) {
            Ok(()) => {}
            Err(ReadError::Io(error)) if number >= 19 => {
                // EIO; the first one of a mapping says EFAULT.
                let number_of_error = error.raw_os_error().unwrap();
                assert!(number_of_error == 5 || (verify == Verify::Never && number_of_error == 14), "{error}");
                failed.push(number);
            }
            // The system has written something behind the cut: what lies before that is zeros now, and no error.
            Err(ReadError::Corrupted { .. }) if number >= 19 => zeros.push(number),
            Err(error) => panic!("block {number}: {error}"),
        }
    }
    println!("not readable: {failed:?}, zeros: {zeros:?}");
    assert!(failed.len() + zeros.len() > 5 && !failed.is_empty());
    for number in &failed {
        // An error of the disk costs nothing: the block stays known, and is asked for again, by every way.
        assert!(scratch.contains(REALM, hash(*number)).unwrap());
        let verified = scratch.read_verified(REALM, hash(*number), <[u8]>::len);
        let is_told = |error: &ReadError| matches!(error, ReadError::Io(_) | ReadError::Corrupted { .. });
        assert!(verified.as_ref().is_err_and(is_told), "{verified:?}");
        assert!(scratch.get(REALM, hash(*number)).is_err());
    }
    failed.extend(zeros);
    goes_on(&scratch, &failed);
}

/// The directory of the newest file cannot be read when the store is opened.
fn directory(place: &Path) {
    let scratch = open(place, 6).unwrap();
    assert!(scratch.recovery().report.skipped.unreadable > 0);
    let mut lost = Vec::new();
    for number in 0..NUMBERS {
        match read(&scratch, number) {
            Ok(()) => {}
            Err(ReadError::Missing { .. }) if number >= 38 => lost.push(number),
            Err(error) => panic!("block {number}: {error}"),
        }
    }
    assert_eq!(lost, [38, 39, 40, 41, 42, 43, 44]);
    goes_on(&scratch, &lost);
}

/// The same of a store that may not forget: nobody says that they are missing, until they are given up.
fn refused(place: &Path) {
    let scratch = open_with(place, 6, |builder| builder.on_full(OnFull::Refuse)).unwrap();
    for number in 0..NUMBERS {
        match read(&scratch, number) {
            Ok(()) => assert!(number < 38),
            Err(ReadError::Io(error)) => {
                assert!(number >= 38 && error.to_string().contains("not all blocks"), "{error}");
            }
            Err(error) => panic!("block {number}: {error}"),
        }
    }
    assert!(scratch.health().lanes().all(|lane| lane.unfound));
    assert_eq!(scratch.forget_unfound(), Ok(1));
    for number in 0..NUMBERS {
        assert_eq!(scratch.contains(REALM, hash(number)), Ok(number < 38));
    }
    for number in 38..NUMBERS {
        scratch.put(REALM, &block(number)).unwrap();
        read(&scratch, number).unwrap();
    }
    scratch.flush().unwrap();
}

/// What could not be read is written again, elsewhere; others are served, and the wheel goes on turning.
fn goes_on(scratch: &Scratch, lost: &[u64]) {
    for number in 0..NUMBERS {
        if lost.contains(&number) {
            scratch.put(REALM, &block(number)).unwrap();
        }
        read(scratch, number).unwrap();
    }
    for number in 1000..1000 + 8 * FILE_SIZE / 50_000 {
        scratch.put(REALM, &block(number)).unwrap();
        assert!(read(scratch, number).missing_ok().unwrap().is_some());
    }
    scratch.flush().unwrap();
}

const BESIDE: &str = "read_errors::a_long_block_beside_sectors_that_cannot_be_read_is_read";

/// Where files are large enough, memory of long blocks comes in pieces of 2 MiB, each of which is read as a whole.
#[test]
fn a_long_block_beside_sectors_that_cannot_be_read_is_read() {
    if let Some((place, _, step)) = here() {
        let (verify, image) = step.split_once(' ').unwrap();
        return beside(&place, if verify == "never" { Verify::Never } else { Verify::FirstRead }, Path::new(image));
    }
    for verify in ["never", "first"] {
        on_each(BESIDE, &[Kind::Ext4], |device, test| {
            device.child(test, &format!("{verify} {}", device.image().display()));
        });
    }
}

fn beside(place: &Path, verify: Verify, image: &Path) {
    const LEN: usize = 1_300_000;
    let open = || {
        let source = DiskFileSource::builder().folder(folder(place)).files_per_folder(3).file_size(8 << 20);
        let builder = Scratch::builder(source.build().unwrap()).access(Access::ReadAround).verify(verify);
        let scratch = builder.gather(0, Duration::ZERO).open().unwrap();
        scratch.wait_recovered(Duration::from_secs(30)).unwrap();
        scratch
    };
    let long = |number: u64| -> Vec<u8> { (0..).flat_map(|part| block(1000 * number + part)).take(LEN).collect() };
    let blocks: Vec<_> = (0..5).map(long).collect();
    let scratch = open();
    let put = |block: &Vec<u8>| scratch.put(REALM, block).unwrap();
    let hashes: Vec<_> = blocks.iter().map(put).collect();
    scratch.flush().unwrap();
    assert!(scratch.close(Duration::from_secs(30)).is_clean());
    drop(scratch);
    let scratch = open();
    let name = fs::read_dir(folder(place)).unwrap().map(|entry| entry.unwrap().path());
    let name = name.min().unwrap();
    // Its directory stays in memory, in the last pages; its payloads leave it.
    rustix::fs::fadvise(File::open(name).unwrap(), 0, NonZero::new(7 << 20), rustix::fs::Advice::DontNeed).unwrap();
    // In the last block: the regions from 4 to 6 MiB of the file are no longer whole, and the block before it ends there.
    let bytes = fs::read(image).unwrap();
    let last = bytes.chunks_exact(4096).position(|page| page == &blocks[4][..4096]).unwrap() as u64 * 4096;
    File::options().write(true).open(image).unwrap().set_len(last + (128 << 10)).unwrap();
    for number in [3, 0, 2, 1] {
        let right = scratch.read(REALM, hashes[number], |read| read == blocks[number]);
        assert_eq!(right, Ok(true), "block {number}");
    }
    let broken = scratch.read(REALM, hashes[4], <[u8]>::len);
    assert!(matches!(broken, Err(ReadError::Io(_))), "{broken:?}");
    assert!(scratch.contains(REALM, hashes[4]).unwrap());
    // Its file is suspect now: what is read of it is read through the file.
    for number in 0..4 {
        let read = scratch.read_verified(REALM, hashes[number], |read| read == blocks[number]);
        assert_eq!(read, Ok(true), "block {number}");
    }
}
