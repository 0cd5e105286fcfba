//! Who may read the files of a store: its user, whatever the umask of the process is.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::{
    thread,
    time::{Duration, Instant},
};

use scratchspace::Scratch;

use crate::fork::{WELL, fork, set_umask};
use crate::place::{REALM, disk, open, test_folder};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The modes of what this process has open below a folder, with a name or without.
#[cfg(target_os = "linux")]
fn modes_of_open_files(folder: &Path) -> Vec<u32> {
    let folder = folder.canonicalize().unwrap();
    let open = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let of_folder = open.filter(|path| fs::read_link(path).is_ok_and(|to| to.starts_with(&folder)));
    // What was closed meanwhile has no mode.
    of_folder.filter_map(|path| fs::metadata(path).ok()).map(|file| file.permissions().mode() & 0o777).collect()
}

#[test]
fn folders_are_made_with_mode_0700_and_files_with_0600_whatever_the_umask_is() {
    for umask in [0, 0o022, 0o077, 0o277, 0o377] {
        let folder = test_folder();
        let (upper, store) = (folder.path().join("upper"), folder.path().join("upper/store"));
        let temporary = folder.path().join("temporary");
        // The umask is the process's: only a child may change it.
        let child = fork(|| {
            set_umask(umask);
            let scratch = open(&store);
            for number in 0..3_u8 {
                scratch.put(REALM, &vec![number; 200_000]).unwrap();
            }
            // Closed: a spare that is being made would change its name and mode meanwhile.
            drop(scratch);
            let files: Vec<_> = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(files.len() >= 3, "the lock file and two files: {files:?}");
            assert!(files.iter().all(|file| mode(file) == 0o600), "umask {umask:o}: {files:?}");
            assert_eq!((mode(&upper), mode(&store)), (0o700, 0o700), "umask {umask:o}");
            let scratch = Scratch::builder(disk(&temporary).build().unwrap()).temporary().open().unwrap();
            scratch.put(REALM, &vec![7; 200_000]).unwrap();
            assert_eq!((mode(&temporary), mode(&temporary.join("scratchspace.lock"))), (0o700, 0o600));
            #[cfg(target_os = "linux")]
            {
                // A spare that is being made has its mode a moment later.
                let deadline = Instant::now() + Duration::from_secs(20);
                let mut modes = modes_of_open_files(&temporary);
                while modes.len() < 2 || modes.iter().any(|mode| *mode != 0o600) {
                    assert!(Instant::now() < deadline, "umask {umask:o}: {modes:?}");
                    thread::sleep(Duration::from_millis(1));
                    modes = modes_of_open_files(&temporary);
                }
            }
        });
        assert_eq!(child.wait(), WELL, "umask {umask:o}");
    }
}

/// Who has given a folder to others wanted that; what the store puts into it is for its user only.
#[test]
fn the_modes_of_what_is_there_already_are_left_alone() {
    let folder = test_folder();
    let root = folder.path().join("shared");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(root.join("scratchspace.lock"), "").unwrap();
    fs::set_permissions(root.join("scratchspace.lock"), fs::Permissions::from_mode(0o640)).unwrap();
    let scratch = open(&root);
    scratch.put(REALM, b"block").unwrap();
    assert_eq!((mode(&root), mode(&root.join("scratchspace.lock"))), (0o755, 0o640));
    let files = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().unwrap() == "scratch").collect();
    assert!(!files.is_empty() && files.iter().all(|file| mode(file) == 0o600));
}
