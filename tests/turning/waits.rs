//! Waits end at their deadline, and a store that never waits never does.

use std::sync::mpsc;
use std::time::Duration;

use scratchspace::{BlockHash, OnFull, ReadError, WriteError};

use crate::store::{KIB, PAGE, REALM, Shape, block};

#[test]
fn without_a_timeout_what_would_wait_is_refused_and_the_wheel_goes_on() {
    for shape in Shape::all(3, 64 * KIB) {
        let store = shape.open_with(|builder| builder.wait_timeout(Duration::ZERO));
        let mut written = 0;
        let began = std::time::Instant::now();
        while written < 3 * shape.capacity() / PAGE as u64 {
            match store.scratch.put(REALM, &block(written, 100)) {
                Ok(_) => written += 1,
                Err(WriteError::Timeout { .. } | WriteError::AllPinned { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{shape:?}: {error}"),
            }
            assert!(began.elapsed() < crate::store::HANGS, "{shape:?}: {:?}", store.scratch.stats());
        }
        assert_eq!(store.scratch.stats().waits, 0, "{shape:?}");
    }
}

#[test]
fn without_a_timeout_a_reader_does_not_wait_for_a_closure_that_somebody_else_runs() {
    let store = Shape::one_lane(3, 64 * KIB).open_with(|builder| builder.wait_timeout(Duration::ZERO));
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel();
    let bytes = block(1, 100);
    let (hash, copy) = (BlockHash::of(&bytes), bytes.clone());
    let closure = move |into: &mut [u8]| {
        begun.send(()).unwrap();
        may_go_on.recv().unwrap();
        into.copy_from_slice(&copy);
    };
    store.scratch.write(REALM, hash, bytes.len(), closure).unwrap();
    has_begun.recv().unwrap();
    assert!(matches!(store.scratch.get(REALM, hash), Err(ReadError::Busy { .. })));
    assert!(store.scratch.contains(REALM, hash).unwrap());
    let other = store.scratch.put(REALM, b"other").unwrap();
    assert_eq!(&store.scratch.get(REALM, other).unwrap()[..], b"other");
    go_on.send(()).unwrap();
    crate::store::eventually("the closure has run", || {
        store.scratch.get(REALM, hash).is_ok_and(|read| read[..] == bytes)
    });
}

#[test]
fn a_closure_that_hangs_costs_its_file_and_not_the_store() {
    let store = Shape::one_lane(4, 64 * KIB).open_with(|builder| builder.wait_timeout(Duration::from_secs(20)));
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let hash = BlockHash::of(b"hangs");
    let (begun, has_begun) = mpsc::channel();
    let closure = move |into: &mut [u8]| {
        begun.send(()).unwrap();
        may_go_on.recv().ok();
        into.copy_from_slice(b"hangs");
    };
    store.scratch.write(REALM, hash, 5, closure).unwrap();
    has_begun.recv().unwrap();
    for number in 0..300 {
        let written = store.scratch.put(REALM, &block(number, 3000)).unwrap();
        assert_eq!(store.scratch.get(REALM, written).unwrap().len(), 3000);
    }
    let stats = store.scratch.stats();
    assert!(stats.turns > 10 && stats.draining == 1, "{stats:?}");
    assert!(!store.scratch.contains(REALM, hash).unwrap());
    drop(go_on);
    crate::store::eventually("its file serves again", || store.scratch.stats().draining == 0);
}

#[test]
fn a_full_store_that_may_not_forget_refuses_at_once() {
    // A timeout that would be noticed: the refusal does not use it.
    let store = Shape::one_lane(3, 32 * KIB)
        .open_with(|builder| builder.on_full(OnFull::Refuse).wait_timeout(crate::store::HANGS * 60));
    let error = (0..1000).find_map(|number| store.scratch.put(REALM, &block(number, PAGE)).err()).unwrap();
    assert!(matches!(error, WriteError::Full { .. }), "{error}");
}
