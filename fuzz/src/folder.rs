//! Whole folders: a real store whose files are edited, torn, spliced with those of other stores, renamed, forged.
//!
//! The bytes are a list of edits; what they begin with is drawn from `seeds::bases`. One input in 64 is opened on a disk,
//! where lock files and the number of folders count too; the others, and those again if no lock was touched, in memory.

use std::mem::discriminant;

use arbitrary::Unstructured;
use scratchspace::{BlockHash, OpenError};

use super::format::{self, ENTRY, Entry, HEADER, Header, PAGE};
use super::seeds::{Base, bases};
use super::store::{Image, LOCK, STORE, check, check_on_disk, kind};

const MOST_EDITS: u8 = 12;

pub fn run(data: &[u8]) {
    let _ = attack(&mut Unstructured::new(data));
}

fn attack(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let bases = bases();
    let on_disk = u.arbitrary::<u8>()? % 64 == 63;
    let base = u.choose(bases)?;
    let (mut image, mut known, mut setup) = (base.image.clone(), base.known.clone(), base.setup.clone());
    // Files of another store of the same id would be its own; what was written there may be read then.
    for other in bases.iter().filter(|other| other.same_store) {
        for ((realm, key), values) in &other.known.written {
            values.iter().for_each(|value| known.wrote(*realm, *key, value));
        }
    }
    match u.int_in_range(0..=9_u8)? {
        0 => setup.files_per_folder = u.int_in_range(0..=8)?,
        1 => setup.lanes_per_folder = Some(u.int_in_range(0..=3)?),
        2 if on_disk => setup.folders = u.int_in_range(1..=2)?,
        3 => setup.hash_kind = kind(u.int_in_range(0..=1)?),
        4 | 5 => setup.refuses = true,
        _ => {}
    }
    let mut locks_are_whole = setup.folders == base.setup.folders;
    for _ in 0..u.int_in_range(0..=MOST_EDITS)? {
        if u.is_empty() {
            break;
        }
        edit(u, bases, &mut image, &mut known, on_disk)?;
        locks_are_whole &= image.has_whole_locks();
    }
    let in_memory = locks_are_whole.then(|| check(&image, &setup, &known));
    let on_disk = on_disk.then(|| check_on_disk(&image, &setup, &known));
    for opened in [&in_memory, &on_disk].into_iter().flatten() {
        match opened {
            Ok(()) => {}
            Err(OpenError::InUse { .. }) => panic!("nobody else uses it"),
            // A sentence that names what is wrong.
            Err(error) => assert!(error.to_string().len() > 20, "{error}"),
        }
    }
    if let (Some(in_memory), Some(on_disk)) = (&in_memory, &on_disk) {
        let verdict = |opened: &Result<(), OpenError>| opened.as_ref().map_err(discriminant).copied();
        assert_eq!(verdict(in_memory), verdict(on_disk), "{in_memory:?} in memory, {on_disk:?} on a disk");
    }
    Ok(())
}

/// One of the names, lock files left out unless asked for.
fn pick(u: &mut Unstructured<'_>, image: &Image, locks: bool) -> arbitrary::Result<(usize, String)> {
    let names: Vec<_> = image.files.keys().filter(|(_, name)| locks || name != LOCK).cloned().collect();
    u.choose(&names).cloned()
}

fn edit(
    u: &mut Unstructured<'_>,
    bases: &[Base],
    image: &mut Image,
    known: &mut super::store::Known,
    locks: bool,
) -> arbitrary::Result<()> {
    match u.int_in_range(0..=15_u8)? {
        0 | 1 => flip(u, image),
        2 => overwrite(u, image),
        3 | 4 => splice(u, bases, image),
        5 => truncate(u, image, locks),
        6 => rename(u, image),
        7 => add(u, bases, image),
        8 if locks => lock_file(u, image),
        9 | 10 => forge_header(u, image),
        11 => move_entry(u, image),
        _ => forge_entry(u, image, known),
    }
}

fn flip(u: &mut Unstructured<'_>, image: &mut Image) -> arbitrary::Result<()> {
    let name = pick(u, image, false)?;
    let bytes = image.files.get_mut(&name).expect("picked");
    let at = place(u, bytes.len())?;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << u.int_in_range(0..=7_u8)?;
    }
    Ok(())
}

