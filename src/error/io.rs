//! A failed call to the operating system, with what was tried and where.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{BrokenPromise, OpenError, ThreadPanicked, WriteError};

/// What was tried, on which file or folder, and what the operating system answered.
///
/// Two are equal if operation, path, kind and error number are.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::path::Path;
/// use scratchspace::IoError;
///
/// let full = io::Error::from(io::ErrorKind::StorageFull);
/// let error = IoError::new("creating a file", Some(Path::new("/data")), full);
/// assert_eq!(error.kind(), io::ErrorKind::StorageFull);
/// assert_eq!(
///     error.to_string(),
///     "creating a file failed for `/data`: no storage space; free space on that disk, or give it fewer files",
/// );
/// ```
#[derive(Clone, Debug)]
pub struct IoError {
    what: &'static str,
    path: Option<PathBuf>,
    answer: Arc<Answer>,
}

/// What the operating system answered.
#[derive(Debug)]
struct Answer {
    error: io::Error,
    advice: Advice,
}

/// What to do about an answer, beyond what its kind says.
#[derive(Clone, Copy, Debug)]
enum Advice {
    /// Nothing.
    ByKind,
    /// This, if its kind says nothing.
    Else(&'static str),
    /// This, whatever its kind says.
    Always(&'static str),
}

const REMOVE_IT: &str = "; look at the disk, or remove that file, which costs its own blocks only";

/// A sync has failed, and so has the mark by which the next run would know.
#[derive(Debug, thiserror::Error)]
#[error(
    "{sync}, and the file could not be marked for the next run, which would believe what the system has of it in memory: \
     {mark}"
)]
struct Unmarked {
    #[source]
    sync: io::Error,
    mark: io::Error,
}

impl IoError {
    /// `what` names the operation, such as "creating a file".
    #[must_use]
    pub fn new(what: &'static str, path: Option<&Path>, source: io::Error) -> Self {
        Self::advising(what, path, source, Advice::ByKind)
    }

    /// The header of a file cannot be read. Deleting the file for an error that may pass would lose what it holds, so
    /// somebody has to say so.
    pub(crate) fn header_unreadable(path: Option<&Path>, source: io::Error) -> Self {
        Self::advising("reading a header", path, source, Advice::Else(REMOVE_IT))
    }

    /// A file of an earlier run cannot be changed, as its state requires.
    pub(crate) fn in_the_way(what: &'static str, path: Option<&Path>, source: io::Error) -> Self {
        Self::advising(what, path, source, Advice::Else(REMOVE_IT))
    }

    /// A file of an earlier run could not be synced while the store was opened, and was marked or could not be.
    pub(crate) fn unsynced(path: Option<&Path>, sync: io::Error, marked: io::Result<()>) -> Self {
        let what = "syncing a file of an earlier run";
        let Err(mark) = marked else {
            let advice = "; the file is marked: its bytes are compared when its folder is opened next";
            return Self::advising(what, path, sync, Advice::Always(advice));
        };
        let advice = "; restart the system before the store is opened again, or `reset` it";
        Self::advising(what, path, io::Error::new(sync.kind(), Unmarked { sync, mark }), Advice::Always(advice))
    }

    fn advising(what: &'static str, path: Option<&Path>, error: io::Error, advice: Advice) -> Self {
        Self { what, path: path.map(Path::to_path_buf), answer: Arc::new(Answer { error, advice }) }
    }

