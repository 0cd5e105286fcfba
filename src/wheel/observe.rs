//! What tests ask of a wheel, and print when they fail.
#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::block::FileId;
use crate::wheel::FileWheel;

impl FileWheel {
    pub(crate) fn generation(&self, file: FileId) -> u64 {
        self.table.file(file).generation()
    }

    /// Whether nothing of a file's lap is found any more, or soon will not be.
    pub(crate) fn is_dying(&self, file: FileId) -> bool {
        self.turn.lock().state(file).is_dying()
    }

    /// Whether a lane, or one of its files, has a failure that it has not got over.
    pub(crate) fn is_failing(&self) -> bool {
        self.turn.lock().lanes.iter().any(|lane| lane.failing.is_some() || !lane.unready.is_empty())
    }

    /// Where every file and every lane stands.
    pub(crate) fn describe(&self) -> String {
        let turn = self.turn.lock();
        let mut said = String::new();
        for file in self.table.iter() {
            let (id, state, cursor) = (file.id(), turn.state(file.id()), &file.cursor);
            let _ = writeln!(
                said,
                "file {id}: {state:?}, generation {}, {} live, next slot {}, next page {}, quiet {}, suspect {}",
                file.generation(),
                file.live_blocks(),
                cursor.next_slot(),
                cursor.next_page(),
                file.is_quiet(),
                file.is_suspect(),
            );
        }
        for (lane, has) in self.lanes.iter().zip(&turn.lanes) {
            let _ = writeln!(said, "lane {}, tombstones only {}: {has:?}", lane.id(), lane.takes_tombstones_only());
        }
        said
    }
}
