//! A store of one or two files whose directories hold whatever the bytes say: holes, noise, moved entries, and entries
//! forged with the checksum that only the nonce gives.
//!
//! # Invariants
//!
//! 1. What must be read is worked out from `docs/format.md`: of each key the newest version whose payload has its hash,
//!    unless a tombstone is newer.

use std::collections::BTreeMap;
use std::ops::Range;

use arbitrary::Unstructured;
use scratchspace::{BlockHash, HashKind};

use super::format::{self, ENTRY, Entry, Fields, HEADER, PAGE};
use super::store::{Image, Known, STORE, Setup, check, kind};

const REALMS: [u32; 4] = [0, 1, 2, 0xff_ffff];

pub fn run(data: &[u8]) {
    // Too few bytes for anything are no error.
    let _ = forge(&mut Unstructured::new(data));
}

fn forge(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let pages = u.int_in_range(3..=12_usize)?;
    let choice = u.int_in_range(0..=3)?;
    let setup = Setup { file_size: pages * PAGE, refuses: choice > 1, ..Setup::default() };
    let hashed = kind(choice % 2).unwrap_or_default();
    let mut image = Image::empty(&setup);
    let mut versions: BTreeMap<(u32, u128), Vec<Version>> = BTreeMap::new();
    for number in 1..=u.int_in_range(1..=2_u16)? {
        let generation = u64::from(number) * 7;
        let bytes = file(u, number, generation, setup.file_size, hashed)?;
        read(&bytes, number, generation, hashed, &mut versions);
        image.put(usize::from(number), bytes);
    }
    let known = expected(versions);
    let opened = check(&image, &setup, &known);
    assert_eq!(opened, Ok(()), "headers are whole");
    Ok(())
}

/// A file with payloads that are known, and a directory that is made as the bytes say.
fn file(
    u: &mut Unstructured<'_>,
    number: u16,
    generation: u64,
    size: usize,
    hashed: HashKind,
) -> arbitrary::Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    let nonce = 0x5eed ^ u64::from(number) << 40;
    let fields = Fields {
        size: size as u64,
        store: STORE,
        file: number,
        lane: 0,
        lanes: 1,
        hash_kind: hashed as u8,
        generation,
        nonce,
        created_at: 0,
    };
    bytes[..HEADER].copy_from_slice(&format::header_bytes(&fields));
    for (at, byte) in bytes[PAGE..].iter_mut().enumerate() {
        // Each page and file has its own payload.
        *byte = (at / PAGE * 31 + at % 251 + usize::from(number) * 101) as u8;
    }
    // Nothing in the directory but what is put there.
    bytes[size - PAGE..].fill(0);
    let mut slot = 0_u32;
    for _ in 0..u.int_in_range(0..=48_u8)? {
        slot += match u.int_in_range(0..=15_u8)? {
            0 => u.int_in_range(0..=200_u32)?,
            _ => 0,
        };
        let Some(place) = format::entry_at(size, slot as usize) else { break };
        let entry = slot_bytes(u, &bytes, nonce, slot, hashed)?;
        bytes[place].copy_from_slice(&entry);
        slot += 1;
    }
    Ok(bytes)
}

/// The 64 bytes of a slot.
fn slot_bytes(
    u: &mut Unstructured<'_>,
    file: &[u8],
    nonce: u64,
    slot: u32,
    hashed: HashKind,
) -> arbitrary::Result<[u8; ENTRY]> {
    let size = file.len();
    match u.int_in_range(0..=9_u8)? {
        0 => Ok([0; ENTRY]),
        1 => u.arbitrary(),
        2 => {
            // Fields as they come, under a checksum that fits.
            let mut bytes: [u8; ENTRY] = u.arbitrary()?;
            format::seal_entry(&mut bytes, nonce, slot);
            Ok(bytes)
        }
        3 => {
            // One of another slot.
            let from = u.int_in_range(0..=slot)?;
            let range = format::entry_at(size, from as usize).unwrap_or(size - ENTRY..size);
            Ok(file[range].try_into().expect("an entry"))
        }
        4 => {
            let mut bytes = format::entry_bytes(&sensible(u, file, hashed)?, nonce, slot);
            let bit = u.int_in_range(0..=ENTRY * 8 - 1)?;
            bytes[bit / 8] ^= 1 << (bit % 8);
            Ok(bytes)
        }
        5 => {
            let mut entry = sensible(u, file, hashed)?;
            match u.int_in_range(0..=4_u8)? {
                0 => entry.len = u.arbitrary()?,
                1 => entry.page = u.arbitrary()?,
                2 => entry.hash = u.arbitrary()?,
                3 => entry.kind = u.arbitrary()?,
                _ => entry.realm = u.int_in_range(0..=0xff_ffff)?,
            }
            entry.realm |= u32::from(entry.kind) << 24;
            let mut bytes = format::entry_bytes(&Entry { realm: entry.realm & 0xff_ffff, ..entry }, nonce, slot);
            format::seal_entry(&mut bytes, nonce, slot);
            Ok(bytes)
        }
        _ => Ok(format::entry_bytes(&sensible(u, file, hashed)?, nonce, slot)),
    }
}

