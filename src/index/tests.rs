//! What the index promises, alone and among threads.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::block::{BlockHash, Realm, Slot};

/// A file's generation is its number here; the key of a block is kept beside it.
#[derive(Default)]
struct Blocks {
    keys: RefCell<HashMap<BlockAddress, u32>>,
    publishing: Cell<u32>,
}

impl View for Blocks {
    fn is_same_key(&self, address: BlockAddress) -> bool {
        self.keys.borrow()[&address] == self.publishing.get()
    }

    fn version(&self, address: BlockAddress) -> (u64, u32) {
        (u64::from(address.file().get()), address.slot().get())
    }
}

impl Blocks {
    fn publish(&self, index: &BlockIndex, place: Place, key: u32, new: BlockAddress) -> Published {
        self.keys.borrow_mut().insert(new, key);
        self.publishing.set(key);
        index.publish_at(place, new, self)
    }

    fn of(&self, index: &BlockIndex, place: Place, key: u32) -> Vec<BlockAddress> {
        let candidates: HashSet<_> = index.all_candidates_at(place).collect();
        candidates.into_iter().filter(|address| self.keys.borrow()[address] == key).collect()
    }
}

fn address(file: u16, slot: u32) -> BlockAddress {
    BlockAddress::new(FileId::new(file).unwrap(), Slot::new(slot).unwrap())
}

fn key(number: u64) -> KeyHash {
    KeyHash::of(0x5EED, Realm::DEFAULT, BlockHash::from_u128(number.into()))
}

const PLACE: Place = Place { tag: 7, buckets: [0, 1], spread: 0, stripe: 3 };

fn two_buckets() -> (BlockIndex, Blocks) {
    (BlockIndex::with_buckets(2, Room::Fixed).unwrap(), Blocks::default())
}

#[test]
fn the_first_address_of_a_key_is_inserted_and_found() {
    let (index, blocks) = (BlockIndex::new(0, u64::MAX, Room::Fixed).unwrap(), Blocks::default());
    assert_eq!(index.candidates(key(1)).next(), None);
    blocks.keys.borrow_mut().insert(address(1, 5), 0);
    assert_eq!(index.publish_if_newer(key(1), address(1, 5), &blocks), Published::Inserted);
    assert_eq!(index.candidates(key(1)).collect::<Vec<_>>(), [address(1, 5)]);
    assert_eq!(index.candidates(key(2)).len(), 0);
    assert_eq!(index.len(), 1);
    index.prefetch(key(1));
}

#[test]
fn a_newer_address_takes_the_place_of_the_older_one() {
    let (index, blocks) = two_buckets();
    assert_eq!(blocks.publish(&index, PLACE, 1, address(1, 5)), Published::Inserted);
    assert_eq!(blocks.publish(&index, PLACE, 1, address(1, 6)), Published::Replaced(address(1, 5)));
    assert_eq!(blocks.publish(&index, PLACE, 1, address(2, 0)), Published::Replaced(address(1, 6)));
    assert_eq!(blocks.of(&index, PLACE, 1), [address(2, 0)]);
    assert_eq!(index.len(), 1);
}

#[test]
fn an_older_or_equal_address_is_superseded() {
    let (index, blocks) = two_buckets();
    let _ = blocks.publish(&index, PLACE, 1, address(2, 5));
    for older in [address(2, 4), address(1, 9), address(2, 5)] {
        assert_eq!(blocks.publish(&index, PLACE, 1, older), Published::Superseded(address(2, 5)));
    }
    assert_eq!(blocks.of(&index, PLACE, 1), [address(2, 5)]);
}

#[test]
fn keys_of_one_tag_and_place_live_side_by_side() {
    let (index, blocks) = two_buckets();
    for key in 0..16 {
        assert_eq!(blocks.publish(&index, PLACE, key, address(1, key)), Published::Inserted);
    }
    for key in 0..16 {
        assert_eq!(blocks.publish(&index, PLACE, key, address(2, key)), Published::Replaced(address(1, key)));
        assert_eq!(blocks.of(&index, PLACE, key), [address(2, key)]);
    }
    assert_eq!(index.len(), 16);
}

