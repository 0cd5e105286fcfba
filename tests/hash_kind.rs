//! How payloads are hashed: what a store of each kind promises, keeps, and refuses.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use scratchspace::{BlockHash, DiskFileSource, DiskFileSourceBuilder, OpenError, Realm, Scratch, ScratchBuilder};
use tempfile::TempDir;
use twox_hash::XxHash3_64;

const REALM: Realm = Realm::DEFAULT;
/// Where the header names the hash kind, and its checksum: docs/format.md.
const HASH_KIND: usize = 46;
const CHECKSUM: usize = 504;

/// Below `SCRATCHSPACE_TEST_DIR`, else where the system keeps such.
fn test_folder() -> TempDir {
    match std::env::var_os("SCRATCHSPACE_TEST_DIR") {
        Some(root) => TempDir::new_in(root).unwrap(),
        None => TempDir::new().unwrap(),
    }
}

fn disk(folder: &Path) -> DiskFileSourceBuilder {
    DiskFileSource::builder().folder(folder).files_per_folder(4).file_size(256 << 10)
}

fn builder(folder: &Path) -> ScratchBuilder {
    Scratch::builder(disk(folder).build().unwrap())
}

fn store_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

/// Two contents of one XXH3-128: what anybody can make in no time.
///
/// Beyond 240 bytes XXH3 adds up, for each of eight lanes of a stripe of 64 bytes, the lane's words and the products of
/// their halves mixed with a public secret. A word whose lower half *is* that of the secret has the product 0, so only
/// the sum of the words counts: two of them may exchange their upper halves.
fn collision() -> [Vec<u8>; 2] {
    let with = |first: &[u8; 4], second: &[u8; 4]| {
        let mut bytes = vec![7; 4096];
        bytes[..4].copy_from_slice(&[0xb8, 0xfe, 0x6c, 0x39]);
        bytes[4..8].copy_from_slice(first);
        bytes[64..68].copy_from_slice(&[0x7c, 0x01, 0x81, 0x2c]);
        bytes[68..72].copy_from_slice(second);
        bytes
    };
    [with(b"good", b"evil"), with(b"evil", b"good")]
}

/// The reason for another kind: see SECURITY.md. Nor does the store compare bytes that have one hash.
#[test]
fn with_xxh3_a_tenant_can_make_another_one_of_its_realm_read_its_own_bytes() {
    let [good, evil] = collision();
    assert_ne!(good, evil);
    assert_eq!(BlockHash::of(&good), BlockHash::of(&evil));
    let folder = test_folder();
    let scratch = builder(folder.path()).open().unwrap();
    let other = Realm::from(7);
    scratch.put(REALM, &evil).unwrap();
    let hash = scratch.put(REALM, &good).unwrap();
    assert_eq!((scratch.get(REALM, hash).unwrap().to_vec() == evil, scratch.stats().duplicates), (true, 1));
    // Never across realms.
    assert!(!scratch.contains(other, hash).unwrap());
    scratch.put(other, &good).unwrap();
    assert!(scratch.get(other, hash).unwrap()[..] == good);
}

/// A header that is whole and names a kind that this build does not know was taken for a torn one, and its file for
/// empty.
#[test]
fn files_of_a_hash_kind_that_is_not_known_are_refused_and_not_touched() {
    let kinds: &[u8] = if cfg!(feature = "blake3") { &[2, 255] } else { &[1, 2, 255] };
    for kind in kinds {
        let folder = test_folder();
        builder(folder.path()).open().unwrap().put(REALM, b"block").unwrap();
        let (path, mut bytes) =
            store_files(folder.path()).into_iter().find(|(path, _)| path.extension().unwrap() == "scratch").unwrap();
        bytes[HASH_KIND] = *kind;
        let checksum = XxHash3_64::oneshot(&bytes[..CHECKSUM]);
        bytes[CHECKSUM..512].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        let before = store_files(folder.path());
        let error = builder(folder.path()).open().unwrap_err();
        let real = path.canonicalize().unwrap();
        assert_eq!(error, OpenError::HashKind { path: real, found: *kind });
        let advice = if *kind == 1 { "with its feature `blake3`" } else { "use the release that wrote it" };
        assert!(error.to_string().contains(advice), "{error}");
        assert!(store_files(folder.path()) == before);
        assert_eq!(builder(folder.path()).reset().open().unwrap().len(), 0);
    }
}

#[cfg(feature = "blake3")]
mod blake3 {
    use std::time::Duration;

    use scratchspace::{BlockHasher, FailedClosure, HashKind, Layout, MemoryFileSource, MissingOk, ReadError, Verify};

    use super::*;

    fn of(bytes: &[u8]) -> BlockHash {
        BlockHash::of_kind(HashKind::Blake3, bytes)
    }

    fn block(number: u8, len: usize) -> Vec<u8> {
        (number..=250).cycle().take(len).collect()
    }

    #[test]
    fn contents_of_one_xxh3_are_two_blocks() {
        let [good, evil] = collision();
        let folder = test_folder();
        let scratch = builder(folder.path()).hash_kind(HashKind::Blake3).open().unwrap();
        let [of_evil, of_good] = [&evil, &good].map(|bytes| scratch.put(REALM, bytes).unwrap());
        assert!(of_evil != of_good && scratch.stats().duplicates == 0);
        assert!(scratch.get(REALM, of_good).unwrap()[..] == good && scratch.get(REALM, of_evil).unwrap()[..] == evil);
    }

