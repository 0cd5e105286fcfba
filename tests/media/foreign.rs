//! Damage from outside is an error of the file it hit: the process lives, other files serve, the wheel turns.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use scratchspace::{BlockHash, MissingOk, ReadError, Verify};

use crate::damage::Damage;
use crate::process::alone;
use crate::store::{Dice, FILE_SIZE, FILES, REALM, Written, builder, files_in, path_of, test_folder};

/// Bytes that fill all files once, more or less.
const LAP: u64 = FILE_SIZE * FILES as u64;

fn rounds() -> u64 {
    std::env::var("SCRATCHSPACE_MEDIA_ROUNDS").map_or(100, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Every block outside the damaged file reads in every way; `false` if a file has made room meanwhile.
///
/// One that was left of all of them was enough.
fn others_serve(written: &Written, damaged: u16, lay_in: &HashMap<BlockHash, u16>) -> bool {
    let mut visited = HashSet::new();
    // What it tells is of the damaged file, and told after everything else was visited.
    let _told = written.scratch.for_each(REALM, |info| assert!(visited.insert(info.hash), "{} twice", info.hash));
    for (hash, file) in lay_in.iter().filter(|(_, file)| **file != damaged) {
        let found = written.scratch.info(REALM, *hash).map(|info| info.file.get());
        let is_there = (written.scratch.contains(REALM, *hash), visited.contains(hash));
        let reads = (written.read_verified(*hash), written.read(*hash));
        // Asked last: the blocks of a file are counted before they leave the index.
        if written.scratch.stats().recycled_blocks > 0 {
            return false;
        }
        assert_eq!((found, is_there, reads), (Ok(*file), (Ok(true), true), (Ok(()), Ok(()))), "{hash}");
    }
    true
}

/// In every promised way: each ends with an answer, whatever has become of the file.
fn look_at_everything(written: &Written, damaged: u16) {
    let is_allowed = |error: &ReadError, file: u16| {
        let is_typed = matches!(error, ReadError::Io(_) | ReadError::Corrupted { .. });
        assert!(error.is_missing() || (is_typed && file == damaged), "file {file}, damaged {damaged}: {error}");
    };
    for (hash, bytes) in &written.blocks {
        let Ok(info) = written.scratch.info(REALM, *hash) else { continue };
        let file = info.file.get();
        if let Err(error) = written.read_verified(*hash) {
            is_allowed(&error, file);
        }
        if let Err(error) = written.scratch.contains(REALM, *hash) {
            is_allowed(&error, file);
        }
        if file == damaged {
            // Content that is there is not written again, unless it cannot be trusted.
            assert_eq!(written.scratch.put(REALM, bytes).unwrap(), *hash);
            if let Err(error) = written.read_verified(*hash) {
                is_allowed(&error, damaged);
            }
        }
    }
    if let Err(error) = written.scratch.for_each(REALM, |_| ()) {
        is_allowed(&error, damaged);
    }
}

#[test]
fn a_file_that_somebody_damages_costs_its_blocks_and_nothing_else() {
    alone("foreign::a_file_that_somebody_damages_costs_its_blocks_and_nothing_else", rounds(), |round| {
        let mut dice = Dice::new(round);
        let damage = Damage::ALL[usize::try_from(round).unwrap() % Damage::ALL.len()];
        // Each kind in turn with and without.
        let compares_once = (round / Damage::ALL.len() as u64).is_multiple_of(2);
        let verify = if compares_once { Verify::FirstRead } else { Verify::Always };
        let folder = test_folder();
        let mut written = Written::new(builder(folder.path()).verify(verify).open().unwrap());
        written.put_many(&mut dice, LAP / 2 + dice_part(round));
        written.scratch.flush().unwrap();
        let infos = written.infos();
        assert_eq!((infos.len(), written.scratch.stats().recycled_blocks), (written.blocks.len(), 0), "all are there");
        let lay_in = infos.iter().map(|info| (info.hash, info.file.get())).collect();
        let victim = infos[usize::try_from(dice.below(infos.len() as u64)).unwrap()];
        let damaged = victim.file.get();
        println!("round {round}: {damage:?} of file {damaged}");
        damage.inflict(&path_of(folder.path(), damaged), &mut dice);

        // Nothing is written yet: another file makes room only for the last one, which may take no more writes.
        assert!(others_serve(&written, damaged, &lay_in) || damaged == FILES, "a file has made room");
        look_at_everything(&written, damaged);
        others_serve(&written, damaged, &lay_in);
        let _told = written.scratch.flush();
        // Once an error was met zero-copy reads of the file are copies; with the handler they need not be.
        let mut reads = written.blocks.keys().map(|hash| written.read_verified(*hash));
        let was_met = reads.any(|read| matches!(read, Err(ReadError::Io(_))));
        let shows_other_bytes = matches!(damage, Damage::Overwritten | Damage::Emptied);
        let is_error_or_right = (was_met || cfg!(feature = "sigbus-guard")) && !shows_other_bytes;
        if is_error_or_right || verify == Verify::Always {
            for hash in written.blocks.keys() {
                match written.read(*hash) {
                    Ok(()) | Err(ReadError::Missing { .. } | ReadError::Io(_) | ReadError::Corrupted { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }

        // The wheel goes on turning, and creates the file afresh.
        written.put_many(&mut dice, 2 * LAP);
        let _ = written.scratch.flush();
        written.put_many(&mut dice, LAP);
        written.scratch.flush().unwrap();
        for path in files_in(folder.path()) {
            let file = fs::metadata(&path).unwrap();
            assert_eq!(file.len(), FILE_SIZE, "{}", path.display());
            assert!(file.blocks() * 512 >= FILE_SIZE, "{} has holes", path.display());
        }
        let mut served = 0;
        for hash in written.blocks.keys() {
            served += u64::from(written.scratch.get(REALM, *hash).missing_ok().unwrap().is_some());
            written.read(*hash).missing_ok().unwrap();
        }
        assert!(served > 10);
        written.scratch.close(Duration::from_secs(20));

        // And it opens again, with all that it had.
        let Written { scratch, blocks } = written;
        drop(scratch);
        let written = Written { scratch: builder(folder.path()).open().unwrap(), blocks };
        written.scratch.wait_recovered(Duration::from_secs(20)).unwrap();
        let found = written.blocks.keys().filter(|hash| written.read(**hash).missing_ok().unwrap().is_some()).count();
        // One more file may have made room before the close.
        assert!(found > 10 && found as u64 <= served, "{found} of {served}");
    });
}

/// Some more in every round, so that files are met at every stage of their life.
fn dice_part(round: u64) -> u64 {
    round * 37 % 16 * FILE_SIZE / 16
}

#[test]
fn a_flush_tells_that_what_it_covers_lies_in_a_file_that_is_gone_or_cut_short() {
    let name = "foreign::a_flush_tells_that_what_it_covers_lies_in_a_file_that_is_gone_or_cut_short";
    alone(name, 4, |round| {
        let damages = [Damage::CutShort, Damage::Emptied, Damage::Removed, Damage::Replaced];
        let damage = damages[usize::try_from(round).unwrap()];
        let folder = test_folder();
        let mut dice = Dice::new(round);
        let mut written = Written::new(builder(folder.path()).gather(0, Duration::ZERO).open().unwrap());
        let hash = written.put(dice.bytes(10_000));
        let file = written.scratch.info(REALM, hash).unwrap().file;
        damage.inflict(&path_of(folder.path(), file.get()), &mut dice);
        // Stored behind what was lost: the file is as long as it was.
        let later = written.put(dice.bytes(10_000));
        let error = written.scratch.flush().unwrap_err();
        let io = error.io.expect("the disk has lost writes");
        assert!(io.path().unwrap().to_str().unwrap().contains(&format!("-{:04}.", file.get())), "{io}");
        assert!(io.to_string().contains("somebody else"), "{io}");
        written.scratch.flush().unwrap();
        // The file takes no more writes, and content of it is not taken for safe.
        let elsewhere = written.put(dice.bytes(10_000));
        assert_ne!(written.scratch.info(REALM, elsewhere).unwrap().file, file);
        let bytes = written.blocks[&later].clone();
        written.put(bytes);
        assert_ne!(written.scratch.info(REALM, later).unwrap().file, file);
        written.scratch.flush().unwrap();
        written.read(later).unwrap();
    });
}

#[test]
fn a_file_that_could_not_be_read_once_is_lent_by_copy_from_then_on() {
    alone("foreign::a_file_that_could_not_be_read_once_is_lent_by_copy_from_then_on", 1, |round| {
        let folder = test_folder();
        let mut written = Written::new(builder(folder.path()).open().unwrap());
        let mut dice = Dice::new(round);
        let hashes: Vec<_> = (0..8).map(|_| written.put(dice.bytes(20_000))).collect();
        written.scratch.flush().unwrap();
        let file = written.scratch.info(REALM, hashes[0]).unwrap().file;
        let lent = written.scratch.get(REALM, hashes[0]).unwrap();
        assert!(lent[..] == written.blocks[&hashes[0]] && lent.is_intact());
        // The payloads but the first, and all entries, are beyond the end.
        let path = path_of(folder.path(), file.get());
        fs::File::options().write(true).open(&path).unwrap().set_len(24 << 10).unwrap();
        assert!(matches!(written.read_verified(hashes[5]), Err(ReadError::Io(_))));
        for hash in &hashes {
            // Nor is there a signal: entries and payloads come through the file.
            let error = written.read(*hash).unwrap_err();
            assert!(error.to_string().contains("cut the file short"), "{error}");
            assert!(matches!(written.scratch.get(REALM, *hash), Err(ReadError::Io(_))));
            assert!(matches!(written.scratch.info(REALM, *hash), Err(ReadError::Io(_))));
            assert!(matches!(written.scratch.contains(REALM, *hash), Err(ReadError::Io(_))));
        }
        assert!(matches!(written.scratch.for_each(REALM, |_| ()), Err(ReadError::Io(_))));
        assert!(lent[..] == written.blocks[&hashes[0]], "these pages are there");
        assert!(written.scratch.remove(REALM, hashes[3]).is_ok());
        assert!(written.scratch.info(REALM, hashes[3]).unwrap_err().is_missing());
    });
}