#[test]
fn an_insert_takes_the_emptier_bucket() {
    let (index, blocks) = two_buckets();
    let only_first = Place { buckets: [0, 0], ..PLACE };
    for key in 0..3 {
        let _ = blocks.publish(&index, only_first, key, address(1, key));
    }
    for key in 3..6 {
        let _ = blocks.publish(&index, PLACE, key, address(1, key));
    }
    let used =
        |bucket: usize| (0..SLOTS).filter(|&slot| index.levels.first()[bucket].word(slot) != Word::EMPTY).count();
    assert_eq!([used(0), used(1)], [3, 3]);
}

#[test]
fn the_oldest_block_gives_way_when_both_buckets_are_full() {
    let (index, blocks) = two_buckets();
    for key in 0..16 {
        // Key 11 has the oldest.
        let file = if key == 11 { 2 } else { 3 };
        assert_eq!(blocks.publish(&index, PLACE, key, address(file, key)), Published::Inserted);
    }
    assert_eq!(blocks.publish(&index, PLACE, 16, address(4, 0)), Published::Evicted(address(2, 11)));
    assert_eq!(blocks.of(&index, PLACE, 11), []);
    assert_eq!(blocks.of(&index, PLACE, 16), [address(4, 0)]);
    assert_eq!((index.len(), index.evictions()), (16, 1));
}

#[test]
fn a_new_block_older_than_all_others_gives_way_itself() {
    let (index, blocks) = two_buckets();
    for key in 0..16 {
        let _ = blocks.publish(&index, PLACE, key, address(3, key));
    }
    assert_eq!(blocks.publish(&index, PLACE, 16, address(2, 0)), Published::Evicted(address(2, 0)));
    assert_eq!(blocks.of(&index, PLACE, 16), []);
    assert_eq!((index.len(), index.evictions()), (16, 1));
    // It is remembered like any other that gave way: when there is room, no older version of its key takes its place.
    assert!(index.remove_at(PLACE, address(3, 0)));
    assert_eq!(blocks.publish(&index, PLACE, 16, address(1, 0)), Published::Evicted(address(1, 0)));
    assert_eq!(blocks.publish(&index, PLACE, 16, address(2, 0)), Published::Inserted);
}

#[test]
fn an_older_version_does_not_return_after_a_newer_one_gave_way() {
    let (index, blocks) = two_buckets();
    for key in 0..16 {
        let _ = blocks.publish(&index, PLACE, key, address(3, key));
    }
    // Version (3, 0) of key 0 gives way, then room is made, then discovery finds version (1, 0) of it.
    assert_eq!(blocks.publish(&index, PLACE, 16, address(4, 0)), Published::Evicted(address(3, 0)));
    assert_eq!(index.sweep(FileId::new(3).unwrap(), |_| ()), 15);
    assert_eq!(blocks.publish(&index, PLACE, 0, address(1, 0)), Published::Evicted(address(1, 0)));
    assert_eq!(blocks.of(&index, PLACE, 0), []);
    // The one that gave way, and whatever is younger, is welcome.
    assert_eq!(blocks.publish(&index, PLACE, 0, address(3, 0)), Published::Inserted);
}

