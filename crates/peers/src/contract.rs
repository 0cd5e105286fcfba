//! What every adapter promises, as code. Each runs it from its own `mod tests`.
#![forbid(unsafe_code)]

use crate::store::{Peer, Plan, Store};

const LEN: usize = 8192;
const BLOCKS: u64 = 24;

/// Runs the contract, or says why not.
pub(crate) fn check(peer: Peer) {
    if let Err(why) = (peer.probe)() {
        return benchkit::skipped(&format!("{}: {why}", peer.name));
    }
    let folder = benchkit::folder();
    let plan = Plan {
        folder: folder.path().to_owned(),
        block_len: LEN,
        blocks: BLOCKS,
        spare: BLOCKS,
        threads: 1,
        bounded: false,
        memory: 1 << 30,
    };
    let open = || (peer.open)(&plan).unwrap_or_else(|error| panic!("{}: {error}", peer.name));
    let store = open();
    an_absent_number_is_a_miss(&*store);
    what_was_put_is_read_back_bit_for_bit(&*store);
    what_was_removed_is_a_miss_and_the_rest_is_there(&*store);
    store.sync().unwrap();
    drop(store);

    let store = open();
    store.settle().unwrap();
    everything_is_found_again(&*store);
    another_thread_reads_what_one_has_put(&*store);
    the_newest_content_counts(&*store);
    two_writers_take_turns(&*store);
}

fn content(number: u64, version: u8) -> Vec<u8> {
    let mut block = benchkit::noise(LEN);
    block.fill_with({
        let mut at = version;
        move || {
            at = at.wrapping_mul(31).wrapping_add(7);
            at
        }
    });
    benchkit::stamp(&mut block, number);
    block
}

fn read(store: &dyn Store, number: u64) -> Option<Vec<u8>> {
    let mut reader = store.reader().unwrap();
    let mut block = None;
    let found =
        reader.read(number, &mut |bytes| assert!(block.replace(bytes.to_vec()).is_none(), "lent once")).unwrap();
    assert_eq!(found, block.is_some(), "block {number}");
    assert_eq!(reader.contains(number).unwrap(), found, "block {number}");
    block
}

fn put(store: &dyn Store, numbers: impl IntoIterator<Item = u64>, version: u8) {
    let mut writer = store.writer().unwrap();
    for number in numbers {
        writer.put(number, &content(number, version)).unwrap();
    }
    writer.publish().unwrap();
}

fn an_absent_number_is_a_miss(store: &dyn Store) {
    assert_eq!((read(store, 1), read(store, BLOCKS)), (None, None));
}

fn what_was_put_is_read_back_bit_for_bit(store: &dyn Store) {
    put(store, 1..=BLOCKS, 1);
    for number in 1..=BLOCKS {
        assert!(read(store, number) == Some(content(number, 1)), "block {number}");
    }
    assert_eq!(read(store, BLOCKS + 1), None);
}

fn what_was_removed_is_a_miss_and_the_rest_is_there(store: &dyn Store) {
    let mut writer = store.writer().unwrap();
    for number in 1..=4 {
        writer.remove(number).unwrap();
    }
    writer.publish().unwrap();
    drop(writer);
    for number in 1..=BLOCKS {
        assert_eq!(read(store, number).is_some(), number > 4, "block {number}");
    }
}

fn everything_is_found_again(store: &dyn Store) {
    for number in 5..=BLOCKS {
        assert!(read(store, number) == Some(content(number, 1)), "block {number} after a restart");
    }
    assert_eq!(read(store, BLOCKS + 1), None);
}

fn another_thread_reads_what_one_has_put(store: &dyn Store) {
    put(store, BLOCKS + 1..=BLOCKS + 4, 2);
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| read(store, BLOCKS + 2)).join().unwrap();
        assert!(seen == Some(content(BLOCKS + 2, 2)));
    });
}

fn the_newest_content_counts(store: &dyn Store) {
    put(store, [6, 7], 3);
    for (number, version) in [(5, 1), (6, 3), (7, 3), (8, 1)] {
        assert!(read(store, number) == Some(content(number, version)), "block {number}");
    }
}

fn two_writers_take_turns(store: &dyn Store) {
    std::thread::scope(|scope| {
        for thread in 0..2 {
            scope.spawn(move || put(store, (BLOCKS + 5..BLOCKS + 13).filter(|number| number % 2 == thread), 4));
        }
    });
    for number in BLOCKS + 5..BLOCKS + 13 {
        assert!(read(store, number) == Some(content(number, 4)), "block {number}");
    }
}