    #[test]
    fn every_way_to_write_names_content_by_blake3_and_a_restart_finds_and_verifies_it() {
        let folder = test_folder();
        let scratch = builder(folder.path()).hash_kind(HashKind::Blake3).open().unwrap();
        assert_eq!(scratch.hash_kind(), HashKind::Blake3);
        assert!(scratch.explain().to_string().contains("BLAKE3"));
        // Gathered, alone, in a run, deferred, typed; and named, whose hash is the payload's.
        let mut contents = vec![block(1, 100), block(2, 80_000), block(3, 5000), block(4, 0), block(5, 9000)];
        assert_eq!(scratch.put(REALM, &contents[0]), Ok(of(&contents[0])));
        assert_eq!(scratch.put(REALM, &contents[1]), Ok(of(&contents[1])));
        let many = [&contents[2][..], &contents[3]];
        assert_eq!(scratch.put_many(REALM, &many), Ok(vec![of(&contents[2]), of(&contents[3])]));
        let bytes = contents[4].clone();
        scratch.write(REALM, of(&bytes), 9000, move |to| to.copy_from_slice(&bytes)).unwrap();
        let mut writer = scratch.writer(REALM);
        let values: Vec<u64> = (0..3000).collect();
        writer.write_slice(&values);
        contents.push(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        assert_eq!(writer.commit().unwrap(), of(&contents[5]));
        let name = BlockHash::of(b"name");
        scratch.put_named(REALM, name, &contents[1]).unwrap();
        scratch.flush().unwrap();
        drop(scratch);
        for verify in [Verify::FirstRead, Verify::Always] {
            let scratch = builder(folder.path()).verify(verify).open().unwrap();
            scratch.wait_recovered(Duration::from_mins(1)).unwrap();
            assert_eq!(scratch.hash_kind(), HashKind::Blake3, "as it was made");
            for bytes in &contents {
                assert_eq!(scratch.read(REALM, of(bytes), |found| found == bytes), Ok(true), "{} bytes", bytes.len());
                assert_eq!(scratch.read_verified(REALM, of(bytes), |found| found == bytes), Ok(true));
                assert_eq!(scratch.get(REALM, BlockHash::of(bytes)).missing_ok(), Ok(None));
                scratch.put(REALM, bytes).unwrap();
            }
            assert_eq!(scratch.read(REALM, name, |found| found == contents[1]), Ok(true));
            assert_eq!((scratch.stats().duplicates, scratch.stats().corrupted), (6, 0));
        }
    }

    #[test]
    fn a_closure_that_promised_the_other_hash_fails() {
        let source = MemoryFileSource::builder().build().unwrap();
        let scratch = Scratch::builder(source).hash_kind(HashKind::Blake3).open().unwrap();
        let promised = BlockHash::of(b"bytes");
        scratch.write(REALM, promised, 5, |to| to.copy_from_slice(b"bytes")).unwrap();
        let failed = scratch.flush().unwrap_err();
        assert_eq!(failed.first, Some(FailedClosure::WrongHash { expected: promised, found: of(b"bytes") }));
        let mut hasher = BlockHasher::with_kind(HashKind::Blake3);
        hasher.update(b"bytes");
        assert_eq!(hasher.finish(), of(b"bytes"));
    }

    #[test]
    fn a_damaged_payload_is_corrupted() {
        let folder = test_folder();
        let scratch = builder(folder.path()).hash_kind(HashKind::Blake3).open().unwrap();
        let hash = scratch.put(REALM, &block(9, 70_000)).unwrap();
        drop(scratch);
        let payload = &block(9, 70_000)[..];
        let mut damaged = 0;
        for (path, mut bytes) in store_files(folder.path()) {
            let found = (0..bytes.len()).step_by(4096).find(|at| bytes[*at..].starts_with(payload));
            if let Some(at) = found {
                bytes[at + 69_999] ^= 1;
                fs::write(path, bytes).unwrap();
                damaged += 1;
            }
        }
        assert_eq!(damaged, 1);
        let scratch = builder(folder.path()).open().unwrap();
        scratch.wait_recovered(Duration::from_mins(1)).unwrap();
        assert!(matches!(scratch.get(REALM, hash), Err(ReadError::Corrupted { .. })));
    }

    #[test]
    fn a_store_keeps_its_kind_until_it_is_reset() {
        for (was, is) in [(HashKind::Xxh3, HashKind::Blake3), (HashKind::Blake3, HashKind::Xxh3)] {
            let folder = test_folder();
            builder(folder.path()).hash_kind(was).open().unwrap().put(REALM, b"block").unwrap();
            let before = store_files(folder.path());
            let layout = |hash_kind| Layout { lanes: 1, file_size: 256 << 10, hash_kind };
            let error = builder(folder.path()).hash_kind(is).open().unwrap_err();
            assert_eq!(error, OpenError::LayoutChanged { was: layout(was), is: layout(is) });
            assert!(error.to_string().contains(&was.to_string()) && error.to_string().contains(&is.to_string()));
            assert!(store_files(folder.path()) == before, "nothing was touched");
            drop(builder(folder.path()).hash_kind(was).open().unwrap());
            let scratch = builder(folder.path()).hash_kind(is).reset().open().unwrap();
            assert_eq!((scratch.hash_kind(), scratch.len()), (is, 0));
        }
    }
}
