//! With the feature `sigbus-guard` no access to a mapping kills the process.
#![forbid(unsafe_code)]
#![cfg(feature = "sigbus-guard")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use scratchspace::{BlockHash, Event, ReadError};

use crate::process::alone;
use crate::store::{Dice, FILE_SIZE, FILES, REALM, Written, builder, path_of, test_folder};

/// A file with blocks that were all read, and then cut short.
fn cut_short(folder: &std::path::Path, len: u64) -> (Written, Vec<scratchspace::BlockHash>) {
    let mut written = Written::new(builder(folder).open().unwrap());
    let mut dice = Dice::new(5);
    let hashes: Vec<_> = (0..8).map(|_| written.put(dice.bytes(20_000))).collect();
    written.scratch.flush().unwrap();
    for hash in &hashes {
        written.read(*hash).unwrap();
    }
    let file = written.scratch.info(REALM, hashes[0]).unwrap().file;
    File::options().write(true).open(path_of(folder, file.get())).unwrap().set_len(len).unwrap();
    (written, hashes)
}

#[test]
fn a_zero_copy_read_that_meets_a_missing_page_is_an_error() {
    alone("guard::a_zero_copy_read_that_meets_a_missing_page_is_an_error", 1, |_| {
        let folder = test_folder();
        let (mut written, hashes) = cut_short(folder.path(), 8 << 10);
        for hash in hashes.iter().rev() {
            let read = written.scratch.read(REALM, *hash, <[u8]>::to_vec);
            assert!(matches!(read, Err(ReadError::Io(_))), "{read:?}");
        }
        let another = written.put(vec![7; 20_000]);
        written.read(another).unwrap();
    });
}

/// The first event that says that a file is suspect, or sealed; only a defect lets it wait so long.
fn next(events: &Receiver<Event>) -> Event {
    loop {
        let event = events.recv_timeout(Duration::from_mins(1)).expect("the hook is told");
        if matches!(event, Event::FileSuspect { .. } | Event::FileSealed { .. }) {
            return event;
        }
    }
}

/// Whoever found first that a page had been replaced made its file suspect in silence: no event, no counter, and the file
/// took more writes until a later error.
#[test]
fn a_replaced_page_is_told_counted_and_shown_and_seals_its_file_whoever_meets_it_first() {
    type Meets = fn(&Written, &[BlockHash]);
    let meets: [(&str, Meets); 7] = [
        ("a read", |written, hashes| written.read(hashes[0]).unwrap()),
        ("a get", |written, hashes| drop(written.scratch.get(REALM, hashes[1]).unwrap())),
        ("a verified read", |written, hashes| written.read_verified(hashes[0]).unwrap()),
        ("a put of the same", |written, hashes| {
            assert_eq!(written.scratch.put(REALM, &written.blocks[&hashes[0]]), Ok(hashes[0]));
        }),
        ("who asks how the store is", |written, _| assert_eq!(written.scratch.health().suspect.len(), 1)),
        ("a flush", |written, _| drop(written.scratch.flush())),
        ("nobody", |_, _| ()),
    ];
    alone("guard::a_replaced_page_is_told_counted_and_shown_and_seals_its_file_whoever_meets_it_first", 7, |round| {
        let (who, meet) = meets[usize::try_from(round).unwrap()];
        let folder = test_folder();
        let (told, events) = channel();
        let hook = move |event: &Event| drop(told.send(event.clone()));
        let mut written = Written::new(builder(folder.path()).on_event(hook).open().unwrap());
        let mut dice = Dice::new(round);
        let hashes: Vec<_> = (0..4).map(|_| written.put(dice.bytes(20_000))).collect();
        written.scratch.flush().unwrap();
        let file = written.scratch.info(REALM, hashes[0]).unwrap().file;
        let path = path_of(folder.path(), file.get());
        let held = written.scratch.get(REALM, hashes[2]).unwrap();
        // For a moment the file is not there, and a page of it is touched.
        let bytes = fs::read(&path).unwrap();
        let open = File::options().write(true).open(&path).unwrap();
        open.set_len(4096).unwrap();
        assert_eq!(held[0], 0);
        open.write_all_at(&bytes, 0).unwrap();

        meet(&written, &hashes);
        let (suspect, sealed) = (next(&events), next(&events));
        assert!(matches!(suspect, Event::FileSuspect { file: told, .. } if told == file), "{who}: {suspect}");
        assert!(matches!(sealed, Event::FileSealed { file: told, .. } if told == file), "{who}: {sealed}");
        assert_eq!(written.scratch.health().suspect, [file], "{who}");
        assert_eq!(written.scratch.stats().unreadable_files, 1, "{who}");
        assert!(!held.is_intact());
        drop(held);
        for hash in &hashes {
            written.read(*hash).unwrap();
        }
        let another = written.put(dice.bytes(1000));
        assert_ne!(written.scratch.info(REALM, another).unwrap().file, file, "{who}");
        // Made anew in its turn; and it was told once.
        written.put_many(&mut dice, 2 * FILE_SIZE * u64::from(FILES));
        assert_eq!(written.scratch.health().suspect, [], "{who}");
        written.scratch.close(Duration::from_secs(20));
        assert!(!events.iter().any(|event| matches!(event, Event::FileSuspect { .. })), "{who}");
    });
}

