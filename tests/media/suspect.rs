//! A file whose sync failed stays suspect over a restart.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use scratchspace::MissingOk;

use crate::process::alone;
use crate::store::{Dice, FILE_SIZE, FILES, REALM, Written, builder, files_in, path_of, test_folder};

/// After a failed sync, a kill and an opening the new process believed the page cache: it verified blocks once, and lent
/// them from the mapping when the system had replaced them by what was on the disk. It also went on filling the file.
#[test]
fn a_suspect_file_is_copied_from_never_filled_and_dies_by_deletion() {
    alone("suspect::a_suspect_file_is_copied_from_never_filled_and_dies_by_deletion", 1, |_| {
        let folder = test_folder();
        let mut dice = Dice::new(3);
        let mut written = Written::new(builder(folder.path()).open().unwrap());
        written.put_many(&mut dice, FILE_SIZE * 3 / 2);
        written.scratch.flush().unwrap();
        let infos = written.infos();
        let active = infos.iter().max_by_key(|info| info.generation).unwrap().file;
        let Written { scratch, blocks } = written;
        drop(scratch);
        // What the store does when a sync fails: tests of full disks and of `storage` show that it does.
        let path = path_of(folder.path(), active.get());
        fs::rename(&path, path.with_extension("suspect")).unwrap();

        let mut written = Written { scratch: builder(folder.path()).open().unwrap(), blocks };
        written.scratch.wait_recovered(Duration::from_secs(20)).unwrap();
        for info in &infos {
            let block = written.scratch.get(REALM, info.hash).unwrap();
            assert!(block[..] == written.blocks[&info.hash]);
            // Only what is lent from the mapping begins on a page for sure; a copy never shares its place.
            let again = written.scratch.get(REALM, info.hash).unwrap();
            assert_eq!(block.as_ptr() == again.as_ptr(), info.file != active, "{info:?}");
        }
        let another = written.put(dice.bytes(1000));
        assert_ne!(written.scratch.info(REALM, another).unwrap().file, active);
        assert_eq!(path_of(folder.path(), active.get()).extension().unwrap(), "suspect");
        let old = fs::File::open(path_of(folder.path(), active.get())).unwrap();
        written.put_many(&mut dice, 2 * FILE_SIZE * u64::from(FILES));
        written.scratch.flush().unwrap();
        assert!(files_in(folder.path()).iter().all(|path| path.extension().unwrap() == "scratch"));
        assert_eq!(old.metadata().unwrap().nlink(), 0, "deleted, and created afresh");
        for hash in written.blocks.keys() {
            written.read(*hash).missing_ok().unwrap();
        }
    });
}