#[test]
fn in_an_index_that_grows_none_gives_way_however_many_come() {
    let (index, blocks) = (BlockIndex::with_buckets(2, Room::Grows(u64::MAX)).unwrap(), Blocks::default());
    // All in one place, which larger levels do not spread: sixteen a level, and eight in the second, where it is one bucket.
    let levels = if cfg!(miri) { 2 } else { 8 };
    let keys = levels * 16 - 8;
    let place = |key: u32| Place { tag: key % (2 * levels) + 1, ..PLACE };
    let old = |key: u32| address(if key == 11 { 2 } else { 3 }, key);
    for key in 0..keys {
        assert_eq!(blocks.publish(&index, place(key), key, old(key)), Published::Inserted);
    }
    assert_eq!(index.levels.count(), levels as usize);
    assert_eq!((index.len(), index.evictions()), (keys.into(), 0));
    for key in 0..keys {
        assert_eq!(blocks.publish(&index, place(key), key, address(1, key)), Published::Superseded(old(key)));
        assert_eq!(blocks.publish(&index, place(key), key, address(4, key)), Published::Replaced(old(key)));
        assert_eq!(blocks.of(&index, place(key), key), [address(4, key)]);
    }
    let last = keys - 1;
    assert!(index.compare_exchange_at(place(last), address(4, last), address(3, last), || true));
    assert!(index.remove_at(place(last), address(3, last)) && !index.remove_at(place(last), address(3, last)));
    let mut seen = HashSet::new();
    index.for_each(|address| assert!(seen.insert(address)));
    assert_eq!(seen, (0..last).map(|key| address(4, key)).collect());
    assert_eq!(index.sweep(FileId::new(4).unwrap(), |address| assert!(seen.remove(&address))), u64::from(last));
    assert_eq!((seen.len(), index.len()), (0, 0));
    // What left made room.
    assert_eq!(blocks.publish(&index, place(1), 1, address(5, 1)), Published::Inserted);
    assert_eq!(index.scan(PLACE).candidates(place(1).tag).collect::<Vec<_>>(), [address(5, 1)]);
}

/// A look-up that gave sixteen candidates at most hid the others of a tag from their readers.
#[test]
fn more_keys_of_one_tag_than_a_table_has_words_at_a_place_are_all_found() {
    let (index, blocks) = (BlockIndex::with_buckets(2, Room::Grows(u64::MAX)).unwrap(), Blocks::default());
    for key in 0..30 {
        assert_eq!(blocks.publish(&index, PLACE, key, address(1, key)), Published::Inserted);
    }
    assert!((0..30).all(|key| blocks.of(&index, PLACE, key) == [address(1, key)]));
}

#[test]
fn without_memory_for_another_table_the_new_block_gives_way_and_no_older_version_of_it_comes_after_it() {
    let (index, blocks) = (BlockIndex::with_buckets(2, Room::Grows(0)).unwrap(), Blocks::default());
    for key in 0..16 {
        assert_eq!(blocks.publish(&index, PLACE, key, address(2, key)), Published::Inserted);
    }
    assert_eq!(blocks.publish(&index, PLACE, 16, address(3, 1)), Published::Evicted(address(3, 1)));
    assert_eq!((index.len(), index.evictions()), (16, 1));
    assert_eq!(blocks.publish(&index, PLACE, 5, address(4, 0)), Published::Replaced(address(2, 5)));
    // There is room now.
    assert!(index.remove_at(PLACE, address(4, 0)));
    assert_eq!(blocks.publish(&index, PLACE, 16, address(3, 0)), Published::Evicted(address(3, 0)));
    assert_eq!(blocks.publish(&index, PLACE, 16, address(3, 1)), Published::Inserted);
}

#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn an_index_that_grows_is_as_well_filled_as_a_large_one() {
    let (index, blocks) = (BlockIndex::with_buckets(128, Room::Grows(u64::MAX)).unwrap(), 100_000_u32);
    for number in 0..blocks {
        let own = Numbered { key: number, keys: u32::MAX };
        assert_eq!(index.publish_if_newer(key(number.into()), address(1, number), &own), Published::Inserted);
    }
    let words = index.levels.bytes() / 8;
    assert!(words <= (1 << 17) + (1 << 7), "{words} words for {blocks} blocks, made for 768");
    let found = |number: &u32| index.all_candidates(key((*number).into())).any(|found| found == address(1, *number));
    assert!((0..blocks).all(|number| found(&number)));
    assert!(index.all_candidates(key(u64::MAX)).next().is_none());
}

