//! The name of a file: its store and its number, so that nobody takes another's files for his own.
//!
//! `<store id, 32 digits>-<number, 4 digits>.scratch`, and `.tmp` in place of `.scratch` until its creation has ended,
//! or `.suspect` once a sync of it has failed, or its length was found changed.
//!
//! # Invariants
//!
//! 1. A file has one name: what [`Name::parse`] accepts is exactly what `Display` writes.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::block::{FileId, StoreId};
use crate::os;

const SUSPECT: &str = "suspect";

/// The name that a file gets once a sync of it has failed.
pub(super) fn suspect_path(path: &Path) -> PathBuf {
    path.with_extension(SUSPECT)
}

/// What the name of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) store: StoreId,
    /// 0 to 9999; [`FileId::new`] tells whether it can be a file.
    pub(super) number: u16,
    /// Its creation has not ended.
    pub(super) temporary: bool,
    /// A sync of it has failed. Of a file that was never ready nobody says so.
    pub(super) suspect: bool,
}

impl Name {
    pub(super) fn new(store: StoreId, file: FileId) -> Self {
        Self { store, number: file.get(), temporary: false, suspect: false }
    }

    /// The name of the same file while it is being created.
    pub(super) fn temporary(self) -> Self {
        Self { temporary: true, ..self }
    }

    /// The name behind a text, or `None` if it is not the name of any store's file.
    pub(super) fn parse(text: &OsStr) -> Option<Self> {
        let text = text.to_str()?;
        let (store, rest) = text.split_once('-')?;
        let (number, kind) = rest.split_once('.')?;
        let (temporary, suspect) = (kind == "tmp", kind == SUSPECT);
        let name = Self { store: store.parse().ok()?, number: number.parse().ok()?, temporary, suspect };
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self { temporary: true, .. } => "tmp",
            Self { suspect: true, .. } => SUSPECT,
            Self { .. } => "scratch",
        };
        write!(f, "{}-{:04}.{kind}", self.store, self.number)
    }
}

/// Something in a folder that has the name of a file of some store.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    pub(super) name: Name,
    /// Its length in bytes if it is an ordinary file: no folder, no link.
    pub(super) len: Option<u64>,
}

/// What in `folder` has the name of a file of some store, in the order of names. All else is left out.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    for entry in os::read_dir(folder)? {
        let entry = entry?;
        let Some(name) = Name::parse(&entry.file_name()) else { continue };
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // gone since it was listed
            Err(error) => return Err(error),
        };
        all.push(Listed { path: entry.path(), name, len: metadata.is_file().then_some(metadata.len()) });
    }
    all.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_from_its_text() {
        let name = Name::new(StoreId::from_u128(0xabc), FileId::new(17).unwrap());
        assert_eq!(name.to_string(), "00000000000000000000000000000abc-0017.scratch");
        assert_eq!(name.temporary().to_string(), "00000000000000000000000000000abc-0017.tmp");
        let suspect = Name { suspect: true, ..name };
        assert_eq!(suspect.to_string(), "00000000000000000000000000000abc-0017.suspect");
        assert_eq!(suspect_path(Path::new(&name.to_string())), Path::new(&suspect.to_string()));
        for name in [name, name.temporary(), suspect, Name { number: 0, ..name }, Name { number: 9999, ..name }] {
            assert_eq!(Name::parse(name.to_string().as_ref()), Some(name));
        }
    }

    #[test]
    fn a_file_has_one_name() {
        for text in [
            "",
            "-",
            "scratchspace.lock",
            "00000000000000000000000000000abc-0017",
            "00000000000000000000000000000abc-0017.",
            "00000000000000000000000000000abc-0017.data",
            "00000000000000000000000000000abc-0017.scratch.tmp",
            "00000000000000000000000000000abc-0017.scratch ",
            "00000000000000000000000000000ABC-0017.scratch",
            "00000000000000000000000000000abc-17.scratch",
            "00000000000000000000000000000abc-00017.scratch",
            "00000000000000000000000000000abc-+017.scratch",
            "00000000000000000000000000000abc-70000.scratch",
            "0000000000000000000000000000abc-0017.scratch",
            "00000000000000000000000000000abc0017.scratch",
            "é0000000000000000000000000000abc-0017.scratch",
        ] {
            assert_eq!(Name::parse(text.as_ref()), None, "{text}");
        }
    }

    #[test]
    fn only_names_of_files_are_listed_in_order() {
        let folder = super::super::test_folder::test_folder();
        let name = Name::new(StoreId::from_u128(1), FileId::new(2).unwrap());
        let other = Name::new(StoreId::from_u128(1), FileId::new(1).unwrap());
        std::fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        std::fs::write(folder.path().join(name.to_string()), [0; 5]).unwrap();
        std::fs::create_dir(folder.path().join(other.to_string())).unwrap();
        let listed: Vec<_> = list(folder.path()).unwrap().into_iter().map(|listed| (listed.name, listed.len)).collect();
        assert_eq!(listed, [(other, None), (name, Some(5))]);
        list(&folder.path().join("missing")).unwrap_err();
    }
}
