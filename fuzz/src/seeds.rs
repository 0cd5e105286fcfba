//! Real stores, which the targets start from, and the seeds that are made of them.
//!
//! # Invariants
//!
//! 1. Every process makes the same: nonces, which are random, and times are replaced by fixed ones after the fact.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use scratchspace::{BlittableWriter, BlockHash, Realm, Scratch};

use super::format::{self, HEADER, Header};
use super::memory::Folders;
use super::store::{Image, Known, STORE, Setup, kind, open};

/// A store that was written, flushed and closed.
#[derive(Debug)]
pub struct Base {
    pub image: Image,
    pub known: Known,
    pub setup: Setup,
    /// Its files have the id of the store that the targets open.
    pub same_store: bool,
}

/// The stores that folders are made of: young and old copies of one, two lanes, two folders, another id, BLAKE3.
pub fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        // Room for all: which file makes room, and when, is up to threads.
        let plain = Setup { files_per_folder: 8, ..Setup::default() };
        let lanes = Setup { files_per_folder: 16, lanes_per_folder: Some(2), ..plain.clone() };
        let folders = Setup { folders: 2, ..plain.clone() };
        let mut all = vec![base(&plain, 6), base(&plain, 18), base(&lanes, 30), base(&folders, 30)];
        let mut other = base(&plain, 12);
        rename(&mut other);
        all.push(other);
        // As the others are, where this build has no other kind of hash.
        all.push(base(&Setup { hash_kind: kind(1), ..plain }, 18));
        all
    })
}

fn base(setup: &Setup, steps: u64) -> Base {
    let folders = Folders::new(&Image::empty(setup), setup);
    let scratch = open(folders.clone(), setup).expect("a new store");
    let known = write(&scratch, steps);
    scratch.flush().expect("a healthy disk");
    scratch.close(Duration::from_secs(60));
    drop(scratch);
    let mut image = folders.image();
    settle(&mut image);
    // What is there says the rest itself.
    let setup = Setup { lanes_per_folder: None, hash_kind: None, ..setup.clone() };
    Base { image, known, setup, same_store: true }
}

/// Values of four realms, large and small and none, replaced and removed.
fn write(scratch: &Scratch, steps: u64) -> Known {
    let mut known = Known::default();
    for step in 0..steps {
        let realm = Realm::new([0, 1, 2, 0xff_ffff][step as usize % 4]).expect("24 bits");
        let bytes: Vec<u8> =
            (0..[10, 4096, 0, 5000, 700][step as usize % 5]).map(|at| (at * 7 + step * 13) as u8).collect();
        let key = BlockHash::from_u128(u128::from(step % 7));
        match step % 6 {
            0 | 3 => {
                let hash = scratch.put(realm, &bytes).expect("writable");
                known.wrote(realm.get(), hash.to_u128(), &bytes);
            }
            5 => drop(scratch.remove(realm, BlockHash::from_u128(u128::from(step % 7))).expect("writable")),
            _ => {
                scratch.put_named(realm, key, &bytes).expect("writable");
                known.wrote(realm.get(), key.to_u128(), &bytes);
            }
        }
    }
    known
}

/// Undoes what threads decided: which lane's file was made first, and whether a spare was there already.
fn settle(image: &mut Image) {
    let mut lanes = Vec::new();
    image.files.retain(|name, bytes| {
        let Header::Fine(fields) = format::header(bytes) else { return true };
        let used = format::entry_at(bytes.len(), 0).is_some_and(|range| bytes[range].iter().any(|byte| *byte != 0));
        if used {
            lanes.push((fields.lane, fields.generation, name.clone()));
        }
        used
    });
    lanes.sort();
    for (generation, (.., name)) in (1..).zip(lanes) {
        fix(image.files.get_mut(&name).expect("kept"), STORE, Some(generation));
    }
}

/// A nonce and times that are the same in every process.
fn fix(bytes: &mut [u8], store: u128, generation: Option<u64>) {
    let Header::Fine(mut fields) = format::header(bytes) else { return };
    let old = fields.nonce;
    fields.generation = generation.unwrap_or(fields.generation);
    fields.nonce = 0xf1f1 ^ fields.generation << 32 ^ u64::from(fields.file);
    (fields.created_at, fields.store) = (1, store);
    bytes[..HEADER].copy_from_slice(&format::header_bytes(&fields));
    for slot in 0_u32.. {
        let Some(range) = format::entry_at(bytes.len(), slot as usize) else { break };
        let size = bytes.len() as u64;
        if format::entry(&bytes[range.clone()], old, slot, size).is_some() {
            bytes[range.start + 28..range.start + 32].copy_from_slice(&1_u32.to_le_bytes());
            format::seal_entry(&mut bytes[range], fields.nonce, slot);
        }
    }
}