    /// What was tried.
    #[must_use]
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// The file or folder, if there was one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The kind of the operating system's answer.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.answer.error.kind()
    }

    /// The error number of the operating system, if the error came from it.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.answer.error.raw_os_error()
    }

    /// The panic behind it, if that is what failed: of a thread of the store, or of its file source.
    #[must_use]
    pub fn panicked(&self) -> Option<&ThreadPanicked> {
        self.answer.error.get_ref()?.downcast_ref()
    }

    fn is_of_a_verb(&self) -> bool {
        let source = self.answer.error.get_ref();
        source.is_some_and(|source| source.is::<WriteError>() || source.is::<OpenError>())
    }

    fn is_a_broken_promise(&self) -> bool {
        self.answer.error.get_ref().and_then(|source| source.downcast_ref::<BrokenPromise>()).is_some()
    }

    /// What to do where the kind of the answer does not tell: descriptors have none of their own.
    fn advice_by_number(&self) -> Option<&'static str> {
        #[cfg(unix)]
        {
            use rustix::io::Errno;
            let number = self.raw_os_error()?;
            if number == Errno::MFILE.raw_os_error() {
                return Some("; raise the limit on open files of this process (RLIMIT_NOFILE, `ulimit -n`)");
            }
            if number == Errno::NFILE.raw_os_error() {
                return Some("; raise the limit on open files of this system (`sysctl fs.file-max` on Linux)");
            }
        }
        None
    }

    fn advice(&self) -> &'static str {
        if let Advice::Always(advice) = self.answer.advice {
            return advice;
        }
        if let Some(advice) = self.advice_by_number() {
            return advice;
        }
        match self.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free space on that disk, or give it fewer files",
            ErrorKind::FileTooLarge => {
                "; raise the limit on the size of files of this process (RLIMIT_FSIZE, `ulimit -f`)"
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "; let this process write there",
            ErrorKind::NotFound => "; check that the folder is there and nothing removes its files",
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                "; move away what is in its place, or choose another folder"
            }
            // A failure of a verb of the store says itself what to do.
            _ if self.is_of_a_verb() => "",
            _ if self.panicked().is_some() => "; look at the output of that thread, and report it",
            _ if self.is_a_broken_promise() => "; mend the file source",
            _ => match self.answer.advice {
                Advice::Else(advice) => advice,
                Advice::ByKind | Advice::Always(_) => "; check the disk and the system's log",
            },
        }
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.what)?;
        if let Some(path) = &self.path {
            write!(f, " for `{}`", path.display())?;
        }
        write!(f, ": {}{}", self.answer.error, self.advice())
    }
}

impl Error for IoError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.answer.error)
    }
}

impl PartialEq for IoError {
    fn eq(&self, other: &Self) -> bool {
        (self.what, &self.path, self.kind(), self.raw_os_error())
            == (other.what, &other.path, other.kind(), other.raw_os_error())
    }
}

impl Eq for IoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_what_the_system_answered() {
        let error = IoError::new("storing a block", None, io::Error::from_raw_os_error(5));
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>()).unwrap();
        assert_eq!(source.raw_os_error(), Some(5));
        assert!(error.to_string().starts_with("storing a block failed: "), "{error}");
    }

    #[test]
    fn texts_say_what_to_do_about_the_answer() {
        for (answer, advice) in [
            (ErrorKind::StorageFull.into(), "free space on that disk, or give it fewer files"),
            (ErrorKind::ReadOnlyFilesystem.into(), "let this process write there"),
            (ErrorKind::NotFound.into(), "check that the folder is there and nothing removes its files"),
            (ErrorKind::NotADirectory.into(), "move away what is in its place, or choose another folder"),
            (io::Error::from_raw_os_error(5), "check the disk and the system's log"),
            (io::Error::other(WriteError::Closed), "the store is closed; open it again to write to it"),
        ] {
            let text = IoError::new("flushing the store", None, answer).to_string();
            assert!(text.starts_with("flushing the store failed: ") && text.ends_with(advice), "{text}");
        }
        let text = IoError::header_unreadable(Some(Path::new("/data/x")), io::Error::from_raw_os_error(5)).to_string();
        assert!(
            text.contains("`/data/x`") && text.ends_with("remove that file, which costs its own blocks only"),
            "{text}"
        );
    }

    /// Who had too few descriptors was sent to look at the disk.
    #[test]
    #[cfg(unix)]
    fn a_limit_that_is_reached_is_named_with_what_raises_it() {
        use rustix::io::Errno;
        for (errno, limit, by) in [
            (Errno::MFILE, "open files of this process (RLIMIT_NOFILE", "`ulimit -n`"),
            (Errno::NFILE, "open files of this system", "`sysctl fs.file-max`"),
            (Errno::FBIG, "the size of files of this process (RLIMIT_FSIZE", "`ulimit -f`"),
        ] {
            let text = IoError::new("creating a file", None, errno.into()).to_string();
            assert!(text.contains(limit) && text.contains(by), "{text}");
        }
    }

    #[test]
    fn errors_are_equal_by_operation_path_and_answer() {
        let error =
            |what, path, number| IoError::new(what, Some(Path::new(path)), io::Error::from_raw_os_error(number));
        let one = error("a", "p", 5);
        assert_eq!(one, one.clone());
        assert_eq!(one, error("a", "p", 5));
        for other in [error("b", "p", 5), error("a", "q", 5), error("a", "p", 28)] {
            assert_ne!(one, other);
        }
    }
}
