//! What somebody else does to a file of a store.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::store::{Dice, FILE_SIZE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Cut short, to nothing or somewhere in between.
    CutShort,
    /// Cut short and made as long as before: zeros, and holes where there was space.
    Emptied,
    /// Random bytes over a part of it.
    Overwritten,
    /// Its name is gone.
    Removed,
    /// Another file has its name.
    Replaced,
}

impl Damage {
    pub(crate) const ALL: [Self; 5] = [Self::CutShort, Self::Emptied, Self::Overwritten, Self::Removed, Self::Replaced];

    pub(crate) fn inflict(self, path: &Path, dice: &mut Dice) {
        let open = || File::options().read(true).write(true).open(path).unwrap();
        match self {
            Self::CutShort => open().set_len(dice.below(3) * dice.below(FILE_SIZE) / 3).unwrap(),
            Self::Emptied => {
                let file = open();
                file.set_len(dice.below(2) * dice.below(FILE_SIZE)).unwrap();
                file.set_len(FILE_SIZE).unwrap();
            }
            Self::Overwritten => {
                let len = 1 + dice.below(FILE_SIZE - 1);
                let at = dice.below(FILE_SIZE - len);
                open().write_all_at(&dice.bytes(usize::try_from(len).unwrap()), at).unwrap();
            }
            Self::Removed => fs::remove_file(path).unwrap(),
            Self::Replaced => {
                let other = path.with_extension("other");
                fs::write(&other, dice.bytes(usize::try_from(FILE_SIZE).unwrap())).unwrap();
                fs::rename(&other, path).unwrap();
            }
        }
    }
}