#[test]
fn an_address_that_changed_its_key_while_it_was_asked_about_is_asked_about_again() {
    /// The first question takes so long that file 1 turns: key 2 gets the very word that was key 1's.
    struct Turns<'a> {
        index: &'a BlockIndex,
        generation: Cell<u64>,
        questions: Cell<u32>,
    }
    struct Quick;
    impl View for Quick {
        fn is_same_key(&self, _: BlockAddress) -> bool {
            false
        }
        fn version(&self, address: BlockAddress) -> (u64, u32) {
            (3, address.slot().get())
        }
    }
    impl View for Turns<'_> {
        fn is_same_key(&self, address: BlockAddress) -> bool {
            assert_eq!(address, super::tests::address(1, 0));
            self.questions.set(self.questions.get() + 1);
            let was_ours = self.generation.get() == 1;
            if was_ours {
                assert_eq!(self.index.sweep(address.file(), |_| ()), 1);
                self.generation.set(3);
                assert_eq!(self.index.publish_at(PLACE, address, &Quick), Published::Inserted);
            }
            was_ours
        }
        fn version(&self, address: BlockAddress) -> (u64, u32) {
            (if address.file().get() == 1 { self.generation.get() } else { 4 }, address.slot().get())
        }
    }
    let index = BlockIndex::with_buckets(2, Room::Fixed).unwrap();
    assert_eq!(index.publish_at(PLACE, address(1, 0), &Quick), Published::Inserted);
    let view = Turns { index: &index, generation: Cell::new(1), questions: Cell::new(0) };
    assert_eq!(index.publish_at(PLACE, address(2, 0), &view), Published::Inserted);
    assert_eq!(view.questions.get(), 2);
    assert_eq!(index.len(), 2);
}

#[test]
fn only_the_exact_address_is_exchanged_or_removed() {
    let index = BlockIndex::new(0, u64::MAX, Room::Fixed).unwrap();
    let blocks = Blocks::default();
    let _ = index.publish_if_newer(key(1), address(2, 5), &blocks);
    assert!(!index.compare_exchange_if(key(1), address(2, 4), address(3, 0), || true));
    assert!(!index.compare_exchange_if(key(2), address(2, 5), address(3, 0), || true));
    assert!(!index.remove(key(1), address(2, 4)));
    assert!(!index.remove(key(2), address(2, 5)));
    assert!(!index.compare_exchange_if(key(1), address(2, 5), address(3, 0), || false));
    assert_eq!(index.candidates(key(1)).next(), Some(address(2, 5)));

    // Back to an older one too: that is what a failed write wants.
    assert!(index.compare_exchange_if(key(1), address(2, 5), address(1, 9), || true));
    assert_eq!(index.candidates(key(1)).collect::<Vec<_>>(), [address(1, 9)]);
    assert!(index.remove(key(1), address(1, 9)));
    assert!(!index.remove(key(1), address(1, 9)));
    assert!(
        !index.compare_exchange_if(key(1), address(1, 9), address(3, 0), || unreachable!("nothing to prepare for"))
    );
    assert_eq!((index.candidates(key(1)).next(), index.len()), (None, 0));
}

#[test]
fn a_sweep_takes_all_words_of_its_file_and_no_other() {
    let (index, blocks) = (BlockIndex::new(0, u64::MAX, Room::Fixed).unwrap(), Blocks::default());
    let count: u32 = if cfg!(miri) { 60 } else { 300 };
    for number in 0..count {
        let file = if number % 3 == 0 { 1 } else { 1023 };
        let _ = index.publish_if_newer(key(number.into()), address(file, number), &blocks);
    }
    let mut swept = HashSet::new();
    assert_eq!(index.sweep(FileId::new(1).unwrap(), |address| assert!(swept.insert(address))), u64::from(count / 3));
    assert_eq!(swept, (0..count).step_by(3).map(|slot| address(1, slot)).collect());
    let mut left = HashSet::new();
    index.for_each(|address| assert!(left.insert(address)));
    assert_eq!(left, (0..count).filter(|slot| slot % 3 != 0).map(|slot| address(1023, slot)).collect());
    assert_eq!(index.len(), u64::from(count / 3 * 2));
}

