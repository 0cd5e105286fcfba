//! Calls about one folder, noted in order and made to fail: what a test chooses is met by every thread, and by nobody
//! who works in another folder.
//!
//! # Invariants
//!
//! 1. A call that fails here has not reached the system, but for a store: half of its bytes have, as on a disk that
//!    fills up.
//! 2. A call about a folder that nobody watches costs one load, or a link that is read while others are watched.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::calls::SystemCall;
use super::system;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, OnceLock};

/// How many folders are watched.
static WATCHED: AtomicUsize = AtomicUsize::new(0);

fn all() -> &'static Mutex<Vec<Arc<Watched>>> {
    static ALL: OnceLock<Mutex<Vec<Arc<Watched>>>> = OnceLock::new();
    ALL.get_or_init(Mutex::default)
}

/// A folder that is watched, and everything below it, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch(Arc<Watched>);

#[derive(Debug)]
struct Watched {
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was asked, the failed calls as well, in order.
    met: Vec<(SystemCall, PathBuf)>,
    fault: Option<Fault>,
    failed: Vec<SystemCall>,
}

/// Which call fails, counted down.
#[derive(Clone, Copy, Debug)]
struct Fault {
    countdown: u64,
    sticky: bool,
    errno: i32,
}

impl Watch {
    /// Watches a folder that is there.
    pub(crate) fn new(folder: &Path) -> Self {
        let folder = folder.canonicalize().expect("a folder of the test");
        let watched = Arc::new(Watched { folder, state: Mutex::default() });
        all().lock().push(watched.clone());
        // Relaxed: whoever works in the folder does so on this thread, or on one that it starts from now on.
        WATCHED.fetch_add(1, Ordering::Relaxed);
        Self(watched)
    }

    /// Fails the `k`-th call from now on (the next one is the first) with a number of the system; `sticky`: and all
    /// after it.
    pub(crate) fn fail(&self, k: u64, errno: i32, sticky: bool) {
        self.0.state.lock().fault = Some(Fault { countdown: k, sticky, errno });
    }

    /// From now on no call fails.
    pub(crate) fn clear(&self) {
        self.0.state.lock().fault = None;
    }

    /// Which calls were made to fail.
    pub(crate) fn failed(&self) -> Vec<SystemCall> {
        self.0.state.lock().failed.clone()
    }

    /// How many calls there were.
    pub(crate) fn total(&self) -> u64 {
        self.0.state.lock().met.len() as u64
    }

    /// The calls since this was asked last, with the name of what each was about.
    pub(crate) fn take(&self) -> Vec<(SystemCall, String)> {
        let met = std::mem::take(&mut self.0.state.lock().met);
        let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        met.into_iter().map(|(call, path)| (call, name(path))).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Relaxed: see `new`.
        WATCHED.fetch_sub(1, Ordering::Relaxed);
        all().lock().retain(|watched| !Arc::ptr_eq(watched, &self.0));
    }
}

/// About a path.
pub(crate) fn meet(call: SystemCall, path: &Path) -> io::Result<()> {
    // Relaxed: see `Watch::new`.
    if WATCHED.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let watched = all().lock().iter().find(|watched| path.starts_with(&watched.folder)).cloned();
    let Some(watched) = watched else { return Ok(()) };
    let mut state = watched.state.lock();
    state.met.push((call, path.to_path_buf()));
    let Some(fault) = &mut state.fault else { return Ok(()) };
    fault.countdown = fault.countdown.saturating_sub(1);
    if fault.countdown > 0 {
        return Ok(());
    }
    let Fault { errno, sticky, .. } = *fault;
    if !sticky {
        state.fault = None;
    }
    state.failed.push(call);
    Err(io::Error::from_raw_os_error(errno))
}

/// About an open file: where its name is now, or was.
pub(crate) fn meet_file(call: SystemCall, file: &File) -> io::Result<()> {
    // Relaxed: see `Watch::new`.
    if WATCHED.load(Ordering::Relaxed) == 0 {
        return Ok(());
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    meet(call, &path)
}

/// About an open file that `parts` are to be stored in.
pub(crate) fn meet_store(call: SystemCall, file: &File, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    let Err(error) = meet_file(call, file) else { return Ok(()) };
    let bytes = parts.concat();
    system::write_all_at(file, offset, &[&bytes[..bytes.len() / 2]])?;
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os;

    #[test]
    fn the_kth_call_about_a_folder_fails_and_none_about_another() {
        let [folder, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let watch = Watch::new(folder.path());
        let store = |folder: &Path, bytes: &[u8]| {
            let file = os::open_private(&folder.join("file"))?;
            os::write_all_at(&file, 0, &[bytes])?;
            os::sync_data(&file)
        };
        let files = [&folder, &other].map(|folder| os::create_private_file(&folder.path().join("file")).unwrap());
        store(folder.path(), b"first").unwrap();
        let name = || "file".to_owned();
        let [open, stored, synced] = [SystemCall::Open, SystemCall::Store, SystemCall::Sync];
        assert_eq!(watch.take(), [(open, name()), (open, name()), (stored, name()), (synced, name())]);
        let next = |errno| {
            watch.fail(2, errno, false);
            store(other.path(), b"other").unwrap();
            let errno = store(folder.path(), b"second").unwrap_err().raw_os_error();
            store(folder.path(), b"third").unwrap();
            errno
        };
        assert_eq!(next(libc::ENOSPC), Some(libc::ENOSPC));
        assert_eq!(watch.failed(), [SystemCall::Store]);
        watch.fail(3, libc::EIO, true);
        store(folder.path(), b"fourth").unwrap_err();
        store(folder.path(), b"fifth").unwrap_err();
        watch.clear();
        store(folder.path(), b"sixth").unwrap();
        assert_eq!(
            watch.failed(),
            [SystemCall::Store, SystemCall::Sync, SystemCall::Open],
            "the fifth did not even open it"
        );
        drop(watch);
        drop(files);
    }

    #[test]
    fn half_of_a_store_that_fails_is_stored() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new(folder.path());
        let file = os::create_private_file(&folder.path().join("file")).unwrap();
        os::write_all_at(&file, 0, &[b"old bytes!"]).unwrap();
        watch.fail(1, libc::ENOSPC, false);
        os::write_all_at(&file, 0, &[b"NEW", b" BYTES?"]).unwrap_err();
        let mut bytes = [0; 10];
        os::read_exact_at(&file, 0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"NEW Bytes!");
    }
}
