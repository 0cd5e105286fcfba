//! Realms never leak: no pair of a realm and a key finds another realm's block, nor does anything that somebody without
//! the nonce of a file can put into it, or that is copied or flipped there.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use scratchspace::{
    BlockHash, DiskFileSource, MissingOk, ReadError, ReadWithError, Realm, RecoveryReport, Scratch, ScratchBuilder,
};
use tempfile::TempDir;
use twox_hash::XxHash3_64;

const PATIENCE: Duration = Duration::from_mins(1);
const PAGE: usize = 4096;
/// Bytes of a directory entry, and in it those of the realm: docs/format.md.
const ENTRY: usize = 64;
const REALM: usize = 16;

/// Below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
fn test_folder() -> TempDir {
    match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root).unwrap(),
        None => TempDir::new().unwrap(),
    }
}

fn realm(number: u32) -> Realm {
    Realm::new(number).unwrap()
}

fn builder(folder: &Path, files: u16, file_size: u64) -> ScratchBuilder {
    let source = DiskFileSource::builder().folder(folder).files_per_folder(files).file_size(file_size);
    Scratch::builder(source.build().unwrap())
}

fn recovered(scratch: &Scratch) -> RecoveryReport {
    scratch.wait_recovered(PATIENCE).unwrap()
}

/// The next of a fixed row of numbers that look random.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

type Blocks = BTreeMap<(Realm, BlockHash), Vec<u8>>;

/// Everything that is there, as a walk over each of `realms` tells it.
fn found(scratch: &Scratch, realms: &BTreeSet<Realm>) -> BTreeSet<(Realm, BlockHash)> {
    let mut all = BTreeSet::new();
    for realm in realms {
        scratch.for_each(*realm, |block| assert!(block.realm == *realm && all.insert((*realm, block.hash)))).unwrap();
    }
    all
}

fn assert_holds(scratch: &Scratch, blocks: &Blocks) {
    for ((realm, key), bytes) in blocks {
        assert_eq!(scratch.read(*realm, *key, |found| found == bytes), Ok(true), "{key} of {realm}");
    }
}

/// Foreign pairs, each once: keys that are there, under realms that differ from the owner's in one bit, in all, by one,
/// that are another owner's, or that are anybody's.
fn foreign_pairs(blocks: &Blocks, count: usize) -> BTreeMap<Realm, BTreeSet<BlockHash>> {
    let owners: Vec<Realm> = blocks.keys().map(|(realm, _)| *realm).collect();
    let mut pairs: BTreeMap<Realm, BTreeSet<BlockHash>> = BTreeMap::new();
    let (mut state, mut made) = (7, 0);
    loop {
        for (owner, key) in blocks.keys() {
            let random = next(&mut state);
            let foreign = match random % 5 {
                0 => owner.get() ^ (1 << ((random >> 8) % 24)),
                1 => !owner.get() & 0xFF_FFFF,
                2 => (owner.get() + 1) & 0xFF_FFFF,
                3 => owners[usize::try_from(random >> 8).unwrap() % owners.len()].get(),
                _ => u32::try_from((random >> 8) & 0xFF_FFFF).unwrap(),
            };
            let foreign = realm(foreign);
            if !blocks.contains_key(&(foreign, *key)) && pairs.entry(foreign).or_default().insert(*key) {
                made += 1;
            }
            if made == count {
                return pairs;
            }
        }
    }
}

/// On every path that takes a realm and a key.
fn assert_finds_nothing(store: &Scratch, realm: Realm, keys: &[BlockHash]) {
    let is_missing = |error: Option<ReadError>| error.is_some_and(|error| error.is_missing());
    for key in keys {
        assert_eq!(store.contains(realm, *key), Ok(false), "{key} of {realm}");
        assert!(is_missing(store.info(realm, *key).err()), "info of {key} of {realm}");
        assert!(is_missing(store.read(realm, *key, |_| ()).err()), "read {key} of {realm}");
        assert!(is_missing(store.read_verified(realm, *key, |_| ()).err()), "read and verified {key} of {realm}");
        assert!(is_missing(store.get(realm, *key).err()), "got {key} of {realm}");
        let typed = store.read_with(realm, *key, |block| block.read_str().map(str::len));
        assert!(
            matches!(typed, Err(ReadWithError::Read(error)) if error.is_missing()),
            "read values of {key} of {realm}"
        );
        assert_eq!(store.remove(realm, *key), Ok(false), "removed {key} of {realm}");
    }
    let refused = |at: usize, block: Result<&[u8], _>| assert!(is_missing(block.err()), "{} of {realm}", keys[at]);
    store.get_many(realm, keys, refused).unwrap();
}

