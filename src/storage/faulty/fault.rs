//! Which calls fail, when, and with what error.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;

/// The calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Scan,
    Create,
    Delete,
    Store,
    Load,
    Sync,
    Finish,
    Populate,
    Mark,
}

impl Call {
    pub(crate) const ALL: [Self; 9] = [
        Self::Scan,
        Self::Create,
        Self::Delete,
        Self::Store,
        Self::Load,
        Self::Sync,
        Self::Finish,
        Self::Populate,
        Self::Mark,
    ];
}

/// What a disk answers that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(loom, expect(dead_code, reason = "models fail as a full disk does"))]
pub(crate) enum Errno {
    /// ENOSPC
    NoSpace,
    /// EIO
    Io,
    /// EMFILE
    TooManyFiles,
    /// ENOMEM
    NoMemory,
}

impl Errno {
    #[cfg(not(loom))]
    pub(crate) const ALL: [Self; 4] = [Self::NoSpace, Self::Io, Self::TooManyFiles, Self::NoMemory];

    /// The error as the system gives it: its number, and nothing else.
    #[cfg(unix)]
    pub(crate) fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::NoSpace => libc::ENOSPC,
            Self::Io => libc::EIO,
            Self::TooManyFiles => libc::EMFILE,
            Self::NoMemory => libc::ENOMEM,
        })
    }

    #[cfg(not(unix))]
    pub(crate) fn error(self) -> io::Error {
        io::Error::from(match self {
            Self::NoSpace => io::ErrorKind::StorageFull,
            Self::Io | Self::TooManyFiles => io::ErrorKind::Other,
            Self::NoMemory => io::ErrorKind::OutOfMemory,
        })
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Errno(Errno),
    Kind(io::ErrorKind),
    #[cfg(not(loom))]
    Panic,
}

/// When calls fail, and how.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    countdown: u64,
    sticky: bool,
    answer: Answer,
    calls: Vec<Call>,
    folder: Option<u16>,
}

impl Fault {
    /// Fails the `k`-th call from now on (the next one is the first), once, as a full disk does.
    pub(crate) fn at(k: u64) -> Self {
        let answer = Answer::Errno(Errno::NoSpace);
        Self { countdown: k, sticky: false, answer, calls: Call::ALL.to_vec(), folder: None }
    }

    /// Every call after that fails as well.
    pub(crate) fn sticky(self) -> Self {
        Self { sticky: true, ..self }
    }

    /// Fails with this error of the system.
    #[cfg(not(loom))]
    pub(crate) fn errno(self, errno: Errno) -> Self {
        Self { answer: Answer::Errno(errno), ..self }
    }

    /// Fails with this kind of error, whatever number it has.
    pub(crate) fn kind(self, kind: io::ErrorKind) -> Self {
        Self { answer: Answer::Kind(kind), ..self }
    }

    /// Panics instead.
    #[cfg(not(loom))]
    pub(crate) fn panicking(self) -> Self {
        Self { answer: Answer::Panic, ..self }
    }

    /// Only these calls count and fail.
    pub(crate) fn only(self, calls: &[Call]) -> Self {
        Self { calls: calls.to_vec(), ..self }
    }

    /// Only calls that touch this folder, counted from 0, count and fail: a `scan` touches all.
    #[cfg(not(loom))]
    pub(crate) fn in_folder(self, folder: u16) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// Counts a call in a folder, or in all: whether it is one that fails.
    pub(super) fn strikes(&mut self, call: Call, folder: Option<u16>) -> bool {
        let elsewhere = self.folder.is_some() && folder.is_some() && self.folder != folder;
        if elsewhere || !self.calls.contains(&call) {
            return false;
        }
        self.countdown = self.countdown.saturating_sub(1);
        self.countdown == 0
    }

    /// Whether it fails no call after its first.
    pub(super) fn is_spent(&self) -> bool {
        self.countdown == 0 && !self.sticky
    }

    /// What a call that fails answers.
    ///
    /// # Panics
    ///
    /// If the fault is a panic.
    pub(super) fn answer(&self, call: Call) -> io::Error {
        match self.answer {
            Answer::Errno(errno) => errno.error(),
            Answer::Kind(kind) => io::Error::new(kind, Injected(call)),
            #[cfg(not(loom))]
            Answer::Panic => panic!("{call:?}, {}", crate::error::PLANNED_PANIC),
        }
    }
}

/// The text of an error that was made here.
#[derive(Debug)]
struct Injected(Call);

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} was made to fail", self.0)
    }
}

impl std::error::Error for Injected {}
