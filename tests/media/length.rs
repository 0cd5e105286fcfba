//! Files that somebody else has cut short or made longer while the store was closed: each costs itself only.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use scratchspace::{
    BlockHash, DiskFileSource, Event, HealthState, MissingOk, OpenError, ReadError, Scratch, ScratchBuilder,
};

use crate::process::alone;
use crate::store::{Dice, REALM, Written, files_in, path_of, test_folder};

const FILES: u16 = 5;
const SIZE: u64 = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// What has become of the length of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Len(u64),
    /// More than it had, and not zeros.
    LongerBy(usize),
}

/// Nothing is left; within the header; behind it; in a page; in the middle; a page, a byte less or more.
const ALL: [To; 10] = [
    To::Len(0),
    To::Len(100),
    To::Len(512),
    To::Len(5000),
    To::Len(SIZE / 2),
    To::Len(SIZE / 2 + 1),
    To::Len(SIZE - 4096),
    To::Len(SIZE - 1),
    To::LongerBy(4096),
    To::LongerBy(1),
];

impl To {
    fn has_header(self) -> bool {
        !matches!(self, Self::Len(0..512))
    }

    fn change(self, path: &Path) {
        let mut file = File::options().append(true).open(path).unwrap();
        match self {
            Self::Len(len) => file.set_len(len).unwrap(),
            Self::LongerBy(bytes) => file.write_all(&vec![0xa5; bytes]).unwrap(),
        }
    }
}

fn builder(folder: &Path, file_size: Option<u64>) -> Result<ScratchBuilder, OpenError> {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(FILES);
    let source = file_size.map_or(source.clone().file_size_if_new(1 << 20), |bytes| source.file_size(bytes));
    Ok(Scratch::builder(source.build()?).wait_timeout(PATIENCE).gather(0, Duration::ZERO))
}

/// The number of a file, and its blocks.
type Blocks = (u16, Vec<(BlockHash, Vec<u8>)>);

/// The blocks of each file, the oldest first, of a store that has turned and is closed again.
struct Laid {
    folder: tempfile::TempDir,
    blocks: BTreeMap<u64, Blocks>,
}

impl Laid {
    fn new(dice: &mut Dice) -> Self {
        let folder = test_folder();
        let mut written = Written::new(builder(folder.path(), Some(SIZE)).unwrap().open().unwrap());
        let mut put = || {
            let len = 1 + usize::try_from(dice.below(10_000)).unwrap();
            let hash = written.put(dice.bytes(len));
            written.scratch.info(REALM, hash).unwrap().file
        };
        // Until all files are full but the one being filled, which has just begun: nothing is about to turn.
        let mut file = (0..3 * u64::from(FILES) * SIZE / 5000).map(|_| put()).last().unwrap();
        while file == put() {}
        put();
        file = put();
        written.scratch.flush().unwrap();
        let mut blocks: BTreeMap<_, Blocks> = BTreeMap::new();
        for info in written.infos() {
            let of_file = blocks.entry(info.generation).or_default();
            of_file.0 = info.file.get();
            of_file.1.push((info.hash, written.blocks[&info.hash].clone()));
        }
        written.scratch.close(PATIENCE);
        assert_eq!(blocks.len(), usize::from(FILES));
        assert_eq!(blocks.last_key_value().unwrap().1.0, file.get());
        Self { folder, blocks }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The numbers of the files with blocks, the oldest first.
    fn numbers(&self) -> Vec<u16> {
        self.blocks.values().map(|(number, _)| *number).collect()
    }
}

fn files_of(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    files_in(folder).iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// Waits until the hook was told of as many files as are damaged; which of them are lost, and which only suspect.
fn told(events: &Receiver<Event>, count: usize) -> BTreeMap<u16, bool> {
    let deadline = Instant::now() + PATIENCE;
    let mut told = BTreeMap::new();
    while told.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        let (file, error, is_suspect) = match events.recv_timeout(left).expect("all are told of in time") {
            Event::FileSuspect { file, error } => (file, error, true),
            Event::FileLost { file, error } => (file, error, false),
            _ => continue,
        };
        assert!(error.to_string().contains("somebody else has"), "{error}");
        assert!(error.path().unwrap().to_str().unwrap().contains(&format!("-{file:04}.")), "{error}");
        assert_eq!(told.insert(file.get(), is_suspect), None, "once");
    }
    told
}

/// Waits until the hook is told that a file has made room: which.
fn made_room(events: &Receiver<Event>) -> u16 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if let Event::FileRecycled { file, .. } = events.recv_timeout(left).expect("it has made room in time") {
            return file.get();
        }
    }
}