#[test]
fn a_million_foreign_pairs_find_nothing_on_any_path_before_and_after_a_restart() {
    let folder = test_folder();
    let open = || builder(folder.path(), 8, 4 << 20).open().unwrap();
    let scratch = open();
    let mut blocks = Blocks::new();
    for number in 0..1500_u32 {
        let owner = realm((number % 50 * 0x5_1001) & 0xFF_FFFF);
        let content = number.to_le_bytes().repeat(30);
        let key = scratch.put(owner, &content).unwrap();
        blocks.insert((owner, key), content);
        if number % 3 == 0 {
            // The same name in two realms, with two values.
            let name = BlockHash::from_u128(u128::from(number));
            for owner in [owner, realm(owner.get() ^ 1)] {
                let value = [owner.get().to_le_bytes(), number.to_le_bytes()].concat();
                scratch.put_named(owner, name, &value).unwrap();
                blocks.insert((owner, name), value);
            }
        }
    }
    // Fewer where they were tried before.
    let count = std::env::var("SCRATCHSPACE_FOREIGN_PAIRS").map_or(1_000_000, |count| count.parse().unwrap());
    let pairs: Vec<(Realm, Vec<BlockHash>)> =
        foreign_pairs(&blocks, count).into_iter().map(|(realm, keys)| (realm, keys.into_iter().collect())).collect();
    assert_eq!(pairs.iter().map(|(_, keys)| keys.len()).sum::<usize>(), count);
    let owners: BTreeSet<Realm> = blocks.keys().map(|(realm, _)| *realm).collect();
    let strangers: BTreeSet<Realm> =
        pairs.iter().map(|(realm, _)| *realm).filter(|realm| !owners.contains(realm)).take(20).collect();
    let mut scratch = Some(scratch);
    for restarted in [false, true] {
        if restarted {
            drop(scratch.take());
        }
        let store: &Scratch = scratch.get_or_insert_with(open);
        recovered(store);
        let before = store.stats();
        thread::scope(|scope| {
            for half in pairs.chunks(pairs.len().div_ceil(2)) {
                scope.spawn(move || half.iter().for_each(|(realm, keys)| assert_finds_nothing(store, *realm, keys)));
            }
        });
        assert_eq!(store.stats().removed, before.removed, "nothing was written");
        assert_eq!(found(store, &owners), blocks.keys().copied().collect());
        assert_eq!(found(store, &strangers), BTreeSet::new());
        assert_holds(store, &blocks);
    }
    // A foreign write, and a foreign removal of it, change nothing of the owner's.
    let store = scratch.unwrap();
    for (number, (realm, keys)) in pairs.iter().enumerate().take(300) {
        store.put_named(*realm, keys[0], b"of another realm").unwrap();
        assert_eq!(store.get(*realm, keys[0]).unwrap()[..], b"of another realm"[..]);
        if number % 2 == 0 {
            assert_eq!(store.remove(*realm, keys[0]), Ok(true));
        }
    }
    assert_holds(&store, &blocks);
}