#[test]
#[cfg_attr(miri, ignore = "a table is smaller where it is interpreted")]
fn capacity_is_what_was_asked_for_within_bounds() {
    let of = |expected| BlockIndex::new(expected, u64::MAX, Room::Fixed).unwrap();
    assert_eq!(of(0).capacity(), (1 << 14) * 3 / 4);
    assert!((100_000..100_010).contains(&of(100_000).capacity()));
    assert!(of(100_000).memory_bytes() <= 11 * 100_000 + 50_000);
    assert_eq!(of(u64::MAX).capacity(), (1 << 27) * 3 / 4);
    // Memory is not touched by looking: 2^24 blocks are 170 MiB of address space.
    let large = of(1 << 24);
    assert_eq!(large.candidates(key(1)).next(), None);
    assert!(large.memory_bytes() < 171 << 20);
}

#[test]
#[cfg_attr(miri, ignore = "too many blocks to interpret")]
fn next_to_nothing_gives_way_at_load_three_quarters() {
    let blocks = 1_u32 << 14;
    let (index, view) = (BlockIndex::new(blocks.into(), u64::MAX, Room::Fixed).unwrap(), Blocks::default());
    let mut lost = HashSet::new();
    for number in 0..blocks {
        view.keys.borrow_mut().insert(address(1, number), number);
        view.publishing.set(number);
        if let Published::Evicted(address) = index.publish_if_newer(key(number.into()), address(1, number), &view) {
            lost.insert(address.slot().get());
        }
    }
    // 2 in 10,000 would be poor; the keys are always the same, so this never fails by chance.
    assert!(lost.len() <= 3, "{} of {blocks} gave way", lost.len());
    assert_eq!(index.evictions(), lost.len() as u64);
    assert_eq!(index.len(), u64::from(blocks) - index.evictions());
    for number in 0..blocks {
        let found = index.candidates(key(number.into())).any(|found| found == address(1, number));
        assert_ne!(found, lost.contains(&number));
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// A new version, in the current file or (after `turn`) in a new one.
    Write {
        key: u32,
        turn: bool,
    },
    /// Some version that was written before, as a slow writer or discovery would publish.
    Again {
        version: usize,
    },
    Exchange {
        key: u32,
    },
    Remove {
        key: u32,
    },
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..48_u32, prop::bool::weighted(0.05)).prop_map(|(key, turn)| Step::Write { key, turn }),
        3 => any::<usize>().prop_map(|version| Step::Again { version }),
        1 => (0..48_u32).prop_map(|key| Step::Exchange { key }),
        2 => (0..48_u32).prop_map(|key| Step::Remove { key }),
        1 => Just(Step::Sweep),
    ]
}