/// Opens a store some of whose files have another length by now: what the promise says of it, to its end.
fn serves(laid: &Laid, damaged: &BTreeMap<u16, To>, file_size: Option<u64>, dice: &mut Dice) {
    let (tell, events) = channel();
    let builder = builder(laid.path(), file_size).unwrap();
    let scratch = builder.on_event(move |event| drop(tell.send(event.clone()))).open().unwrap();
    let expected: BTreeMap<_, _> = damaged.iter().map(|(number, to)| (*number, to.has_header())).collect();
    assert_eq!(told(&events, damaged.len()), expected);
    let (numbers, is_suspect) = (laid.numbers(), |number: &u16| damaged.get(number).is_some_and(|to| to.has_header()));
    // Files in which nothing is left die at once.
    let is_hollow = |number: &u16| matches!(damaged.get(number), Some(To::Len(len)) if len + 1 < SIZE);
    // If the newest cannot be filled any more the oldest makes room, and no other.
    let may_turn = is_suspect(numbers.last().unwrap());
    let is_there = |number: &u16| !is_hollow(number) && (!may_turn || *number != numbers[0]);
    // The next run has to know as well, even if this one is killed at once.
    for number in damaged.keys().filter(|number| is_suspect(number) && is_there(number)) {
        assert_eq!(path_of(laid.path(), *number).extension().unwrap(), "suspect");
    }
    let report = scratch.wait_recovered(PATIENCE).unwrap();
    assert_eq!(report.files_damaged, damaged.len() as u64, "{report:?}");
    let suspect = damaged.keys().copied().filter(|number| is_suspect(number) && !is_hollow(number));
    let health = scratch.health();
    assert!(health.suspect.is_empty() || health.state == HealthState::Degraded);
    let missing: Vec<u16> = suspect.filter(|number| !health.suspect.iter().any(|file| file.get() == *number)).collect();
    let mut has_turned = !missing.is_empty();
    assert!(missing.iter().all(|number| *number == numbers[0]), "{missing:?}, {health}");

    let mut written = Written::new(scratch);
    for (number, blocks) in laid.blocks.values() {
        let to = damaged.get(number);
        let mut found = 0;
        for (hash, bytes) in blocks {
            written.blocks.insert(*hash, bytes.clone());
            match written.read(*hash) {
                Ok(()) => found += 1,
                Err(ReadError::Missing { .. }) if to.is_some() || *number == numbers[0] => {}
                Err(ReadError::Corrupted { .. }) if to.is_some() => {}
                Err(error) => panic!("file {number}, {to:?}: {error}"),
            }
        }
        let expected = match to {
            // All of it lies where it lay.
            None | Some(To::LongerBy(_)) => blocks.len(),
            // The entry of slot 0 is torn, and no other one; unless the byte that is gone was a zero, as one in 256 is.
            Some(To::Len(len)) if len + 1 == SIZE => found.max(blocks.len() - 1),
            Some(To::Len(_)) => 0,
        };
        has_turned |= found != expected && *number == numbers[0];
        assert!(found == expected || has_turned && *number == numbers[0], "{found} of {expected} of file {number}");
    }
    assert!(may_turn || !has_turned);
    // What is suspect is not filled any more.
    let first = written.put(dice.bytes(100));
    let file = written.scratch.info(REALM, first).unwrap().file.get();
    assert!(!is_suspect(&file) || is_hollow(&file) || file == numbers[0], "file {file}");
    // Three laps later nothing is left of it.
    for _ in 0..3 * u64::from(FILES) * SIZE / 5000 {
        let len = 1 + usize::try_from(dice.below(10_000)).unwrap();
        written.put(dice.bytes(len));
    }
    written.scratch.flush().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while written.scratch.stats().files < u64::from(FILES) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    let health = written.scratch.health();
    assert_eq!((health.state, health.suspect.len()), (HealthState::Healthy, 0), "{health}");
    for hash in written.blocks.keys() {
        written.read(*hash).missing_ok().unwrap();
    }
    written.scratch.close(PATIENCE);
    // Each has died in its turn, but those without a header; the hollow ones as they were found, the newest first.
    let died = |number: &u16| is_suspect(number) || !damaged.contains_key(number);
    let (hollow, others): (Vec<_>, Vec<_>) = numbers.into_iter().filter(died).partition(is_hollow);
    let expected: Vec<u16> = hollow.into_iter().rev().chain(others).collect();
    let order: Vec<u16> = expected.iter().map(|_| made_room(&events)).collect();
    assert_eq!(order, expected);
    let files = files_in(laid.path());
    assert_eq!(files.len(), usize::from(FILES));
    for path in files {
        assert_eq!((path.extension().unwrap().to_str(), path.metadata().unwrap().len()), (Some("scratch"), SIZE));
    }
    // And the next one finds nothing to complain of.
    let Written { scratch, blocks } = written;
    drop(scratch);
    let written = Written { scratch: self::builder(laid.path(), None).unwrap().open().unwrap(), blocks };
    assert_eq!(written.scratch.wait_recovered(PATIENCE).unwrap().files_damaged, 0);
    assert!(written.blocks.keys().filter(|hash| written.read(**hash).missing_ok().unwrap().is_some()).count() > 20);
}

