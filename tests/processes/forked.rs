//! A forked child inherits handles, but neither threads nor mappings: it is told so, and does the parent no harm.
#![forbid(unsafe_code)]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use scratchspace::{
    BlittableWriter, BlockHash, CloseReport, CommitError, FileId, FileSource, HealthState, MemoryFileSource, OpenError,
    ReadError, ReadWithError, Scratch, Stats, WriteError,
};

use crate::fork::{ABORTED, WELL, end_here, fork, fork_here};
use crate::place::{REALM, alone_in, block, disk, of_test, open, test_folder};
use crate::waiting::{BOUND, until, without_hanging};

/// Calls every verb of an inherited handle; panics at the first that does not say `Forked`.
fn assert_every_verb_is_refused(scratch: &Scratch, hash: BlockHash, writer: BlittableWriter) {
    let put = [
        scratch.put(REALM, b"other").map(drop),
        scratch.put(REALM, b"block").map(drop),
        scratch.put_named(REALM, hash, b"other"),
        scratch.put_many(REALM, &[b"other"]).map(drop),
        scratch.write(REALM, BlockHash::of(b"other"), 5, |_| unreachable!()),
        scratch.write_named(REALM, hash, 5, |_| unreachable!()),
        scratch.remove(REALM, hash).map(drop),
    ];
    assert!(put.iter().all(|result| *result == Err(WriteError::Forked)), "{put:?}");
    let commit = writer.commit().map(drop);
    assert!(matches!(commit, Err(CommitError::Write(WriteError::Forked))), "{commit:?}");
    let reads = [
        scratch.read(REALM, hash, |_| unreachable!()),
        scratch.read_verified(REALM, hash, |_| unreachable!()),
        scratch.get(REALM, hash).map(drop),
        scratch.contains(REALM, hash).map(drop),
        scratch.info(REALM, hash).map(drop),
        scratch.for_each(REALM, |_| unreachable!()),
        scratch.get_many(REALM, &[hash], |_, _| unreachable!()),
        scratch.wait_recovered(Duration::ZERO).map(drop),
    ];
    assert!(reads.iter().all(|result| *result == Err(ReadError::Forked)), "{reads:?}");
    let with = scratch.read_with(REALM, hash, |_| -> Result<(), ()> { unreachable!() });
    assert_eq!(with, Err(ReadWithError::Read(ReadError::Forked)));
    let flush = scratch.flush().unwrap_err().to_string();
    assert!(flush.contains("forked") && flush.contains("open a store of its own"), "{flush}");
    assert_eq!(scratch.stats(), Stats::default());
    assert!(scratch.health().closed && scratch.health().folders.is_empty());
    assert_eq!((scratch.len(), scratch.recovery().complete), (0, false));
    assert_eq!(scratch.health().state, HealthState::Failed);
    assert!(scratch.explain().iter().count() > 5 && format!("{scratch:?}").contains("Scratch"));
    assert_eq!(scratch.close(BOUND), CloseReport::default());
}

#[test]
fn every_verb_of_an_inherited_handle_is_refused() {
    let folder = test_folder();
    let memory = MemoryFileSource::builder().build().unwrap();
    for scratch in [open(folder.path()), Scratch::open(memory).unwrap()] {
        let hash = scratch.put(REALM, b"block").unwrap();
        let (held, mut writer) = (scratch.get(REALM, hash).unwrap(), scratch.writer(REALM));
        writer.write(&7_u32);
        let (mine, of_child) = (scratch.clone(), held.clone());
        let child = fork(move || {
            assert_every_verb_is_refused(&mine, hash, writer);
            drop((of_child, mine));
        });
        assert_eq!(child.wait(), WELL);
        assert_eq!(&held[..], b"block");
        assert_eq!(scratch.put(REALM, b"after"), Ok(BlockHash::of(b"after")));
        assert_eq!(scratch.read(REALM, hash, <[u8]>::to_vec), Ok(b"block".to_vec()));
        scratch.flush().unwrap();
    }
}