#[test]
fn a_page_that_goes_while_it_is_lent_is_told_after_the_reader() {
    alone("guard::a_page_that_goes_while_it_is_lent_is_told_after_the_reader", 1, |_| {
        let folder = test_folder();
        let mut written = Written::new(builder(folder.path()).open().unwrap());
        let mut dice = Dice::new(5);
        let hashes: Vec<_> = (0..3).map(|_| written.put(dice.bytes(20_000))).collect();
        written.scratch.flush().unwrap();
        let path = path_of(folder.path(), written.scratch.info(REALM, hashes[0]).unwrap().file.get());
        let held = written.scratch.get(REALM, hashes[1]).unwrap();
        assert!(held.is_intact());
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let read = written.scratch.read(REALM, hashes[0], |bytes| {
            File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
            sum(bytes)
        });
        let error = read.unwrap_err();
        assert!(error.to_string().contains("while it was lent"), "{error}");
        assert_eq!(sum(&held), 0);
        assert!(!held.is_intact() && !held.clone().is_intact() && !held.slice(3..9).is_intact());

        // Many at once: the callback is told again, by an error.
        let mut answers = Vec::new();
        written.scratch.get_many(REALM, &hashes, |at, read| answers.push((at, read.is_ok()))).unwrap();
        assert!(answers.iter().all(|(_, is_ok)| !is_ok), "{answers:?}");
    });
}

#[test]
fn an_entry_that_cannot_be_seen_is_not_taken_for_a_damaged_one() {
    alone("guard::an_entry_that_cannot_be_seen_is_not_taken_for_a_damaged_one", 1, |_| {
        let folder = test_folder();
        // All payloads are there, the directory is not.
        let (written, hashes) = cut_short(folder.path(), crate::store::FILE_SIZE - 4096);
        for hash in &hashes {
            assert!(matches!(written.scratch.read(REALM, *hash, <[u8]>::len), Err(ReadError::Io(_))));
        }
        assert_eq!(written.scratch.stats().corrupted, 0);
        assert_eq!(written.scratch.len(), 8);
    });
}

const SIGBUS: i32 = 7;

/// Says in a process of its own what it does to itself.
const FAULT: &str = "SCRATCHSPACE_MEDIA_FAULT";

/// Whether a signal that was sent to this process waits for a thread that takes it.
fn is_pending(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

/// Rust's own handler lets the first signal that somebody sends pass, and puts the default in its own place, which
/// would have been ours: the next missing page would have killed the process.
#[test]
fn a_signal_that_somebody_sends_does_what_it_did_and_the_handler_stays() {
    const NAME: &str = "guard::a_signal_that_somebody_sends_does_what_it_did_and_the_handler_stays";
    if std::env::var_os(FAULT).is_some() {
        let folder = test_folder();
        let (written, hashes) = cut_short(folder.path(), 4096);
        let send = || Command::new("kill").args(["-BUS", &std::process::id().to_string()]).status().unwrap();
        send();
        // Another thread gets it, when that is run: until then a second one would be the same one.
        while is_pending(SIGBUS) {
            std::thread::yield_now();
        }
        assert!(matches!(written.scratch.read(REALM, hashes[3], <[u8]>::len), Err(ReadError::Io(_))));
        println!("still here");
        send();
        std::thread::sleep(std::time::Duration::from_secs(20));
        return;
    }
    let mut process = Command::new(std::env::current_exe().unwrap());
    let output = process.args(["--exact", NAME, "--nocapture"]).env(FAULT, "1").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("still here"), "{output:?}");
    assert_eq!(output.status.signal(), Some(SIGBUS), "{output:?}");
}