/// One file of another length kept the whole store from being opened: it "does not belong to this store".
#[test]
fn a_file_of_another_length_costs_itself_only() {
    alone("length::a_file_of_another_length_costs_itself_only", 3 * ALL.len() as u64, |round| {
        let (to, which) = (ALL[usize::try_from(round / 3).unwrap()], round % 3);
        let mut dice = Dice::new(round);
        let laid = Laid::new(&mut dice);
        let numbers = laid.numbers();
        // The oldest, one in the middle, the active one.
        let number = [numbers[0], numbers[2], numbers[numbers.len() - 1]][usize::try_from(which).unwrap()];
        println!("round {round}: file {number} {to:?}");
        to.change(&path_of(laid.path(), number));
        let file_size = if round % 2 == 0 { None } else { Some(SIZE) };
        serves(&laid, &BTreeMap::from([(number, to)]), file_size, &mut dice);
    });
}

/// Several were cut to one length: that was taken for the size of the files, and the others for foreign ones.
#[test]
fn several_files_of_another_length_or_all_of_them_cost_themselves_only() {
    alone("length::several_files_of_another_length_or_all_of_them_cost_themselves_only", 12, |round| {
        let mut dice = Dice::new(100 + round);
        let laid = Laid::new(&mut dice);
        let mut all: Vec<u16> = files_in(laid.path()).iter().map(|path| number_of(path)).collect();
        let same = [Some(To::Len(SIZE / 2)), Some(To::LongerBy(4096)), None][usize::try_from(round % 3).unwrap()];
        if round % 4 > 1 {
            all.truncate(3);
        }
        let mut damaged = BTreeMap::new();
        for number in all {
            let drawn = ALL[usize::try_from(dice.below(ALL.len() as u64)).unwrap()];
            damaged.insert(number, same.unwrap_or(drawn));
        }
        // With no header at all nobody knows the layout.
        if damaged.values().all(|to| !to.has_header()) && damaged.len() == usize::from(FILES) {
            *damaged.values_mut().next().unwrap() = To::Len(512);
        }
        println!("round {round}: {damaged:?}");
        for (number, to) in &damaged {
            to.change(&path_of(laid.path(), *number));
        }
        serves(&laid, &damaged, if round % 2 == 0 { None } else { Some(SIZE) }, &mut dice);
    });
}

fn number_of(path: &Path) -> u16 {
    let name = path.file_stem().unwrap().to_str().unwrap();
    name[name.len() - 4..].parse().unwrap()
}

/// What is a question of the layout must not be taken for damage: the store would be deleted file by file.
#[test]
fn a_wrong_file_size_is_refused_and_nothing_is_touched_whatever_else_is_damaged() {
    let laid = Laid::new(&mut Dice::new(7));
    let numbers = laid.numbers();
    let mut damaged = Vec::new();
    for to in [None, Some(To::Len(0)), Some(To::LongerBy(4096)), Some(To::Len(SIZE / 2)), Some(To::Len(5000))] {
        if let Some(to) = to {
            to.change(&path_of(laid.path(), numbers[damaged.len()]));
            damaged.push(to);
        }
        let before = files_of(laid.path());
        for wrong in [SIZE / 2, SIZE * 2, SIZE + 4096] {
            match builder(laid.path(), Some(wrong)).unwrap().open() {
                Err(OpenError::LayoutChanged { was, is }) => assert_eq!((was.file_size, is.file_size), (SIZE, wrong)),
                other => panic!("{damaged:?}: {other:?}"),
            }
            assert!(files_of(laid.path()) == before, "{damaged:?}");
        }
    }
}