/// Three buckets and three tags for 48 keys: collisions and overflow all the time.
fn crowded(key: u32) -> Place {
    let buckets = [[0, 1], [1, 2], [2, 0]][key as usize % 3];
    Place { tag: key / 3 % 3 + 1, buckets, spread: key / 9, stripe: key as usize % Stripes::COUNT }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 128 },
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn a_key_is_found_at_its_newest_address_unless_it_was_reported_gone(
        grows: bool,
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 12 } else { 400 }),
    ) {
        let room = if grows { Room::Grows(u64::MAX) } else { Room::Fixed };
        // One bucket where each second key has to go to another level.
        let buckets = if grows { 1 } else { 3 };
        let (index, blocks) = (BlockIndex::with_buckets(buckets, room).unwrap(), Blocks::default());
        let few = |key| Place { buckets: [0, 0], ..crowded(key) };
        let crowded = |key| if grows { few(key) } else { crowded(key) };
        let mut model: HashMap<u32, BlockAddress> = HashMap::new();
        let mut gave_way: HashMap<u32, BlockAddress> = HashMap::new();
        let mut written = Vec::new();
        let (mut file, mut slot, mut oldest, mut evictions) = (1, 0, 1, 0);
        let age = |address: BlockAddress| (address.file(), address.slot());
        for step in steps {
            let publish = match step {
                Step::Write { key, turn } => {
                    (file, slot) = if turn { (file + 1, 0) } else { (file, slot + 1) };
                    written.push((key, address(file, slot)));
                    written.last().copied()
                }
                Step::Again { version } => {
                    let live = written.iter().copied().filter(|(_, old)| old.file().get() >= oldest);
                    let live: Vec<_> = live.collect();
                    (!live.is_empty()).then(|| live[version % live.len()])
                }
                Step::Exchange { key } => {
                    // As rescue does: the same block at a new address.
                    slot += 1;
                    if let Some(&old) = model.get(&key) {
                        let (place, new) = (crowded(key), address(file, slot));
                        blocks.keys.borrow_mut().insert(new, key);
                        prop_assert!(index.compare_exchange_at(place, old, new, || true));
                        model.insert(key, new);
                        written.push((key, new));
                    }
                    None
                }
                Step::Remove { key } => {
                    // The versions of a removed key are dead: nobody publishes them again.
                    if let Some(old) = model.remove(&key) {
                        let place = crowded(key);
                        prop_assert!(index.remove_at(place, old));
                        prop_assert!(!index.remove_at(place, old));
                        written.retain(|&(other, _)| other != key);
                    }
                    None
                }
                Step::Sweep => {
                    let before = model.len();
                    model.retain(|_, address| address.file().get() != oldest);
                    let swept = index.sweep(FileId::new(oldest).unwrap(), |_| ());
                    prop_assert_eq!(swept, (before - model.len()) as u64);
                    if oldest == file {
                        (file, slot) = (file + 1, 0);
                    }
                    oldest += 1;
                    None
                }
            };
            if let Some((key, new)) = publish {
                let had = model.get(&key).copied();
                match blocks.publish(&index, crowded(key), key, new) {
                    Published::Inserted => {
                        prop_assert_eq!(had, None);
                        let gone = gave_way.get(&key);
                        prop_assert!(gone.is_none_or(|&gone| age(gone) <= age(new)), "an old version is back");
                        model.insert(key, new);
                    }
                    Published::Replaced(old) => {
                        prop_assert_eq!(had, Some(old));
                        prop_assert!(age(old) < age(new));
                        model.insert(key, new);
                    }
                    Published::Superseded(by) => {
                        prop_assert_eq!(had, Some(by));
                        prop_assert!(age(by) >= age(new));
                    }
                    Published::Evicted(gone) => {
                        prop_assert!(!grows && had.is_none());
                        evictions += 1;
                        let owner = blocks.keys.borrow()[&gone];
                        if gone != new {
                            prop_assert_eq!(model.remove(&owner), Some(gone));
                            prop_assert!(age(gone) < age(new));
                            model.insert(key, new);
                        }
                        let youngest = gave_way.entry(owner).or_insert(gone);
                        *youngest = if age(*youngest) < age(gone) { gone } else { *youngest };
                    }
                }
            }
            for key in 0..48 {
                let expected: Vec<_> = model.get(&key).copied().into_iter().collect();
                prop_assert_eq!(blocks.of(&index, crowded(key), key), expected);
            }
            prop_assert_eq!((index.len(), index.evictions()), (model.len() as u64, evictions));
        }
    }
}

/// Keys by the low bits of the slot; file 1 and 2 in turn, by version.
struct Numbered {
    key: u32,
    keys: u32,
}

impl View for Numbered {
    fn is_same_key(&self, address: BlockAddress) -> bool {
        address.slot().get() % self.keys == self.key
    }

    fn version(&self, address: BlockAddress) -> (u64, u32) {
        (1, address.slot().get())
    }
}

#[test]
fn readers_never_miss_a_key_that_several_writers_keep_replacing() {
    never_misses(8, Room::Fixed);
    // In two levels, or three.
    never_misses(if cfg!(miri) { 20 } else { 40 }, Room::Grows(u64::MAX));
}

