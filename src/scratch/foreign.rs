//! What finds a block when the index cannot tell it from another realm's: two pairs of realm and key that share both
//! buckets and the tag, which is too rare to happen in a test. Here the look-up is given the hash of the owner's pair.
#![forbid(unsafe_code)]

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::block::{BlockHash, BlockKind, Realm};
use crate::error::ReadError;
use crate::scratch::Scratch;
use crate::storage::MemoryFileSource;
use crate::wheel::{FileWheel, Verify};

const PATIENCE: Duration = Duration::from_mins(1);

/// Looks for `key` of `foreign` where the index names the block of `owner`.
fn assert_nothing_is_found(wheel: &FileWheel, owner: Realm, foreign: Realm, key: BlockHash) {
    let hash = wheel.key_hash(owner, key);
    for verify in [Verify::FirstRead, Verify::Always, Verify::Never] {
        let found = wheel.find_hashed(hash, foreign, key, verify).err();
        assert_eq!(found, Some(ReadError::Missing { realm: foreign, hash: key }), "{verify:?}");
    }
    assert!(wheel.locate(hash, foreign, key).unwrap().is_none());
    assert!(!wheel.has_content(hash, foreign, key, true, &wheel.deadline()));
    wheel.request_ahead(hash, foreign, key);
    assert!(wheel.complete_pending(hash, foreign, key, &wheel.deadline()));
}

#[test]
fn a_pair_that_the_index_takes_for_another_realms_finds_nothing_in_any_state_of_the_block() {
    let memory = MemoryFileSource::builder().file_size(1 << 20).build().unwrap();
    let open = || {
        let builder = Scratch::builder(memory.clone()).gather(64 << 10, Duration::from_secs(10));
        let scratch = builder.open().unwrap();
        scratch.wait_recovered(PATIENCE).unwrap();
        scratch
    };
    let scratch = open();
    let owner = Realm::from(7);
    let ready = scratch.put(owner, &vec![1; 70_000]).unwrap();
    scratch.flush().unwrap();
    // These two stay gathered, and the removed one is a gathered tombstone until the restart.
    let removed = scratch.put(owner, b"removed").unwrap();
    let gathered = scratch.put(owner, b"gathered").unwrap();
    assert!(scratch.remove(owner, removed).unwrap());
    // The only flusher is kept busy, so that the second closure waits.
    let (enter, entered) = channel();
    let (release, released) = channel::<()>();
    let (running, waiting) = (BlockHash::from_u128(1), BlockHash::from_u128(2));
    let stall = move |_: &mut [u8]| {
        enter.send(()).unwrap();
        released.recv_timeout(PATIENCE).ok();
    };
    scratch.write_named(owner, running, 9, stall).unwrap();
    entered.recv_timeout(PATIENCE).unwrap();
    scratch.write_named(owner, waiting, 9, |_| ()).unwrap();
    let keys = [ready, removed, gathered, running, waiting];
    let bits = (0..24).step_by(if cfg!(miri) { 8 } else { 1 });
    let foreign: Vec<Realm> = bits.map(|bit| Realm::new(7 ^ (1 << bit)).unwrap()).collect();
    for realm in &foreign {
        for key in keys {
            assert_nothing_is_found(scratch.wheel(), owner, *realm, key);
        }
    }
    // No look-up has run a closure, or waited for one.
    assert_eq!(scratch.stats().closures_run, 0);
    release.send(()).unwrap();
    scratch.flush().unwrap();
    for realm in &foreign {
        for key in keys {
            assert_nothing_is_found(scratch.wheel(), owner, *realm, key);
        }
    }
    drop(scratch);
    // Unverified, and then verified.
    let scratch = open();
    for _ in 0..2 {
        for realm in &foreign {
            for key in keys {
                assert_nothing_is_found(scratch.wheel(), owner, *realm, key);
            }
        }
        let kinds = keys.map(|key| scratch.wheel().locate(scratch.wheel().key_hash(owner, key), owner, key));
        let kinds = kinds.map(|found| found.unwrap().map(|(_, block)| block.kind));
        let (content, named) = (Some(BlockKind::Content), Some(BlockKind::Named));
        assert_eq!(kinds, [content, Some(BlockKind::Tombstone), content, named, named]);
        assert_eq!(scratch.read(owner, ready, <[u8]>::len), Ok(70_000));
        assert_eq!(scratch.read(owner, gathered, <[u8]>::len), Ok(8));
    }
}