/// Whatever is locked at the fork stays so in the child: no verb may ask for a lock.
#[test]
fn a_child_forked_under_load_is_refused_without_waiting_for_any_lock() {
    let folder = test_folder();
    let scratch = open(folder.path());
    let hash = scratch.put(REALM, b"block").unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..3)
        .map(|thread| {
            let (scratch, over) = (scratch.clone(), Arc::clone(&over));
            thread::spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let name = BlockHash::from_u128(number % 50);
                    scratch.put_named(REALM, name, &block(thread, 9000)).unwrap();
                    scratch.write_named(REALM, name, 100, |_| ()).unwrap();
                    // Recycled or failed meanwhile: anything but an error of the disk.
                    let read = scratch.read(REALM, name, <[u8]>::len);
                    assert!(!matches!(read, Err(ReadError::Io(_) | ReadError::Corrupted { .. })), "{read:?}");
                    assert!(scratch.stats().written_blocks > 0);
                }
            })
        })
        .collect();
    for _ in 0..40 {
        let (mine, writer) = (scratch.clone(), scratch.writer(REALM));
        let child = fork(move || {
            assert_every_verb_is_refused(&mine, hash, writer);
            drop(mine);
        });
        assert_eq!(child.wait(), WELL);
    }
    over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    without_hanging(move || drop(scratch));
    open(folder.path());
}