fn never_misses(keys: u32, room: Room) {
    let versions: u32 = if cfg!(miri) { 80 / keys } else { 80_000 / keys };
    let (index, done) = (&BlockIndex::with_buckets(2, room).unwrap(), &AtomicBool::new(false));
    let newest: &[AtomicU32] = &(0..keys).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
    // All keys share buckets and tag, stripes differ.
    let place = |key: u32| Place { stripe: key as usize, ..PLACE };
    for key in 0..keys {
        assert_eq!(index.publish_at(place(key), address(1, key), &Numbered { key, keys }), Published::Inserted);
    }
    thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                scope.spawn(move || {
                    for version in (1..versions).filter(|version| version % 2 == writer) {
                        for key in 0..keys {
                            let new = address(1, version * keys + key);
                            let published = index.publish_at(place(key), new, &Numbered { key, keys });
                            assert!(
                                matches!(published, Published::Replaced(_) | Published::Superseded(_)),
                                "{published:?}"
                            );
                            newest[key as usize].fetch_max(version, Ordering::Release);
                        }
                    }
                })
            })
            .collect();
        let reader = scope.spawn(move || {
            while !done.load(Ordering::Acquire) {
                for key in 0..keys {
                    let at_least = newest[key as usize].load(Ordering::Acquire);
                    let found = index.all_candidates_at(place(key)).find(|found| found.slot().get() % keys == key);
                    let found = found.expect("a key that is only ever replaced").slot().get() / keys;
                    assert!(found >= at_least, "version {found} after {at_least}");
                }
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap();
    });
    let mut left = HashSet::new();
    index.for_each(|address| assert!(left.insert(address)));
    assert_eq!(left, (0..keys).map(|key| address(1, (versions - 1) * keys + key)).collect());
}

fn none_is_lost_or_doubled(buckets: usize, room: Room) {
    const KEYS: u32 = if cfg!(miri) { 32 } else { 64 };
    let rounds: u32 = if cfg!(miri) { 1 } else { 3_000 };
    let index = &BlockIndex::with_buckets(buckets, room).unwrap();
    let place = |key: u32| Place {
        tag: key % 2 + 1,
        buckets: [key as usize % buckets, (key as usize / 4) % buckets],
        spread: key / 16,
        stripe: key as usize % Stripes::COUNT,
    };
    // Each removal is told to exactly one party, so what was put in minus what was told is what is there.
    let [put, gone] = &[AtomicU32::new(0), AtomicU32::new(0)];
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for writer in 0..3 {
            threads.push(scope.spawn(move || {
                for round in 0..rounds {
                    for key in 0..KEYS {
                        let version = round * 3 + writer;
                        // The file does not follow the age here: the sweeper takes some words of any age.
                        let new = address(u16::try_from(version % 7 + 1).unwrap(), version * KEYS + key);
                        match index.publish_at(place(key), new, &Numbered { key, keys: KEYS }) {
                            Published::Inserted => _ = put.fetch_add(1, Ordering::Relaxed),
                            Published::Evicted(old) if old != new => {
                                put.fetch_add(1, Ordering::Relaxed);
                                gone.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => {}
                        }
                        if key % 16 == round % 16 && index.remove_at(place(key), new) {
                            gone.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }));
        }
        threads.push(scope.spawn(move || {
            for round in 0..rounds {
                let file = FileId::new(u16::try_from(round % 7 + 1).unwrap()).unwrap();
                index.sweep(file, |_| _ = gone.fetch_add(1, Ordering::Relaxed));
            }
        }));
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let mut keys = HashSet::new();
    index.for_each(|address| assert!(keys.insert(address.slot().get() % KEYS), "two words for one key"));
    assert_eq!(keys.len(), (put.load(Ordering::Relaxed) - gone.load(Ordering::Relaxed)) as usize);
    assert_eq!(index.len(), keys.len() as u64);
}

#[test]
fn words_are_neither_lost_nor_doubled_under_writers_evictions_and_sweeps() {
    none_is_lost_or_doubled(4, Room::Fixed);
}

#[test]
fn words_are_neither_lost_nor_doubled_under_writers_and_sweeps_of_an_index_that_grows() {
    none_is_lost_or_doubled(1, Room::Grows(u64::MAX));
}