/// A place in a file: in the header, in the directory, or anywhere.
fn place(u: &mut Unstructured<'_>, len: usize) -> arbitrary::Result<usize> {
    match u.int_in_range(0..=2_u8)? {
        0 => u.int_in_range(0..=HEADER - 1),
        1 => Ok(len.saturating_sub(1 + u.int_in_range(0..=40 * ENTRY)?)),
        _ => u.int_in_range(0..=len.saturating_sub(1)),
    }
}

fn overwrite(u: &mut Unstructured<'_>, image: &mut Image) -> arbitrary::Result<()> {
    let name = pick(u, image, false)?;
    let bytes = image.files.get_mut(&name).expect("picked");
    let at = place(u, bytes.len())?;
    let end = (at + u.int_in_range(1..=2 * PAGE)?).min(bytes.len());
    let with: u8 = u.arbitrary()?;
    if at < end {
        bytes[at..end].fill(with);
    }
    Ok(())
}

/// Sectors, pages or all of a file, from another file of this or another store.
fn splice(u: &mut Unstructured<'_>, bases: &[Base], image: &mut Image) -> arbitrary::Result<()> {
    let (to, other) = (pick(u, image, false)?, u.choose(bases)?);
    let from = pick(u, &other.image, false)?;
    let from = &other.image.files[&from];
    let to = image.files.get_mut(&to).expect("picked");
    let unit = *u.choose(&[512, PAGE, 1 << 20])?;
    let start = u.int_in_range(0..=to.len() / unit)? * unit;
    let end = (start + unit * u.int_in_range(1..=3_usize)?).min(to.len()).min(from.len());
    if unit == 1 << 20 {
        to.clone_from(from);
    } else if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
    Ok(())
}

fn truncate(u: &mut Unstructured<'_>, image: &mut Image, locks: bool) -> arbitrary::Result<()> {
    let name = pick(u, image, locks)?;
    let bytes = image.files.get_mut(&name).expect("picked");
    let len = match u.int_in_range(0..=2_u8)? {
        0 => u.int_in_range(0..=bytes.len())?,
        1 => u.int_in_range(0..=8_usize)? * PAGE,
        _ => bytes.len() + u.int_in_range(1..=PAGE)?,
    };
    bytes.resize(len, 0);
    Ok(())
}

/// Another number, folder, store or ending.
fn rename(u: &mut Unstructured<'_>, image: &mut Image) -> arbitrary::Result<()> {
    let name = pick(u, image, false)?;
    let bytes = image.files.remove(&name).expect("picked");
    let number = *u.choose(&[0, 1, 2, 3, 4, 5, 6, 1023, 1024, 9999])?;
    let new = match u.int_in_range(0..=5_u8)? {
        0 => return Ok(()),
        1 => format!("{:032x}-{number:04}.scratch", STORE + 1),
        2 => format!("{STORE:032x}-{number:04}.tmp"),
        3 => format!("{STORE:032x}-{number:04}.suspect"),
        4 => format!("{STORE:032X}-{number}.scratch"),
        _ => Image::name(number),
    };
    // Two files change places.
    if let Some(other) = image.files.insert((name.0, new), bytes) {
        image.files.insert(name, other);
    }
    Ok(())
}

/// A file of another store, or one that nobody wrote.
fn add(u: &mut Unstructured<'_>, bases: &[Base], image: &mut Image) -> arbitrary::Result<()> {
    let number = *u.choose(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 1022, 1023])?;
    let bytes = if u.arbitrary()? {
        let other = u.choose(bases)?;
        let name = pick(u, &other.image, false)?;
        other.image.files[&name].clone()
    } else {
        vec![u.arbitrary()?; u.int_in_range(0..=6_usize)? * PAGE]
    };
    image.put(number, bytes);
    Ok(())
}

fn lock_file(u: &mut Unstructured<'_>, image: &mut Image) -> arbitrary::Result<()> {
    let Some(text) = image.files.get_mut(&(0, LOCK.to_owned())) else { return Ok(()) };
    let at = u.int_in_range(0..=text.len())?;
    let more: [u8; 3] = u.arbitrary()?;
    match u.int_in_range(0..=3_u8)? {
        0 => text.truncate(at),
        1 => text.splice(at..at, more).for_each(drop),
        2 => text[at..].fill(0),
        _ => drop(image.files.remove(&(0, LOCK.to_owned()))),
    }
    Ok(())
}