/// Every name below a folder.
fn names(folder: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

fn is_in_use(folder: &Path) -> bool {
    match disk(folder).build() {
        Ok(_) => false,
        Err(OpenError::InUse { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

/// An unlock in the child would have been one in the parent: the lock is shared.
#[test]
fn a_child_that_drops_all_it_inherited_takes_nothing_from_the_parent() {
    for temporary in [false, true] {
        let folder = test_folder();
        let builder = Scratch::builder(disk(folder.path()).build().unwrap());
        let scratch = if temporary { builder.temporary() } else { builder }.open().unwrap();
        let hash = scratch.put(REALM, &block(1, 70_000)).unwrap();
        let held = scratch.get(REALM, hash).unwrap();
        let before = names(folder.path());
        let (mine, of_child) = (scratch.clone(), held.clone());
        let child = fork(|| {
            // The parent's own handles go as well: here they are copies.
            for handle in [mine, scratch.clone()] {
                handle.close(Duration::ZERO);
                drop(handle);
            }
            drop(of_child);
        });
        assert_eq!(child.wait(), WELL);
        // The child of all handles: none is left there.
        let Some(child) = fork_here() else { end_here(|| drop((scratch, held))) };
        assert_eq!(child.wait(), WELL);
        assert_eq!(names(folder.path()), before);
        assert!(is_in_use(folder.path()), "the child has not unlocked the parent's folder");
        assert_eq!(held[..], block(1, 70_000));
        assert_eq!(scratch.put(REALM, b"after"), Ok(BlockHash::of(b"after")));
        scratch.flush().unwrap();
        drop(scratch);
        assert!(is_in_use(folder.path()), "a block is lent");
        drop(held);
        if !temporary {
            assert_eq!(open(folder.path()).read(REALM, hash, |bytes| bytes == block(1, 70_000)), Ok(true));
        }
    }
}

/// The child has a copy of every descriptor of the parent; the parent unlocks by itself.
#[test]
fn a_store_that_was_closed_may_be_opened_again_though_a_forked_child_lives() {
    let folder = test_folder();
    let stop = folder.path().join("stop");
    let root = folder.path().join("store");
    let scratch = open(&root);
    let hash = scratch.put(REALM, b"block").unwrap();
    let source = disk(&folder.path().join("other")).build().unwrap();
    let mut child = fork(|| until("the end", || stop.exists()));
    assert!(is_in_use(&root));
    drop(scratch);
    drop(source);
    let scratch = open(&root);
    assert_eq!(scratch.read(REALM, hash, <[u8]>::to_vec), Ok(b"block".to_vec()));
    assert!(!is_in_use(&folder.path().join("other")));
    assert_eq!(child.look(), None, "the child still lives");
    fs::write(&stop, "").unwrap();
    assert_eq!(child.wait(), WELL);
    assert!(is_in_use(&root), "the end of the child has not unlocked what the parent opened again");
}

/// The one case in which a child keeps the folder: its parent could not unlock it any more.
#[test]
fn the_folder_of_a_killed_parent_is_in_use_until_its_forked_children_have_ended() {
    let folder = test_folder();
    let (root, ready, stop) = (folder.path().join("store"), folder.path().join("ready"), folder.path().join("stop"));
    let parent = fork(|| {
        let scratch = open(&root);
        scratch.put(REALM, b"block").unwrap();
        scratch.flush().unwrap();
        let child = fork(|| {
            fs::write(&ready, "").unwrap();
            until("the end", || stop.exists());
        });
        // Until it is killed.
        child.wait();
    });
    until("the child", || ready.exists());
    assert!(is_in_use(&root));
    parent.kill();
    assert!(is_in_use(&root), "the child holds a copy of the lock");
    fs::write(&stop, "").unwrap();
    until("the end of the child", || !is_in_use(&root));
    assert_eq!(open(&root).read(REALM, BlockHash::of(b"block"), <[u8]>::len), Ok(5));
}

#[test]
fn a_block_lent_before_the_fork_panics_in_the_child_unless_it_is_a_copy() {
    let folder = test_folder();
    let scratch = Scratch::builder(disk(folder.path()).build().unwrap())
        .gather(64 << 10, Duration::from_secs(10))
        .open()
        .unwrap();
    let mapped = scratch.put(REALM, &block(1, 70_000)).unwrap();
    let mapped = scratch.get(REALM, mapped).unwrap();
    let gathered = scratch.put(REALM, b"gathered").unwrap();
    let copied = scratch.get(REALM, gathered).unwrap();
    let child = fork(|| {
        assert_eq!(&copied.clone()[2..], b"thered");
        let part = mapped.slice(10..20);
        assert_eq!(format!("{part:?}"), "BlockRef { len: 10, .. }");
        let panic = catch_unwind(AssertUnwindSafe(|| part[0])).unwrap_err();
        assert!(panic.downcast_ref::<&str>().unwrap().contains("forked child"));
        drop(part);
    });
    assert_eq!(child.wait(), WELL);
    assert_eq!((mapped[..] == block(1, 70_000), &copied[..]), (true, &b"gathered"[..]));
}

/// In the child, the addresses of the parent's mappings are free, and something else may come to lie there.
#[test]
#[cfg(target_os = "linux")]
fn a_child_has_no_mapping_of_the_parent_and_unmaps_none_at_its_address() {
    use crate::fork::{byte_at, map_at};

    let folder = test_folder();
    let source = disk(folder.path()).build().unwrap();
    let memory = source.create(FileId::new(1).unwrap(), b"header").unwrap();
    let base = memory.base();
    let Some(child) = fork_here() else {
        end_here(move || {
            map_at(base, 7).expect("the child has nothing there");
            for refused in
                [memory.store(4096, &[b"x"]), memory.load(0, &mut [0; 6]), memory.sync(), memory.populate(0..9)]
            {
                assert!(refused.unwrap_err().to_string().contains("forked child"));
            }
            memory.will_need(0..4096);
            drop(memory);
            assert_eq!(byte_at(base), 7, "nothing was unmapped");
            for refused in
                [source.create(FileId::new(2).unwrap(), b""), source.create_unnamed(FileId::new(2).unwrap(), b"")]
            {
                assert!(refused.unwrap_err().to_string().contains("forked child"));
            }
            assert!(source.delete(FileId::new(1).unwrap()).is_err());
            assert_eq!(source.scan().unwrap_err(), OpenError::Forked);
            assert_eq!(Scratch::open(source).unwrap_err(), OpenError::Forked);
        })
    };
    assert_eq!(child.wait(), WELL);
    let mut header = [0; 6];
    memory.load(0, &mut header).unwrap();
    assert_eq!(&header, b"header");
    assert!(map_at(base, 7).is_err(), "the parent still has it");
    assert!(is_in_use(folder.path()));
}

/// The child of this process has one thread and no lock of anybody else.
#[test]
fn opens_a_store_in_a_forked_child() {
    let Some(folder) = alone_in() else { return };
    let parent = open(&folder.join("parent"));
    let hash = parent.put(REALM, b"of the parent").unwrap();
    let child = fork(|| {
        assert!(is_in_use(&folder.join("parent")), "the parent's folder is the parent's");
        let own = open(&folder.join("child"));
        assert_eq!(own.put(REALM, b"of the child"), Ok(BlockHash::of(b"of the child")));
        assert_eq!(own.read(REALM, hash, |_| ()).unwrap_err(), ReadError::Missing { realm: REALM, hash });
        assert_eq!(parent.put(REALM, b"x"), Err(WriteError::Forked));
        let grandchild = fork(|| {
            assert_eq!(own.put(REALM, b"x"), Err(WriteError::Forked));
            assert_eq!(parent.put(REALM, b"x"), Err(WriteError::Forked));
        });
        assert_eq!(grandchild.wait(), WELL);
        assert_eq!(own.read(REALM, BlockHash::of(b"of the child"), <[u8]>::len), Ok(12));
        own.close(BOUND);
    });
    assert_eq!(child.wait(), WELL);
    drop(parent);
    let own = open(&folder.join("child"));
    assert_eq!(own.read(REALM, BlockHash::of(b"of the child"), <[u8]>::len), Ok(12));
    println!("the child had a store of its own");
}

#[test]
fn a_forked_child_may_open_a_store_of_its_own() {
    let folder = test_folder();
    let output = of_test("forked::opens_a_store_in_a_forked_child", folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("the child had a store of its own"), "{output:?}");
}

#[test]
fn a_closure_of_a_read_may_fork_and_its_child_is_refused_from_then_on() {
    let folder = test_folder();
    let scratch = open(folder.path());
    let hashes: Vec<_> = (0..4).map(|number| scratch.put(REALM, &block(number, 70_000)).unwrap()).collect();
    let mut child = None;
    let mut seen = 0;
    let result = scratch.get_many(REALM, &hashes, |at, found| {
        seen += usize::from(found.is_ok());
        if at == 1 {
            child = fork_here();
        }
    });
    let Some(child) = child else { end_here(|| assert_eq!((result, seen), (Err(ReadError::Forked), 2))) };
    assert_eq!((child.wait(), result, seen), (WELL, Ok(()), 4));

    let (mut child, mut seen) = (None, 0);
    let result = scratch.for_each(REALM, |_| {
        seen += 1;
        if seen == 2 {
            child = fork_here();
        }
    });
    let Some(child) = child else { end_here(|| assert_eq!((result, seen), (Err(ReadError::Forked), 2))) };
    assert_eq!((child.wait(), result, seen), (WELL, Ok(()), 4));
}

/// It would go on inside of the store of its parent, with locks that nobody there will ever release.
#[test]
fn a_child_that_returns_from_a_closure_of_a_write_is_aborted_and_the_block_is_the_parents() {
    let folder = test_folder();
    let scratch = open(folder.path());
    let (told, children) = channel();
    let name = BlockHash::of(b"forks");
    let closure = move |bytes: &mut [u8]| match fork_here() {
        Some(child) => {
            bytes.fill(1);
            told.send(child).unwrap();
        }
        None => bytes.fill(2),
    };
    scratch.write_named(REALM, name, 70_000, closure).unwrap();
    scratch.flush().unwrap();
    assert_eq!(children.recv_timeout(BOUND).unwrap().wait(), ABORTED);
    assert_eq!(scratch.read(REALM, name, |bytes| bytes.iter().all(|byte| *byte == 1)), Ok(true));
}
