//! Devices that are too small, or that somebody else fills.
#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use scratchspace::{OpenError, Scratch, WriteError};

use crate::device::{Kind, fill, here, on_each};
use crate::store::{FILE_SIZE, REALM, block, folder, open, read, until_ok};

#[test]
fn a_store_larger_than_its_device_is_told_so_with_folder_and_sizes() {
    const NAME: &str = "full::a_store_larger_than_its_device_is_told_so_with_folder_and_sizes";
    let Some((place, ..)) = here() else {
        return on_each(NAME, &Kind::ALL, |device, test| device.child(test, "all"));
    };
    let check = |error: &scratchspace::IoError, bytes: u64| {
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
        let text = error.to_string();
        assert!(text.contains(folder(&place).to_str().unwrap()), "{text}");
        assert!(text.contains(&format!("{bytes} bytes")) && text.contains("are free"), "{text}");
    };
    // Not even one file fits.
    let source = scratchspace::DiskFileSource::builder().folder(folder(&place)).files_per_folder(3).file_size(1 << 30);
    match Scratch::open(source.build().unwrap()) {
        Err(OpenError::Io(error)) => check(&error, 1 << 30),
        other => panic!("{other:?}"),
    }
    let left: Vec<_> = fs::read_dir(folder(&place)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["scratchspace.lock"], "nothing is left of a file that does not fit");

    // Some fit: they serve, and the write that needs one more is told.
    let scratch = open(&place, 1000).unwrap();
    let mut written = 0;
    let error = loop {
        match scratch.put(REALM, &block(written)) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 20_000);
    };
    match error {
        WriteError::Io(error) => check(&error, FILE_SIZE),
        other => panic!("{other:?}"),
    }
    for number in 0..written {
        read(&scratch, number).unwrap();
    }
    scratch.flush().unwrap();
}

/// Somebody else fills the device, then makes space again; what was flushed is there after the next mount.
#[test]
fn a_store_goes_on_on_a_device_that_somebody_else_has_filled() {
    const NAME: &str = "full::a_store_goes_on_on_a_device_that_somebody_else_has_filled";
    const FILES: u16 = 4;
    const LAP: u64 = 4 * 20;
    let Some((place, kind, step)) = here() else {
        return on_each(NAME, &Kind::ALL, |mut device, test| {
            device.child(test, "fill");
            if device.kind != Kind::Tmpfs {
                device.unmount();
                device.mount().unwrap();
            }
            device.child(test, "found");
        });
    };
    if step == "found" {
        let scratch = open(&place, FILES).unwrap();
        let newest: u64 = fs::read_to_string(place.join("newest")).unwrap().parse().unwrap();
        for number in newest - 15..newest {
            read(&scratch, number).unwrap();
        }
        return;
    }
    let scratch = open(&place, FILES).unwrap();
    let mut number = 0;
    let mut put = |scratch: &Scratch| {
        let written = scratch.put(REALM, &block(number));
        number += u64::from(written.is_ok());
        written.map(|_| number - 1)
    };
    for _ in 0..2 * LAP {
        put(&scratch).unwrap();
    }
    scratch.flush().unwrap();
    let filler = fill(&place);
    let mut refused = 0;
    for _ in 0..2 * LAP {
        match put(&scratch) {
            Ok(number) => read(&scratch, number).unwrap(),
            // Only what writes elsewhere than where it was allocated may need more.
            Err(WriteError::Io(error)) if kind == Kind::Btrfs => {
                assert!(matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded), "{error}");
                refused += 1;
                if refused > 3 {
                    break;
                }
            }
            Err(error) => panic!("{kind:?}: {error}"),
        }
    }
    let flushed = scratch.flush();
    assert!(flushed.is_ok() || kind == Kind::Btrfs, "{flushed:?}");
    fs::remove_file(filler).unwrap();
    if kind == Kind::Btrfs {
        // What a transaction has freed is free after it.
        crate::device::run(&["sync", "-f", place.to_str().unwrap()]).unwrap();
    }
    for _ in 0..2 * LAP {
        let number = until_ok("space is back", || put(&scratch));
        read(&scratch, number).unwrap();
    }
    until_ok("space is back", || scratch.flush());
    let newest = until_ok("writing", || put(&scratch)) + 1;
    scratch.flush().unwrap();
    fs::write(place.join("newest"), newest.to_string()).unwrap();
    assert_eq!(scratch.close(Duration::from_secs(20)).dropped, 0);
}
