//! Any 512 bytes as the header of a file.
//!
//! The first byte says what is put right before they are read: the checksum (bit 0), magic and version (bit 1), page
//! size and file size (bit 2), store and file (bit 3), reserved bytes (bit 4), BLAKE3 (bit 5); and whether a store is opened over them
//! (bit 7).

use scratchspace::OpenError;

use super::format::{self, HEADER, Header, PAGE};
use super::store::{Image, Known, STORE, Setup, check, kind};

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut bytes = rest[..rest.len().min(PAGE)].to_vec();
    if mode & 0x3f != 0 {
        bytes.resize(bytes.len().max(HEADER), 0);
    }
    if mode & 2 != 0 {
        bytes[..8].copy_from_slice(b"\x89SCRATCH");
        bytes[8..12].copy_from_slice(&1_u32.to_le_bytes());
    }
    if mode & 4 != 0 {
        bytes[12..16].copy_from_slice(&4096_u32.to_le_bytes());
        bytes[16..24].copy_from_slice(&(5 * 4096_u64).to_le_bytes());
    }
    if mode & 8 != 0 {
        bytes[24..40].copy_from_slice(&STORE.to_le_bytes());
        bytes[40..42].copy_from_slice(&1_u16.to_le_bytes());
    }
    if mode & 16 != 0 {
        bytes[47] = 0;
        bytes[68..504].fill(0);
    }
    if mode & 32 != 0 {
        bytes[46] = 1;
    }
    if mode & 1 != 0 {
        format::seal_header(&mut bytes);
    }
    let meant = format::header(&bytes);
    #[cfg(fuzzing)]
    decodes_as_drawn(&bytes, meant);
    if mode & 0x80 != 0 {
        opens_or_says_why(&bytes, meant);
    }
}

/// The library reads out of these bytes what `docs/format.md` says is in them.
#[cfg(fuzzing)]
fn decodes_as_drawn(bytes: &[u8], meant: Header) {
    let found = scratchspace::fuzzing::header(bytes);
    match meant {
        Header::Fine(fields) if found.is_none() => assert!(kind(fields.hash_kind).is_none(), "{fields:?} is refused"),
        Header::Fine(fields) => {
            let found = found.expect("just looked");
            assert_eq!((found.size, found.store, found.file), (fields.size, fields.store, fields.file));
            assert_eq!((found.lane, found.lanes, found.created_at), (fields.lane, fields.lanes, fields.created_at));
            assert_eq!((found.generation, found.nonce), (fields.generation, fields.nonce));
        }
        _ => assert!(found.is_none(), "{found:?} was read out of {meant:?}"),
    }
}

/// A folder whose only file begins like this is opened: refused for what the header says, or served.
fn opens_or_says_why(bytes: &[u8], meant: Header) {
    let setup = Setup::default();
    let mut image = Image::empty(&setup);
    let mut file = vec![0; setup.file_size];
    file[..bytes.len()].copy_from_slice(bytes);
    image.put(1, file);
    let opened = check(&image, &setup, &Known::default());
    match (meant, opened) {
        (Header::Fine(fields), opened) if kind(fields.hash_kind).is_none() => {
            assert!(matches!(opened, Err(OpenError::HashKind { .. })), "{opened:?} over {fields:?}");
        }
        // A kind of hash that a later release may know is no tear, whatever else is wrong.
        (Header::Impossible, _) if kind(bytes[46]).is_none() => {}
        (Header::Torn | Header::Impossible, opened) => assert_eq!(opened, Ok(()), "a torn file holds nothing"),
        (Header::Version(is), Err(OpenError::Version { found, .. })) => assert_eq!(is, found),
        (Header::Version(_), opened) => panic!("{opened:?} over a file of another version"),
        (Header::Fine(fields), Ok(())) => {
            assert_eq!((fields.store, fields.file, fields.size), (STORE, 1, setup.file_size as u64), "{fields:?}");
        }
        (Header::Fine(_), Err(_)) => {}
    }
}