/// An entry that a store might have written, of a block that some other entry may have as well.
fn sensible(u: &mut Unstructured<'_>, file: &[u8], hashed: HashKind) -> arbitrary::Result<Entry> {
    let kind = u.int_in_range(0..=3_u8)?;
    let page = u.int_in_range(1..=(file.len() / PAGE - 2) as u32)?;
    let most = file.len() - PAGE - page as usize * PAGE;
    let len = match kind {
        2 | 3 => 0,
        _ => u.int_in_range(0..=most as u32)?,
    };
    let hash = match kind {
        2 | 3 => 0,
        _ => BlockHash::of_kind(hashed, &file[payload(page, len)]).to_u128(),
    };
    let key = match (kind, u.int_in_range(0..=5_u8)?) {
        (0, _) => hash,
        (_, number) => u128::from(number),
    };
    let realm = *u.choose(&REALMS)?;
    Ok(Entry { key, realm, kind, len, page, hash })
}

fn payload(page: u32, len: u32) -> Range<usize> {
    if len == 0 { 0..0 } else { page as usize * PAGE..page as usize * PAGE + len as usize }
}

/// What an entry stands for: newer ones have a larger pair in front.
struct Version {
    age: (u64, u32),
    kind: u8,
    /// If it has its hash.
    bytes: Option<Vec<u8>>,
}

/// What the file says, by the words of the format.
fn read(
    bytes: &[u8],
    number: u16,
    generation: u64,
    hashed: HashKind,
    versions: &mut BTreeMap<(u32, u128), Vec<Version>>,
) {
    let nonce = 0x5eed ^ u64::from(number) << 40;
    let size = bytes.len();
    let mut next_page = 1;
    for slot in 0.. {
        let Some(range) = format::entry_at(size, slot as usize) else { break };
        let entry = format::entry(&bytes[range.clone()], nonce, slot, size as u64);
        #[cfg(fuzzing)]
        {
            let raw: &[u8; ENTRY] = bytes[range.clone()].try_into().expect("an entry");
            let found = scratchspace::fuzzing::entry(raw, nonce, slot, size as u64);
            let meant = entry.map(|entry| (entry.key, entry.realm, entry.kind, entry.len, entry.page, entry.hash));
            assert_eq!(found, meant, "slot {slot}");
        }
        // What lies in a payload that a lower slot names is no entry.
        if range.start < next_page * PAGE {
            break;
        }
        let Some(entry) = entry else { continue };
        if entry.len > 0 {
            next_page = next_page.max(entry.page as usize + (entry.len as usize).div_ceil(PAGE));
        }
        let payload = &bytes[payload(entry.page, entry.len)];
        let sound = BlockHash::of_kind(hashed, payload).to_u128() == entry.hash;
        let bytes = (entry.kind < 2 && sound).then(|| payload.to_vec());
        let of_key = versions.entry((entry.realm, entry.key)).or_default();
        of_key.push(Version { age: (generation, slot), kind: entry.kind, bytes });
    }
}

fn expected(versions: BTreeMap<(u32, u128), Vec<Version>>) -> Known {
    let mut known = Known::default();
    for ((realm, key), mut of_key) in versions {
        of_key.sort_by_key(|version| std::cmp::Reverse(version.age));
        let newest = of_key.iter().find(|version| version.kind == 2 || version.bytes.is_some());
        let value = newest.and_then(|version| version.bytes.clone());
        if let Some(bytes) = &value {
            known.wrote(realm, key, bytes);
        }
        known.exact.insert((realm, key), value);
    }
    known
}
