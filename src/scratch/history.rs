//! What a key was written as, and what it may read as: the judge of the tests that crash or fail the store.
#![forbid(unsafe_code)]

use verdict::{Verdict, Wrong};

use crate::block::FileId;
use crate::storage::dice::Dice;

/// What became of a key once.
#[derive(Clone, Debug)]
pub(super) struct Version {
    /// `None`: it was removed, or gone.
    pub(super) bytes: Option<Vec<u8>>,
    /// The file that holds it, and the generation of its lap; `None` if that is not known.
    pub(super) place: Option<(FileId, u64)>,
    /// Whether the call said that it was done.
    pub(super) done: bool,
    /// Whether it was stored when the call returned: a closure may wait.
    pub(super) stored: bool,
    /// The failures that the store had told of before.
    pub(super) era: u64,
}

/// Versions of a key, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) versions: Vec<Version>,
    /// The last version that is durable.
    pub(super) durable: Option<usize>,
}

impl History {
    /// What the key may read as. `is_kept`: whether a version that was stored is still there, durable or not.
    pub(super) fn judge(
        &self,
        read: Option<&[u8]>,
        is_kept: impl Fn(&Version) -> bool,
        has_turned: impl Fn(&Version) -> bool,
    ) -> Result<(), &'static str> {
        let kept = self.versions.iter().rposition(|version| version.stored && is_kept(version));
        let floor = self.durable.max(kept);
        let later = &self.versions[floor.unwrap_or(0)..];
        let open = later.iter().map(|version| match &version.bytes {
            Some(bytes) => (verdict::Version::Written, read == Some(bytes)),
            None => (verdict::Version::Removed, false),
        });
        match verdict::judge(open, floor.is_some(), read.is_some()).map_err(Wrong::as_str)? {
            Verdict::There | Verdict::Absent => Ok(()),
            Verdict::IfTurned if has_turned(&later[0]) => Ok(()),
            Verdict::IfTurned => Err("a block that should be there is missing"),
        }
    }
}

/// A version without its bytes.
pub(super) struct Short<'a>(pub(super) &'a Version);

impl std::fmt::Debug for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Version { bytes, place, done, era, .. } = self.0;
        let bytes = bytes.as_deref().map(|bytes| (bytes.len(), number_of(bytes)));
        write!(f, "{bytes:?} in {place:?} done: {done} era {era}")
    }
}

/// Bytes that no other number makes: every eight of them are drawn from it.
pub(super) fn bytes(dice: &mut Dice, most: u64, number: u64) -> Vec<u8> {
    let len = match dice.below(8) {
        0 => 8,
        1 => 4096,
        2 => most.min(3 * 4096),
        _ => 8 + dice.below(most.min(6000) - 8),
    };
    let mut words = Dice::new(number);
    let mut bytes = number.to_le_bytes().to_vec();
    while bytes.len() < usize::try_from(len).unwrap() {
        bytes.extend(words.next().to_le_bytes());
    }
    bytes.truncate(usize::try_from(len).unwrap());
    bytes
}

pub(super) fn number_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}