/// Files of another length without any header may be those of another layout.
#[test]
fn without_any_header_files_of_another_length_are_refused_and_named() {
    for len in [0, 100, SIZE / 2] {
        let laid = Laid::new(&mut Dice::new(9));
        for path in files_in(laid.path()) {
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(len).unwrap();
            file.write_all_at(&vec![0; usize::try_from(len).unwrap().min(4096)], 0).unwrap();
        }
        let before = files_of(laid.path());
        match builder(laid.path(), Some(SIZE)).unwrap().open() {
            Err(OpenError::Foreign { path, reason }) => {
                assert!(path.to_str().unwrap().contains("-0001."), "{path:?}");
                assert!(reason.contains(&format!("{len} bytes instead of {SIZE}")), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        assert!(files_of(laid.path()) == before);
        // What the error says can be done.
        for path in files_in(laid.path()) {
            fs::remove_file(path).unwrap();
        }
        builder(laid.path(), Some(SIZE)).unwrap().open().unwrap();
    }
}

/// What the error of a header that cannot be read says: whoever removes the file loses its blocks only.
#[test]
fn a_file_that_somebody_removes_costs_its_own_blocks() {
    for which in 0..4 {
        let mut dice = Dice::new(which);
        let laid = Laid::new(&mut dice);
        let number = laid.numbers()[usize::try_from(which).unwrap()];
        fs::remove_file(path_of(laid.path(), number)).unwrap();
        let mut written = Written::new(builder(laid.path(), None).unwrap().open().unwrap());
        written.scratch.wait_recovered(PATIENCE).unwrap();
        for (of, blocks) in laid.blocks.values() {
            for (hash, bytes) in blocks {
                written.blocks.insert(*hash, bytes.clone());
                assert_eq!(written.read(*hash).missing_ok().unwrap().is_some(), *of != number);
            }
        }
        for _ in 0..2 * u64::from(FILES) * SIZE / 5000 {
            let len = 1 + usize::try_from(dice.below(10_000)).unwrap();
            written.put(dice.bytes(len));
        }
        written.scratch.flush().unwrap();
        written.scratch.close(PATIENCE);
        assert_eq!(files_in(laid.path()).len(), usize::from(FILES));
    }
}

/// The number 1, a file in the middle, has lost its last page, and an opening has mended it.
fn mended_first(cut: u64) -> Laid {
    let mut laid = (20..100).map(|seed| Laid::new(&mut Dice::new(seed)));
    let laid = laid.find(|laid| laid.numbers()[1..4].contains(&1)).unwrap();
    To::Len(SIZE - cut).change(&path_of(laid.path(), 1));
    let scratch = builder(laid.path(), None).unwrap().open().unwrap();
    scratch.wait_recovered(PATIENCE).unwrap();
    scratch.close(PATIENCE);
    laid
}

/// The last page of a mended file is zeros: it was taken for one that was never written, and deleted with the blocks and
/// tombstones that it still held, before the opening was refused for those of the next one.
#[test]
fn a_temporary_store_over_blocks_is_refused_before_anything_is_deleted() {
    let without_header = Laid::new(&mut Dice::new(30));
    To::Len(100).change(&path_of(without_header.path(), 1));
    for laid in [mended_first(4096), without_header] {
        let before = files_of(laid.path());
        match builder(laid.path(), Some(SIZE)).unwrap().temporary().open() {
            Err(OpenError::Config(error)) => assert_eq!(error.field, "temporary"),
            other => panic!("{other:?}"),
        }
        assert!(files_of(laid.path()) == before);
    }
}

/// Only the run that had mended a file told of it: if it was killed before, nobody was ever told.
#[test]
fn a_file_that_was_mended_is_told_at_every_opening_until_it_is_made_anew() {
    let laid = mended_first(1);
    for _ in 0..2 {
        let (tell, events) = channel();
        let builder = builder(laid.path(), None).unwrap();
        let scratch = builder.on_event(move |event| drop(tell.send(event.clone()))).open().unwrap();
        let told = events.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(&told, Event::FileSuspect { file, .. } if file.get() == 1), "{told}");
        assert!(told.to_string().contains("an earlier run has marked the file"), "{told}");
        scratch.close(PATIENCE);
    }
}

/// A spare that was cut short counted as the file being filled: the real one was sealed, whatever room it had, and the
/// oldest made room at once.
#[test]
fn a_spare_that_was_cut_short_costs_no_other_file() {
    let folder = test_folder();
    let mut written = Written::new(builder(folder.path(), Some(SIZE)).unwrap().open().unwrap());
    // Enough for the next file to be made ready, and room is left.
    let first = written.put(vec![1; 45_000]);
    let file = written.scratch.info(REALM, first).unwrap().file;
    let began = Instant::now();
    while files_in(folder.path()).len() < 2 {
        assert!(began.elapsed() < PATIENCE, "{}", written.scratch.health());
        std::thread::sleep(Duration::from_millis(2));
    }
    written.scratch.flush().unwrap();
    written.scratch.close(PATIENCE);
    let Written { scratch, blocks } = written;
    drop(scratch);
    let all = files_in(folder.path());
    let spares = all.iter().filter(|path| number_of(path) != file.get());
    spares.for_each(|spare| To::Len(SIZE - 4096).change(spare));
    let mut written = Written { scratch: builder(folder.path(), None).unwrap().open().unwrap(), blocks };
    written.scratch.wait_recovered(PATIENCE).unwrap();
    let second = written.put(vec![2; 100]);
    assert_eq!(written.scratch.info(REALM, second).unwrap().file, file);
    written.read(first).unwrap();
    written.scratch.close(PATIENCE);
}
