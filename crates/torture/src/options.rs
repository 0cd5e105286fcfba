//! How a store is laid out, and with which options each process opens it: all of it follows from seeds.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use scratchspace::{DiskFileSource, OnFull, OpenError, Scratch, ScratchBuilder, Verify};

use crate::dice::Dice;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Files a lane: at least 3, and at most this.
const MOST_FILES: u64 = 8;

/// What cannot change while a store lives.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) lanes_per_folder: u16,
    pub(crate) file_size: u64,
}

impl Layout {
    pub(crate) fn of_seed(seed: u64, root: &Path) -> Self {
        let mut dice = Dice::of(seed, &[1]);
        let folders = dice.of_these(&[1, 1, 2]);
        Self {
            folders: (0..folders).map(|folder| root.join(format!("disk{folder}"))).collect(),
            lanes_per_folder: dice.of_these(&[1, 1, 2]),
            // The last is written back in pieces.
            file_size: dice.of_these(&[64 * KIB, 256 * KIB, MIB, 4 * MIB, 20 * MIB]),
        }
    }

    pub(crate) fn lanes(&self) -> u64 {
        self.folders.len() as u64 * u64::from(self.lanes_per_folder)
    }

    /// The longest block that the torture writes: some of them leave hardly any room in their file.
    pub(crate) fn longest_block(&self) -> usize {
        usize::try_from((self.file_size - 8192).min(600_000)).expect("short")
    }
}

/// What may be otherwise at each opening.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) files: u16,
    pub(crate) gather: u64,
    gather_delay: Duration,
    verify: Verify,
    pub(crate) on_full: OnFull,
    wait_timeout: Duration,
    max_pending: u64,
    max_staging: u64,
    expected_blocks: u64,
}

impl Options {
    pub(crate) fn of_dice(dice: &mut Dice) -> Self {
        let gather = dice.of_these(&[0, 0, 64 * KIB, 256 * KIB, MIB]);
        Self {
            files: u16::try_from(3 + dice.below(MOST_FILES - 2)).expect("few files"),
            gather,
            gather_delay: Duration::from_micros(if gather == 0 { 0 } else { dice.of_these(&[100, 1000, 50_000]) }),
            verify: dice.of_these(&[Verify::FirstRead, Verify::FirstRead, Verify::Always, Verify::Never]),
            on_full: dice.of_these(&[OnFull::Recycle, OnFull::Recycle, OnFull::Recycle, OnFull::Refuse]),
            wait_timeout: Duration::from_millis(dice.of_these(&[50, 1000, 30_000])),
            max_pending: dice.of_these(&[0, 64 * KIB, 16 * MIB]),
            max_staging: dice.of_these(&[4096, MIB, 64 * MIB]),
            expected_blocks: dice.of_these(&[1 << 14, 1 << 18]),
        }
    }

    /// Little memory, for a store whose memory is looked at.
    pub(crate) fn modest(files: u16) -> Self {
        Self {
            files,
            gather: MIB,
            gather_delay: Duration::from_millis(1),
            verify: Verify::FirstRead,
            on_full: OnFull::Recycle,
            // A flush waits as long for a closure that hangs.
            wait_timeout: Duration::from_millis(100),
            max_pending: 4 * MIB,
            max_staging: 4 * MIB,
            expected_blocks: 1 << 14,
        }
    }

    /// Bytes that closures may take, those that wait and those that run.
    pub(crate) fn pending_and_staging(&self) -> u64 {
        self.max_pending + self.max_staging
    }

    pub(crate) fn builder(&self, layout: &Layout) -> Result<ScratchBuilder, OpenError> {
        let source = DiskFileSource::builder()
            .folders(&layout.folders)
            .files_per_folder(self.files * layout.lanes_per_folder)
            .file_size(layout.file_size)
            .build()?;
        Ok(Scratch::builder(source)
            .lanes_per_folder(layout.lanes_per_folder)
            .gather(self.gather, self.gather_delay)
            .verify(self.verify)
            .on_full(self.on_full)
            .wait_timeout(self.wait_timeout)
            .max_pending_bytes(self.max_pending)
            .max_staging_bytes(self.max_staging)
            .expected_blocks(self.expected_blocks))
    }

    /// Whether a block of this length is in its file when its `put` returns: it is promised for those above 64 KiB, or
    /// above a quarter of the gather buffer.
    pub(crate) fn is_stored_at_once(&self, len: usize) -> bool {
        len as u64 > (64 * KIB).min(self.gather / 4) || self.gather == 0
    }

    /// Bytes that may lie in gather buffers at once: four a lane.
    pub(crate) fn gather_limit(&self, layout: &Layout) -> u64 {
        4 * self.gather * layout.lanes()
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, gather, gather_delay, verify, on_full, wait_timeout, max_pending, max_staging, .. } = self;
        write!(
            f,
            "{files} files a lane, gather({gather}, {gather_delay:?}), {verify:?}, {on_full:?}, wait {wait_timeout:?}, \
             pending {max_pending}, staging {max_staging}"
        )
    }
}
