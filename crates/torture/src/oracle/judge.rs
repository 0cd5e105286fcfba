//! Whether what a key reads as is what was promised.
#![forbid(unsafe_code)]

use crate::laps::Place;
use crate::oracle::Key;

/// What the store said, its bytes already compared with the version that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A block that says which version it is.
    Version(u64),
    /// The content of a key whose versions all look the same.
    Content,
    Missing,
}

/// Why what was read is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    There,
    /// Nothing had to be there.
    Absent,
    /// Right if the file of this place has begun another lap.
    IfTurned(Option<Place>),
}

impl Key<'_> {
    /// What `read` needs in order to be right, if nothing before `floor` may be read; `place` is where that version
    /// lies.
    ///
    /// # Errors
    ///
    /// If it cannot be right.
    pub(crate) fn judge(&self, read: Read, floor: u64, place: Option<Place>) -> Result<Verdict, String> {
        let begun = self.begun();
        let open = (floor.max(1)..=begun).map(|version| {
            let is_found = match read {
                Read::Version(found) => found == version,
                Read::Content => true,
                Read::Missing => false,
            };
            (self.version(version).kind.into(), is_found)
        });
        match verdict::judge(open, floor > 0, read != Read::Missing) {
            Ok(verdict::Verdict::There) => Ok(Verdict::There),
            Ok(verdict::Verdict::Absent) => Ok(Verdict::Absent),
            Ok(verdict::Verdict::IfTurned) => Ok(Verdict::IfTurned(place)),
            Err(wrong) => Err(match read {
                Read::Version(version) if version > begun => {
                    format!("version {version}, and none after {begun} was ever begun")
                }
                Read::Version(version) if version >= floor => {
                    format!("version {version} is {:?} and must never be read", self.version(version).kind)
                }
                Read::Version(version) => format!("version {version}, before version {floor}: {}", wrong.as_str()),
                Read::Content | Read::Missing => format!("content written before version {floor}: {}", wrong.as_str()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Blocks;
    use crate::oracle::{Kind, Oracle};

    /// Versions 1 to 5: put, put, removed, refused, deferred; `floor` may not be lost.
    fn with_key(floor: u64, test: impl Fn(Key<'_>)) {
        let folder = tempfile::tempdir().unwrap();
        let oracle = Oracle::open(&folder.path().join("oracle"), 1, Blocks::new(1, 5000)).unwrap();
        let key = oracle.key(0);
        for kind in [Kind::Put, Kind::Put, Kind::Remove, Kind::Void, Kind::Deferred] {
            key.begin(kind, 16);
        }
        key.raise(floor, None);
        test(key);
    }

    #[test]
    fn only_versions_from_the_floor_on_may_be_read() {
        for (floor, right) in [(0, vec![1, 2, 5]), (1, vec![1, 2, 5]), (2, vec![2, 5]), (3, vec![5]), (5, vec![5])] {
            with_key(floor, |key| {
                let read = |version: &u64| key.judge(Read::Version(*version), floor, None).is_ok();
                assert_eq!((1..8).filter(read).collect::<Vec<_>>(), right, "floor {floor}");
            });
        }
    }

    #[test]
    fn a_miss_is_right_before_the_first_version_after_a_removal_and_after_a_turn() {
        let place = Some(Place { file: 1, lane: 0, generation: 4 });
        for (floor, verdict) in [
            (0, Verdict::Absent),
            (1, Verdict::Absent),
            (3, Verdict::Absent),
            (4, Verdict::IfTurned(place)),
            (5, Verdict::IfTurned(place)),
        ] {
            with_key(floor, |key| assert_eq!(key.judge(Read::Missing, floor, place), Ok(verdict), "floor {floor}"));
        }
    }

    #[test]
    fn content_that_was_removed_for_good_does_not_come_back() {
        with_key(3, |key| assert_eq!(key.judge(Read::Content, 3, None), Ok(Verdict::There), "version 5 may be there"));
        with_key(3, |key| {
            key.void(5);
            assert!(key.judge(Read::Content, 3, None).is_err());
        });
    }
}
