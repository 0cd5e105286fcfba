//! What the threads of one process share, and what an answer of the store means.
#![forbid(unsafe_code)]

use std::sync::Mutex;

use scratchspace::{ReadError, Realm};

use crate::blocks::KeyKind;
use crate::laps::Laps;
use crate::options::Options;
use crate::oracle::{Count, Oracle, Read, Verdict};

/// Threads that write, each its own keys.
pub(crate) const WRITERS: u64 = 8;
pub(crate) const REALM: Realm = Realm::DEFAULT;
/// What the threads of one process share.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    pub(crate) oracle: &'a Oracle,
    pub(crate) laps: &'a Laps,
    pub(crate) options: &'a Options,
    /// Whether a block that was there may be gone with its file.
    pub(crate) forgets: bool,
    /// Whether threads hold blocks. One that runs a closure that hangs cannot give them back.
    pub(crate) holds: bool,
}

/// Why a step did not end well.
#[derive(Debug)]
pub(crate) enum Ended {
    Closed,
    Wrong(String),
}

/// What a reading verb has said; `None` if it could not say anything.
pub(crate) fn answer(read: Result<Result<Read, String>, ReadError>) -> Result<Option<Read>, Ended> {
    match read {
        Ok(Ok(read)) => Ok(Some(read)),
        Ok(Err(what)) => Err(Ended::Wrong(format!("wrong bytes: {what}"))),
        Err(ReadError::Missing { .. }) => Ok(Some(Read::Missing)),
        // A closure that was told to fail, or given up when its file turned.
        Err(ReadError::Failed { .. } | ReadError::Busy { .. }) => Ok(None),
        Err(ReadError::Closed) => Err(Ended::Closed),
        Err(error) => Err(Ended::Wrong(format!("a read failed: {error}"))),
    }
}

impl Site<'_> {
    /// Which version of a key `bytes` are.
    pub(crate) fn read_as(&self, key: u64, bytes: &[u8]) -> Result<Read, String> {
        self.oracle.add(Count::Compared, 1);
        let version = self.oracle.blocks.version_of(key, bytes)?;
        Ok(match Oracle::kind(key, WRITERS) {
            KeyKind::Named => Read::Version(version),
            KeyKind::Content if version == 0 => Read::Content,
            KeyKind::Content => return Err(format!("content of version {version}")),
        })
    }

    /// Looks on disk whether the file of a block that is missing has turned.
    pub(crate) fn settle_miss(&self, verdict: Verdict, forgets: bool) -> Result<(), String> {
        let count = match verdict {
            Verdict::There => return Ok(()),
            Verdict::Absent => Count::Absent,
            Verdict::IfTurned(_) if !forgets => return Err("a block is missing, and nothing may be forgotten".into()),
            Verdict::IfTurned(None) => Count::Unproved,
            Verdict::IfTurned(Some(place)) => match self.laps.has_turned(place) {
                Ok(true) => Count::Turned,
                Ok(false) => return Err(format!("a block is missing, and its file lives: {place:?}")),
                Err(error) => return Err(format!("reading a header: {error}")),
            },
        };
        self.oracle.add(count, 1);
        Ok(())
    }
}

/// The first thing that went wrong in any thread.
#[derive(Debug, Default)]
pub(crate) struct FirstWrong(Mutex<Option<String>>);

impl FirstWrong {
    pub(crate) fn set(&self, what: String) {
        self.0.lock().expect("nobody panics holding it").get_or_insert(what);
    }

    pub(crate) fn take(&self) -> Option<String> {
        self.0.lock().expect("nobody panics holding it").take()
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.lock().expect("nobody panics holding it").is_some()
    }
}