/// Files of a store with another id, under their own names.
fn rename(base: &mut Base) {
    let files = std::mem::take(&mut base.image.files);
    for ((folder, name), mut bytes) in files {
        let (from, to) = (format!("{STORE:032x}"), format!("{:032x}", STORE + 1));
        fix(&mut bytes, STORE + 1, None);
        if let Ok(text) = String::from_utf8(bytes.clone())
            && text.starts_with("scratchspace")
        {
            bytes = text.replace(&from, &to).into_bytes();
        }
        base.image.files.insert((folder, name.replace(&from, &to)), bytes);
    }
    base.image.store = STORE + 1;
    base.same_store = false;
}

/// For each target the seeds that its corpus begins with, by name.
pub fn all() -> BTreeMap<&'static str, BTreeMap<String, Vec<u8>>> {
    let mut all: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>> = BTreeMap::new();
    let mut add = |target, name: String, bytes: Vec<u8>| {
        all.entry(target).or_default().insert(name, bytes);
    };
    for (number, base) in bases().iter().enumerate() {
        // Without an edit, in memory and on a disk, and with each kind of them; that of locks (8) on a disk.
        let number = number as u8;
        add("folder", format!("base-{number}"), vec![0, number, 9, 0]);
        add("folder", format!("base-{number}-on-disk"), vec![63, number, 9, 0]);
        for kind in 0..16_u8 {
            let mut edits = vec![if kind == 8 { 63 } else { kind }, number, 9, 3];
            edits.extend((0..90_u8).map(|at| if at % 11 == 0 { kind } else { at.wrapping_mul(37) ^ kind }));
            add("folder", format!("edits-{number}-{kind:02}"), edits);
        }
        for ((folder, name), bytes) in &base.image.files {
            let Header::Fine(fields) = format::header(bytes) else { continue };
            for (kind, mode) in [("decoded", 0), ("opened", 0x80), ("forged", 0x9d)] {
                let seed = [&[mode], &bytes[..HEADER]].concat();
                add("header", format!("{kind}-{number}-{folder}-{}-{}", fields.file, name.len()), seed);
            }
        }
    }
    // Found by fuzzing. Generation 0 panicked: it was not above what the lane had been handed. One near `2^42` led to
    // headers that could not be read back, and what had been flushed was gone with the next opening.
    let mut generation_0 = vec![0; 513];
    (generation_0[0], generation_0[45]) = (0x9f, 1);
    add("header", "found-generation-0".to_owned(), generation_0);
    let mut near_the_end = vec![0; 513];
    (near_the_end[0], near_the_end[45]) = (0x9f, 1);
    near_the_end[49..57].copy_from_slice(&((1_u64 << 42) - 3).to_le_bytes());
    add("header", "found-generation-near-the-end".to_owned(), near_the_end);
    for pages in 0..10_u8 {
        for kind in 0..10_u8 {
            let mut seed = vec![pages, pages % 2, 6 + kind];
            seed.extend((0..200_u8).map(|at| if at % 8 == 1 { kind } else { at.wrapping_mul(29) ^ pages }));
            add("directory", format!("forged-{pages}-{kind}"), seed);
        }
    }
    for (name, bytes) in payloads() {
        for start in 0..4_u8 {
            let operations: Vec<u8> = (0..24).map(|at| (at * 5 + start * 7) % 24).collect();
            add("blittable_reader", format!("{name}-{start}"), [&[start, 24][..], &operations, &bytes].concat());
        }
    }
    all
}

/// What real writers write.
fn payloads() -> Vec<(&'static str, Vec<u8>)> {
    let mut values = BlittableWriter::detached();
    values.write(&7_u32);
    values.write_str("a string");
    values.write_prefixed(&[1_u64, 2, 3]);
    values.align_to::<u128>();
    values.write_slice(&[1.5_f64, 2.5]);
    let mut regions = BlittableWriter::detached();
    regions.checksummed(|writer| {
        writer.write_str("inside");
        writer.checksummed(|writer| writer.write_prefixed(&[true, false]));
    });
    regions.write(&'x');
    vec![
        ("values", values.to_bytes().expect("detached")),
        ("regions", regions.to_bytes().expect("detached")),
        ("none", Vec::new()),
    ]
}