/// Bytes of a file of a store, and what its header says: docs/format.md.
struct Image {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Image {
    fn all(folder: &Path) -> Vec<Self> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|kind| kind == "scratch")).collect();
        paths.sort();
        paths.into_iter().map(|path| Self { bytes: fs::read(&path).unwrap(), path }).collect()
    }

    fn save(&self) {
        fs::write(&self.path, &self.bytes).unwrap();
    }

    fn generation(&self) -> u64 {
        u64::from_le_bytes(self.bytes[48..56].try_into().unwrap())
    }

    fn nonce(&self) -> u64 {
        u64::from_le_bytes(self.bytes[56..64].try_into().unwrap())
    }

    fn entry_at(&self, slot: usize) -> usize {
        self.bytes.len() - ENTRY * (slot + 1)
    }

    fn entry(&mut self, slot: usize) -> &mut [u8] {
        let at = self.entry_at(slot);
        &mut self.bytes[at..at + ENTRY]
    }

    /// How many slots from the first on have a valid entry.
    fn slots(&mut self) -> usize {
        let nonce = self.nonce();
        let most = self.bytes.len() / ENTRY;
        (0..most).take_while(|slot| sealed(self.entry(*slot), nonce, *slot) == self.entry(*slot)).count()
    }
}

/// An entry with the checksum that it has with this nonce in this slot.
fn sealed(entry: &[u8], nonce: u64, slot: usize) -> Vec<u8> {
    let seed = nonce.wrapping_add((slot as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut entry = entry.to_vec();
    let checksum = XxHash3_64::oneshot_with_seed(seed, &entry[..56]);
    entry[56..].copy_from_slice(&checksum.to_le_bytes());
    entry
}

/// An entry of a named block of `realm` that is `len` bytes from `page` on, but for its checksum.
fn named_entry(realm: Realm, key: BlockHash, page: u32, payload: &[u8]) -> Vec<u8> {
    let mut entry = vec![0; ENTRY];
    entry[..16].copy_from_slice(&key.to_le_bytes());
    entry[16..19].copy_from_slice(&realm.get().to_le_bytes()[..3]);
    entry[19] = 1;
    entry[20..24].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
    entry[24..28].copy_from_slice(&page.to_le_bytes());
    entry[32..48].copy_from_slice(&BlockHash::of(payload).to_le_bytes());
    entry
}

/// Content blocks of a page each in realms 0 to 7, in one file.
fn filled(folder: &Path, files: u16, count: u32) -> Blocks {
    let scratch = builder(folder, files, 256 << 10).open().unwrap();
    let mut blocks = Blocks::new();
    for number in 0..count {
        let content = number.to_le_bytes().repeat(PAGE / 4);
        let owner = realm(number % 8);
        blocks.insert((owner, scratch.put(owner, &content).unwrap()), content);
    }
    scratch.close(PATIENCE);
    blocks
}

fn all_realms_below(count: u32) -> BTreeSet<Realm> {
    (0..count).map(realm).collect()
}

/// A flipped bit of the realm moved a block to another tenant, and its content matched its hash still.
#[test]
fn a_flipped_bit_of_realm_or_kind_costs_the_block_and_gives_it_to_nobody() {
    let folder = test_folder();
    // One block for each bit of realm and kind.
    let blocks = filled(folder.path(), 4, 40);
    let mut image = Image::all(folder.path()).remove(0);
    assert_eq!(image.slots(), 40);
    let mut flipped = BTreeSet::new();
    for bit in 0..32 {
        let entry = image.entry(bit);
        let owner = realm(u32::from(entry[REALM]));
        flipped.insert((owner, BlockHash::from_le_bytes(entry[..16].try_into().unwrap())));
        entry[REALM + bit / 8] ^= 1 << (bit % 8);
    }
    image.save();
    let scratch = builder(folder.path(), 4, 256 << 10).open().unwrap();
    let report = recovered(&scratch);
    assert_eq!((report.blocks, report.skipped.invalid), (8, 32));
    for (owner, key) in &flipped {
        for bit in 0..24 {
            assert_eq!(scratch.contains(realm(owner.get() ^ 1 << bit), *key), Ok(false));
        }
        assert_eq!(scratch.contains(*owner, *key), Ok(false));
    }
    let others: Blocks = blocks.into_iter().filter(|(pair, _)| !flipped.contains(pair)).collect();
    assert_holds(&scratch, &others);
    assert_eq!(found(&scratch, &all_realms_below(64)), others.keys().copied().collect());
}

/// The same below a store that is open: it looks at the entry at every access.
#[test]
fn a_realm_flipped_below_an_open_store_is_corruption_and_no_other_realms_block() {
    let folder = test_folder();
    let scratch = builder(folder.path(), 4, 256 << 10).open().unwrap();
    let key = scratch.put(realm(4), &[7; 5000]).unwrap();
    scratch.flush().unwrap();
    let mut image = Image::all(folder.path()).remove(0);
    let at = image.entry_at(0);
    image.entry(0)[REALM] ^= 1;
    let file = fs::File::options().write(true).open(&image.path).unwrap();
    std::io::Seek::seek(&mut &file, std::io::SeekFrom::Start((at + REALM) as u64)).unwrap();
    std::io::Write::write_all(&mut &file, &image.bytes[at + REALM..=at + REALM]).unwrap();
    assert_eq!(scratch.get(realm(5), key).missing_ok(), Ok(None));
    assert!(matches!(scratch.get(realm(4), key), Err(ReadError::Corrupted { .. })));
    assert_eq!(scratch.get(realm(4), key).missing_ok(), Ok(None));
}

#[test]
fn entries_of_another_slot_file_or_store_are_none() {
    let (folder, other) = (test_folder(), test_folder());
    let blocks = filled(folder.path(), 4, 100);
    filled(other.path(), 4, 100);
    let mut images = Image::all(folder.path());
    let mut others = Image::all(other.path());
    let (mut first, mut second) = (images.remove(0), images.remove(0));
    let (of_first, of_second) = (first.slots(), second.slots());
    assert!(of_first > 20 && of_second > 20 && of_first + of_second == 100);
    // Behind the last entry of each: another slot's, another file's and another store's at the same slot.
    let moved = first.entry(3).to_vec();
    first.entry(of_first).copy_from_slice(&moved);
    for slot in 0..10 {
        let (foreign, stolen) = (first.entry(of_second + slot).to_vec(), others[1].entry(slot).to_vec());
        second.entry(of_second + 2 * slot).copy_from_slice(&foreign);
        second.entry(of_second + 2 * slot + 1).copy_from_slice(&stolen);
    }
    // And in the place of one: its block is lost, and nothing else takes its place.
    let lost = BlockHash::from_le_bytes(second.entry(5)[..16].try_into().unwrap());
    let stolen = others.remove(0).entry(5).to_vec();
    second.entry(5).copy_from_slice(&stolen);
    first.save();
    second.save();
    let scratch = builder(folder.path(), 4, 256 << 10).open().unwrap();
    assert_eq!(recovered(&scratch).blocks, 99);
    let left: Blocks = blocks.into_iter().filter(|((_, key), _)| *key != lost).collect();
    assert_holds(&scratch, &left);
    assert_eq!(found(&scratch, &all_realms_below(16)), left.keys().copied().collect());
}

/// What a lap before has left is behind the entries of this one, at the very same slots.
#[test]
fn entries_of_an_earlier_lap_are_none() {
    let folder = test_folder();
    filled(folder.path(), 3, 60);
    let mut before = Image::all(folder.path());
    // Turn until every one of these files has another lap, and most of it is empty or overwritten.
    let scratch = builder(folder.path(), 3, 256 << 10).open().unwrap();
    recovered(&scratch);
    let mut kept = Blocks::new();
    for number in 1000..1400_u32 {
        let content = number.to_le_bytes().repeat(PAGE / 4);
        kept.insert((realm(9), scratch.put(realm(9), &content).unwrap()), content);
    }
    scratch.close(PATIENCE);
    drop(scratch);
    let mut images = Image::all(folder.path());
    let mut copied = 0;
    for (image, before) in images.iter_mut().zip(&mut before) {
        assert!(image.generation() > before.generation() && image.nonce() != before.nonce());
        let (used, earlier) = (image.slots(), before.slots());
        for slot in 0..earlier {
            // Over entries of this lap, and behind them.
            let to = if slot % 2 == 0 { slot } else { used + slot };
            let stale = before.entry(slot).to_vec();
            if to == slot || to < 62 {
                image.entry(to).copy_from_slice(&stale);
                copied += 1;
            }
        }
        image.save();
    }
    assert!(copied > 20, "{copied}");
    let scratch = builder(folder.path(), 3, 256 << 10).open().unwrap();
    recovered(&scratch);
    // Realms 0 to 7 were those of the earlier laps.
    assert_eq!(found(&scratch, &all_realms_below(9)), BTreeSet::new());
    let of_nine = found(&scratch, &BTreeSet::from([realm(9)]));
    assert!(!of_nine.is_empty() && of_nine.iter().all(|pair| kept.contains_key(pair)));
}

/// A tenant who knows everything, every nonce on the disk among it, but not that of a lap to come, fills files with
/// entries of another realm, each at the place of a slot. When the file has turned, its directory is read where these
/// bytes lie.
///
/// Those under a nonce that a spare file had already were believed: the directory of a file was looked for in its own
/// payloads, too.
#[test]
fn a_payload_of_forged_entries_forges_nothing_in_its_own_lap_nor_once_its_file_has_turned() {
    const FILE: usize = 64 * PAGE;
    // The largest block fills all pages but the first, which has the header, and the last, which has slots 0 to 63.
    const SLOTS: std::ops::Range<usize> = PAGE / ENTRY..FILE / ENTRY - PAGE / ENTRY;
    let (attacker, victim) = (realm(1), realm(2));
    let folder = test_folder();
    let open = || builder(folder.path(), 3, FILE as u64).open().unwrap();
    let forged_key = |slot: usize| BlockHash::from_u128(0xF0_0000 + slot as u128);
    let forged = |slot: usize, nonce: u64| sealed(&named_entry(victim, forged_key(slot), 1, b"forged"), nonce, slot);
    let assert_nothing_is_forged = |scratch: &Scratch, of_victim: &BTreeSet<(Realm, BlockHash)>| {
        recovered(scratch);
        for slot in SLOTS {
            assert_eq!(scratch.contains(victim, forged_key(slot)), Ok(false), "slot {slot}");
        }
        assert_eq!(found(scratch, &BTreeSet::from([victim])), *of_victim);
    };
    let nonces_on_disk = || Image::all(folder.path()).iter().map(Image::nonce).collect::<Vec<_>>();
    let mut scratch = open();
    // Every nonce that ever lay on the disk before the attacker wrote. And some guesses.
    let mut nonces: Vec<u64> = vec![0, 1, u64::MAX];
    for round in 0..8_usize {
        nonces.extend(nonces_on_disk());
        nonces.sort_unstable();
        nonces.dedup();
        let payload: Vec<u8> =
            SLOTS.rev().flat_map(|slot| forged(slot, nonces[(slot + round) % nonces.len()])).collect();
        assert_eq!(payload.len(), FILE - 2 * PAGE);
        scratch.put_named(attacker, BlockHash::from_u128(round as u128), &payload).unwrap();
        if round % 3 == 2 {
            drop(scratch);
            scratch = open();
            assert_nothing_is_forged(&scratch, &BTreeSet::new());
        }
    }
    // The first block of a new lap: the rest of its file is what the attacker has left there.
    let small = scratch.put(victim, b"small").unwrap();
    let info = scratch.info(victim, small).unwrap();
    assert!(info.generation > 5);
    scratch.close(PATIENCE);
    drop(scratch);
    let mut image = Image::all(folder.path()).into_iter().find(|image| image.generation() == info.generation).unwrap();
    assert_eq!(image.slots(), 1);
    let mut in_place = |slot: &usize| {
        let entry = image.entry(*slot).to_vec();
        nonces.iter().any(|nonce| sealed(&entry, *nonce, *slot) == entry)
    };
    let count = SLOTS.filter(|slot| in_place(slot)).count();
    assert!(count > 3000, "{count} forged entries would be believed under a nonce that the attacker knew");
    let scratch = open();
    assert_nothing_is_forged(&scratch, &BTreeSet::from([(victim, small)]));
    assert_eq!(scratch.read(victim, small, <[u8]>::to_vec), Ok(b"small".to_vec()));
}

/// The other side of the test above: the nonce is all that keeps a forger out. Whoever may write to the folder can read
/// it there, and is trusted for that reason.
#[test]
fn an_entry_sealed_with_the_nonce_is_believed_which_is_why_the_owner_of_the_folder_is_trusted() {
    let folder = test_folder();
    let blocks = filled(folder.path(), 4, 20);
    let mut image = Image::all(folder.path()).remove(0);
    let slot = image.slots();
    let payload = &blocks.values().next().unwrap()[..];
    let page = (0..64).find(|page| image.bytes[page * PAGE..].starts_with(payload)).unwrap();
    let key = BlockHash::from_u128(0xF0);
    let forged = named_entry(realm(77), key, u32::try_from(page).unwrap(), payload);
    for (nonce, is_believed) in [(image.nonce() ^ 1, false), (image.nonce(), true)] {
        image.entry(slot).copy_from_slice(&sealed(&forged, nonce, slot));
        image.save();
        let scratch = builder(folder.path(), 4, 256 << 10).open().unwrap();
        recovered(&scratch);
        assert_eq!(scratch.contains(realm(77), key), Ok(is_believed));
        assert_holds(&scratch, &blocks);
    }
}

/// How many blocks each verb writes, and the numbers of their bytes: all bytes of a block are its number.
fn write_short_blocks(scratch: &Scratch, tenant: Realm, lengths: &[usize]) -> u8 {
    let mut number = 0;
    for len in lengths {
        let mut next = || {
            number += 1;
            (vec![number; *len], BlockHash::from_u128(u128::from(number)))
        };
        let (block, _) = next();
        scratch.put(tenant, &block).unwrap();
        let (block, name) = next();
        scratch.put_named(tenant, name, &block).unwrap();
        let [(first, _), (second, _)] = [next(), next()];
        scratch.put_many(tenant, &[&first, &second]).unwrap();
        let (block, _) = next();
        scratch.write(tenant, BlockHash::of(&block), *len, move |into| into.copy_from_slice(&block)).unwrap();
        let (block, name) = next();
        scratch.write_named(tenant, name, *len, move |into| into.copy_from_slice(&block)).unwrap();
        let (block, _) = next();
        let mut writer = scratch.writer(tenant);
        writer.write_slice(&block);
        writer.commit().unwrap();
    }
    number
}

#[test]
fn what_follows_a_block_in_its_last_page_is_zeros_and_not_what_another_realm_had_there() {
    /// Begins no page that is looked for below: neither a header nor a page of zeros, nor one of the blocks.
    const THEIRS: u8 = 0xAA;
    // Their last pages hold at least so many of their bytes, by which these pages are known.
    const LEAST: usize = 17;
    let lengths = [LEAST, PAGE - 1, PAGE + LEAST, (64 << 10) - 1, (64 << 10) + LEAST, 300_000];
    for gathered in [0, 1 << 20] {
        let folder = test_folder();
        let scratch = builder(folder.path(), 3, 8 << 20).gather(gathered, Duration::from_millis(1)).open().unwrap();
        // Each file twice: whatever space the blocks below get, another realm's bytes are in it.
        for number in 0..6 * 128 {
            scratch.put_named(realm(1), BlockHash::from_u128(number), &vec![THEIRS; 64 << 10]).unwrap();
        }
        let count = write_short_blocks(&scratch, realm(2), &lengths);
        scratch.flush().unwrap();
        let mut seen = BTreeSet::new();
        let mut theirs = 0;
        for file in fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
            if file.extension().is_none_or(|kind| kind != "scratch") {
                continue;
            }
            for page in fs::read(file).unwrap().chunks(PAGE) {
                theirs += usize::from(page.iter().all(|byte| *byte == THEIRS));
                let own = page.iter().take_while(|byte| **byte == page[0]).count();
                if (LEAST..PAGE).contains(&own) && (1..=count).contains(&page[0]) {
                    assert!(page[own..].iter().all(|byte| *byte == 0), "behind {own} bytes of block {}", page[0]);
                    seen.insert(page[0]);
                }
            }
        }
        assert!(theirs > 100, "space that was written before is what this is about: {theirs} pages");
        assert_eq!(seen.len(), usize::from(count), "a last page of each block was found");
    }
}
