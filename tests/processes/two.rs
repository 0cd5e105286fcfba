//! Two processes on one folder, and two stores in one process.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Stdio};

use scratchspace::{BlockHash, OpenError, ReadError, Realm, Scratch, WriteError};

use crate::place::{REALM, alone_in, block, disk, of_test, open, test_folder};
use crate::waiting::{BOUND, until, without_hanging};

/// A process of its own that opens the store in its folder, or says why not, and keeps it until it is killed or told.
#[test]
fn opens_the_folder_of_its_process() {
    let Some(folder) = alone_in() else { return };
    match disk(&folder).build().and_then(Scratch::open) {
        Ok(scratch) => {
            scratch.put(REALM, b"block").unwrap();
            scratch.flush().unwrap();
            println!("opened");
            until("the end", || folder.join("stop").exists());
        }
        Err(OpenError::InUse { folder }) => println!("in use: {}", folder.display()),
        Err(error) => println!("{error}"),
    }
}

/// Such a process, what it said first, and what it still says: without a reader it could say no more.
struct Opener {
    process: Child,
    said: String,
    _output: Lines<BufReader<ChildStdout>>,
}

impl Opener {
    fn start(folder: &Path) -> Self {
        let mut process = of_test("two::opens_the_folder_of_its_process", folder);
        let mut process = process.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = lines.by_ref().map_while(Result::ok).find(|line| line.contains("opened") || line.contains("in use"));
        Self { process, said: said.unwrap_or_default(), _output: lines }
    }

    fn has_opened(&self) -> bool {
        self.said.contains("opened")
    }

    fn end(mut self) {
        assert!(self.process.wait().unwrap().success(), "{}", self.said);
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn of_two_processes_on_one_folder_the_second_is_told_which_is_in_use_and_the_end_of_the_first_frees_it() {
    let folder = test_folder();
    let root = folder.path().canonicalize().unwrap();
    let in_use = |error| assert_eq!(error, OpenError::InUse { folder: root.clone() });
    let first = Opener::start(folder.path());
    assert!(first.has_opened(), "{}", first.said);
    in_use(disk(folder.path()).build().unwrap_err());
    let second = Opener::start(folder.path());
    assert!(second.said.contains(&format!("in use: {}", root.display())), "{}", second.said);
    second.end();
    // Killed, it unlocks nothing by itself.
    first.kill();
    let scratch = open(folder.path());
    assert_eq!(scratch.read(REALM, BlockHash::of(b"block"), <[u8]>::len), Ok(5));
    let lent = scratch.get(REALM, scratch.put(REALM, &block(1, 70_000)).unwrap()).unwrap();
    let third = Opener::start(folder.path());
    assert!(!third.has_opened());
    third.end();
    // A block that is lent keeps the folder from other processes, too.
    scratch.close(BOUND);
    drop(scratch);
    let third = Opener::start(folder.path());
    assert!(!third.has_opened());
    third.end();
    drop(lent);
    let last = Opener::start(folder.path());
    assert!(last.has_opened(), "{}", last.said);
    fs::write(folder.path().join("stop"), "").unwrap();
    last.end();
    open(folder.path());
}

#[test]
fn of_many_processes_that_open_a_new_folder_at_once_one_gets_it() {
    let folder = test_folder();
    let start = |_| {
        let folder = folder.path().to_path_buf();
        std::thread::spawn(move || Opener::start(&folder))
    };
    let starting: Vec<_> = (0..5).map(start).collect();
    let openers: Vec<_> = starting.into_iter().map(|opener| opener.join().unwrap()).collect();
    fs::write(folder.path().join("stop"), "").unwrap();
    let said: Vec<_> = openers.iter().map(|opener| &opener.said).collect();
    assert_eq!(openers.iter().filter(|opener| opener.has_opened()).count(), 1, "{said:?}");
    assert!(said.iter().all(|line| line.contains("opened") || line.contains("in use")), "{said:?}");
    openers.into_iter().for_each(Opener::end);
    assert_eq!(open(folder.path()).read(REALM, BlockHash::of(b"block"), <[u8]>::len), Ok(5));
}

#[test]
fn two_stores_of_one_process_in_different_folders_know_nothing_of_each_other() {
    let (one, two) = (test_folder(), test_folder());
    let (first, second) = (open(one.path()), open(two.path()));
    let name = BlockHash::of(b"name");
    first.put_named(REALM, name, b"of the first").unwrap();
    assert_eq!(second.read(REALM, name, |_| ()), Err(ReadError::Missing { realm: REALM, hash: name }));
    second.put_named(REALM, name, b"of the second").unwrap();
    assert!(!second.contains(Realm::from(7), name).unwrap());
    assert!(first.remove(REALM, name).unwrap());
    assert_eq!(second.read(REALM, name, <[u8]>::to_vec), Ok(b"of the second".to_vec()));
    first.put_named(REALM, name, b"again").unwrap();
    first.close(BOUND);
    assert_eq!(first.put(REALM, b"late"), Err(WriteError::Closed));
    assert_eq!(second.put(REALM, b"late"), Ok(BlockHash::of(b"late")));
    drop(first);
    // The folder of a store that is open is in use also for its own process; the other is free.
    assert!(
        matches!(disk(two.path()).build(), Err(OpenError::InUse { folder }) if folder == two.path().canonicalize().unwrap())
    );
    assert_eq!(open(one.path()).read(REALM, name, <[u8]>::to_vec), Ok(b"again".to_vec()));
    assert_eq!(second.stats().blocks, 2);
}

/// Closures of each store that read and write in the other, on the threads of both. A write there that waits for room
/// runs closures of that store, which find themselves inside of this one: they are told so, and nothing hangs.
#[test]
fn closures_of_two_stores_may_call_each_other_at_the_same_time() {
    let (one, two) = (test_folder(), test_folder());
    let (first, second) = (open(one.path()), open(two.path()));
    let name = |number: u128| BlockHash::from_u128(number);
    // While the other has nothing to do, a call into it is a call like any other.
    for (here, there) in [(&first, &second), (&second, &first)] {
        let other = there.clone();
        here.write_named(REALM, name(999), 1, move |_| other.put_named(REALM, name(1000), b"sevenal").unwrap())
            .unwrap();
        here.flush().unwrap();
    }
    for number in 0..40 {
        for (here, there) in [(&first, &second), (&second, &first)] {
            let other = there.clone();
            here.write_named(REALM, name(number), 5000, move |bytes| {
                let found = other.read(REALM, name(1000), <[u8]>::len);
                assert!(matches!(found, Ok(7) | Err(ReadError::Reentrant)), "{found:?}");
                let put = other.put_named(REALM, name(1000), b"sevenal");
                assert!(matches!(put, Ok(()) | Err(WriteError::Reentrant)), "{put:?}");
                bytes.fill(9);
            })
            .unwrap();
        }
    }
    for scratch in [&first, &second] {
        scratch.flush().unwrap();
        assert_eq!(scratch.read(REALM, name(1000), <[u8]>::len), Ok(7));
        assert_eq!(scratch.stats().failed, 0);
    }
    // Each owns nothing of the other any more: both end, in either order.
    without_hanging(move || drop(first));
    without_hanging(move || drop(second));
    assert_eq!(open(one.path()).read(REALM, name(1000), <[u8]>::len), Ok(7));
}
