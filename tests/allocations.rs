//! What the store allocates: nothing to read a block, and at most what the README says.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use scratchspace::{BlockHash, DiskFileSource, Realm, Scratch};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The system's allocator, counted.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static OF_THREAD: Cell<usize> = const { Cell::new(0) };
}

fn taken(bytes: usize) {
    // Relaxed: numbers that guard nothing.
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    MOST.fetch_max(live, Ordering::Relaxed);
    // A thread that ends may allocate when its counter is gone.
    let _ = OF_THREAD.try_with(|count| count.set(count.get() + 1));
}

fn given_back(bytes: usize) {
    LIVE.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: each call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both may be there for a moment.
        taken(size);
        // SAFETY: the caller keeps the contract, which is the same.
        let moved = unsafe { System.realloc(memory, layout, size) };
        given_back(if moved.is_null() { size } else { layout.size() });
        moved
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        given_back(layout.size());
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: they share the counters.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder() -> tempfile::TempDir {
    std::env::var_os("SCRATCHSPACE_TEST_DIR").map_or_else(tempfile::tempdir, tempfile::tempdir_in).unwrap()
}

/// How often this thread allocates meanwhile.
fn allocations(act: impl FnOnce()) -> usize {
    let before = OF_THREAD.with(Cell::get);
    act();
    OF_THREAD.with(Cell::get) - before
}

fn block(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = vec![7; len];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

#[test]
fn a_block_that_is_in_memory_is_read_without_an_allocation() {
    let _alone = alone();
    let folder = folder();
    let source =
        DiskFileSource::builder().folder(folder.path()).files_per_folder(4).file_size(16 << 20).build().unwrap();
    let scratch = Scratch::open(source).unwrap();
    let lens = [8, 100, 4096, 5000, 70_000, 400_000];
    let hashes: Vec<_> =
        (0..60).map(|number| scratch.put(Realm::DEFAULT, &block(number, lens[number % 6])).unwrap()).collect();
    scratch.flush().unwrap();
    let mut bytes = 0;
    let mut read_all = || {
        for hash in &hashes {
            bytes += scratch.read(Realm::DEFAULT, *hash, <[u8]>::len).unwrap();
        }
        scratch.get_many(Realm::DEFAULT, &hashes, |_, block| bytes += block.unwrap().len()).unwrap();
        assert!(!scratch.contains(Realm::DEFAULT, BlockHash::from_u128(7)).unwrap());
    };
    read_all();
    assert_eq!(allocations(&mut read_all), 0);
    assert_eq!(bytes, 2 * 2 * 10 * lens.iter().sum::<usize>());
    // What is held has a count of those who hold it.
    assert_eq!(allocations(|| drop(scratch.get(Realm::DEFAULT, hashes[1]).unwrap().clone())), 1);
}

/// Laps of blocks of all lengths, put, promised and read by eight threads.
#[test]
fn a_store_allocates_no_more_than_it_promises() {
    const LANES: u16 = 2;
    const FILES: u16 = 4 * LANES;
    const FILE_SIZE: usize = 4 * MIB;
    const GATHER: usize = 256 * KIB;
    const STAGING: usize = 2 * MIB;
    const THREADS: usize = 8;
    const LONGEST: usize = MIB;

    let _alone = alone();
    let folder = folder();
    // What closures hold is the user's: they hold numbers here. Neither is what is put, nor the handles.
    let of_users = THREADS * LONGEST;
    let before = LIVE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let files = DiskFileSource::builder().folder(folder.path()).files_per_folder(FILES).file_size(FILE_SIZE as u64);
    let scratch = Scratch::builder(files.build().unwrap())
        .gather(GATHER as u64, Duration::from_millis(1))
        .max_pending_bytes(4 << 20)
        .max_staging_bytes(STAGING as u64)
        .lanes_per_folder(LANES)
        .open()
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let scratch = &scratch;
            scope.spawn(move || {
                let mut bytes = block(0, LONGEST);
                for number in (thread..12_000).step_by(THREADS) {
                    let len = match number % 64 {
                        0 => LONGEST,
                        1..4 => 100_000,
                        _ => 8 + number % 6000,
                    };
                    let key = BlockHash::from_u128(number as u128);
                    if number % 5 == 0 {
                        let fill = move |into: &mut [u8]| into[..8].copy_from_slice(&number.to_le_bytes());
                        scratch.write_named(Realm::DEFAULT, key, len, fill).unwrap();
                    } else {
                        bytes[..8].copy_from_slice(&number.to_le_bytes());
                        scratch.put_named(Realm::DEFAULT, key, &bytes[..len]).unwrap();
                    }
                    let newest = scratch.read(Realm::DEFAULT, key, |block| block[..8].to_vec()).unwrap();
                    assert_eq!(newest, number.to_le_bytes());
                }
            });
        }
    });
    scratch.flush().unwrap();
    let stats = scratch.stats();
    assert!(stats.turns > 2 * u64::from(FILES), "{stats:?}");
    let most = MOST.load(Ordering::Relaxed) - before - of_users;
    // A byte for each slot, in pieces of 4096; the rest is counts of files and lanes, and records of blocks in buffers. The
    // index is mapped, and counted by `index_bytes`.
    let promised = STAGING + usize::from(LANES) * 4 * GATHER + usize::from(FILES) * 4096 + 512 * KIB;
    assert!(most <= promised, "{most} bytes were allocated at once, and {promised} are promised");
    drop(scratch);
    let left = LIVE.load(Ordering::Relaxed).saturating_sub(before);
    assert!(left < 16 * KIB, "{left} bytes of a store that is gone");
}

/// So many that a second byte of each would show.
#[test]
fn a_slot_that_was_used_takes_a_byte_and_its_block_eleven_of_the_index() {
    const BLOCKS: usize = 400_000;
    let _alone = alone();
    let folder = folder();
    // One file has them all: each has records of its own.
    let files = DiskFileSource::builder().folder(folder.path()).files_per_folder(3).file_size(64 << 20);
    let builder = Scratch::builder(files.build().unwrap()).gather(64 << 10, Duration::from_millis(1));
    let scratch = builder.expected_blocks(BLOCKS as u64).open().unwrap();
    let put = |from: usize, to: usize| {
        for number in from..to {
            scratch.put_named(Realm::DEFAULT, BlockHash::of(&number.to_le_bytes()), &[]).unwrap();
        }
        scratch.flush().unwrap();
    };
    // Buffers, and records of what lies in them, are as large as they become then.
    put(0, BLOCKS / 2);
    let before = LIVE.load(Ordering::Relaxed);
    put(BLOCKS / 2, BLOCKS);
    let taken = LIVE.load(Ordering::Relaxed).saturating_sub(before);
    assert!(taken <= BLOCKS / 2 + 64 * KIB, "{taken} bytes for {} slots", BLOCKS / 2);
    let stats = scratch.stats();
    // Where both of its buckets are full, a block gives way.
    assert_eq!(stats.blocks + stats.evicted, BLOCKS as u64, "{stats:?}");
    assert!(stats.evicted < BLOCKS as u64 / 1000, "{stats:?}");
    assert!(stats.index_bytes <= 11 * BLOCKS as u64 + (64 << 10), "{stats:?}");
}