/// A header that checks, with one field as somebody likes it.
fn forge_header(u: &mut Unstructured<'_>, image: &mut Image) -> arbitrary::Result<()> {
    let name = pick(u, image, false)?;
    let bytes = image.files.get_mut(&name).expect("picked");
    if bytes.len() < HEADER {
        return Ok(());
    }
    // Version, page size, file size, store, file, lane, lanes, kind, reserved, generation, nonce, time, reserved.
    let at = *u.choose(&[8, 12, 16, 24, 40, 42, 44, 46, 47, 48, 56, 64, 68, 503])?;
    let width = *u.choose(&[1, 2, 4, 8])?;
    let value: u64 = match u.int_in_range(0..=4_u8)? {
        0 => u64::from(u.int_in_range(0..=9_u8)?),
        1 => (1 << 42) - 1 - u64::from(u.int_in_range(0..=3_u8)?),
        2 => u64::from(u.int_in_range(0..=9_u8)?) * PAGE as u64,
        3 => u64::MAX,
        _ => u.arbitrary()?,
    };
    let end = (at + width).min(504);
    bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
    format::seal_header(bytes);
    Ok(())
}

/// An entry stands in a slot that is not its own.
fn move_entry(u: &mut Unstructured<'_>, image: &mut Image) -> arbitrary::Result<()> {
    let name = pick(u, image, false)?;
    let bytes = image.files.get_mut(&name).expect("picked");
    let (from, to) = (u.int_in_range(0..=40_usize)?, u.int_in_range(0..=40_usize)?);
    if let (Some(from), Some(to)) = (format::entry_at(bytes.len(), from), format::entry_at(bytes.len(), to)) {
        bytes.copy_within(from, to.start);
    }
    Ok(())
}

/// What somebody could write who knows the nonce.
fn forge_entry(u: &mut Unstructured<'_>, image: &mut Image, known: &mut super::store::Known) -> arbitrary::Result<()> {
    let name = pick(u, image, false)?;
    let bytes = image.files.get_mut(&name).expect("picked");
    let Header::Fine(header) = format::header(bytes) else { return Ok(()) };
    let slot = u.int_in_range(0..=40_u32)?;
    let Some(range) = format::entry_at(bytes.len(), slot as usize) else { return Ok(()) };
    let there = format::entry(&bytes[range.clone()], header.nonce, slot, bytes.len() as u64);
    let keys: Vec<_> = known.written.keys().copied().collect();
    let (realm, key) = *u.choose(&keys)?;
    let mut entry = there.unwrap_or(Entry { key, realm, kind: 1, len: 8, page: 1, hash: key });
    match u.int_in_range(0..=7_u8)? {
        0 => entry.realm = u.int_in_range(0..=3)?,
        1 => entry.len = u.arbitrary()?,
        2 => entry.page = u.int_in_range(0..=6)?,
        3 => entry.page = u32::MAX - u.int_in_range(0..=3_u32)?,
        4 => entry.kind = u.arbitrary()?,
        5 => (entry.realm, entry.key, entry.kind) = (realm, key, 1),
        6 => entry.len = (1 << 31) - 30 - u.int_in_range(0..=6_u32)?,
        _ => entry.hash = key,
    }
    if u.arbitrary()? {
        let start = (entry.page as usize).saturating_mul(PAGE);
        let end = start.saturating_add(entry.len as usize);
        if let Some(payload) = bytes.get(start..end) {
            entry.hash = BlockHash::of_kind(kind(header.hash_kind).unwrap_or_default(), payload).to_u128();
        }
        if entry.kind == 0 {
            entry.key = entry.hash;
        }
    }
    known.forges(entry.realm, entry.key, entry.hash);
    let range = format::entry_at(bytes.len(), slot as usize).expect("just looked");
    bytes[range].copy_from_slice(&format::entry_bytes(&entry, header.nonce, slot));
    Ok(())
}
