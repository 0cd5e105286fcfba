//! What becomes of the files of an earlier run, before anything changes: each is judged by its header, and has its
//! place in a lane or none.
//!
//! # Invariants
//!
//! 1. Only headers are read here, so that opening costs the same however much the files hold. (A temporary store reads
//!    directories as well, up to the first byte that somebody has written.)
//! 2. What is refused has changed nothing: all headers are judged and compared, with each other and with the layout
//!    that was asked for, before [`Plan::mend`] and [`Plan::remove`] change the first file. (`reset` and `temporary` ask for no
//!    layout: they empty the folders.)
//! 3. What a smaller layout has no room for goes in the order of death: empty files, then the oldest of each lane.
//! 4. A file of another length than the layout's costs itself only, and only where a header tells that it is no other
//!    layout. With a header of its own it keeps its place in the order of death and is suspect; without one it goes.
//! 5. A disk that refuses to have a file mended, synced or removed costs its folder, which counts as missing from then on,
//!    and not the opening: what lies there keeps its order, and is looked at again when the folder is taken back.
//! 6. Nobody can tell what a file held that has no header any more: each such file is told as lost, and counted, before
//!    it changes. Of its lane alone no other file pays for it, so what it had removed or replaced may be back.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use crate::block::{Entry, FileHeader, FileId, FileSize, HashKind, HeaderError, HighWaterMark, PAGE_LEN, PAGE_SIZE};
use crate::error::{ConfigError, IoError, Layout, OpenError};
use crate::planted;
use crate::storage::{FileMemory, FileSource, Found, HeapMemory};
use crate::sync::Arc;
use crate::wheel::{WheelOptions, high_water};

/// Fewest files of a lane: one is filled, one is ready, one holds data.
pub(crate) const LEAST_FILES_A_LANE: u16 = 3;
/// The largest generation that is believed of a file of an earlier run: half of those that can be written.
const HIGHEST_FOUND: u64 = 1 << 41;

/// Directories are searched for bytes in pieces of at most this size.
const LARGEST_PIECE: usize = 1 << 20;

/// A file of an earlier run.
pub(crate) struct Judged {
    pub(crate) id: FileId,
    pub(crate) memory: Arc<dyn FileMemory>,
    /// `None`: it is damaged, or was torn while the file was recycled. Nothing in the file can be believed.
    pub(crate) header: Option<FileHeader>,
    /// How far its directory may reach.
    pub(crate) high_water: high_water::Found,
    /// What somebody else has done to its length.
    pub(crate) damage: Option<OtherLength>,
}

/// Makes durable what the page cache has of a file; of one whose sync has failed before that is no more than the header,
/// which is stored again for it: it may be what ends an older lap.
fn sync(memory: &dyn FileMemory, header: Option<&FileHeader>) -> io::Result<()> {
    if let Some(header) = header.filter(|_| memory.is_suspect()) {
        let mut page = header.encode().to_vec();
        page.resize(PAGE_LEN, 0);
        memory.store(0, &[&page])?;
    }
    memory.sync()
}

/// A file has not the length that it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("somebody else has {}, {len} bytes instead of {size}", self.deed())]
pub(crate) struct OtherLength {
    len: u64,
    size: u64,
}

impl OtherLength {
    fn deed(&self) -> &'static str {
        if self.len < self.size { "cut the file short" } else { "made the file longer" }
    }
}

/// Why a file of an earlier run is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Told {
    #[error(transparent)]
    Length(OtherLength),
    #[error("an earlier run has marked the file: a sync of it had failed, or its length had been changed")]
    Marked,
    #[error("an earlier run has marked the file, and its header is damaged")]
    MarkedWithoutHeader,
    #[error(
        "its header does not check: it is damaged, or a power cut has torn it while the file made room, on a device that \
         does not write 512 bytes as a whole"
    )]
    Header,
}

/// Which files belong to which lane.
pub(crate) struct Plan {
    pub(crate) lanes: u16,
    pub(crate) hash_kind: HashKind,
    pub(crate) files_per_lane: u16,
    /// For each lane, files with a header, the newest first.
    pub(crate) found: Vec<Vec<Judged>>,
    /// For each lane, files without one.
    pub(crate) empty: Vec<Vec<Judged>>,
    /// What a smaller layout drops, the oldest first.
    pub(crate) surplus: Vec<FileId>,
    /// Without a header, and suspect or of another length: they hold nothing and must not be used again.
    pub(crate) lost: Vec<FileId>,
    /// All files without a header, wherever they are in the plan, and why nothing in them can be believed.
    pub(crate) headerless: Vec<(FileId, Told)>,
    pub(crate) next_generation: u64,
    /// For each folder, why it is not there.
    pub(crate) missing: Vec<Option<IoError>>,
    /// Files that have another length, those of such folders too: once they are mended nobody sees it any more.
    damaged: Vec<(FileId, OtherLength)>,
    /// How many of `surplus` were deleted, in such folders too.
    pub(crate) dropped: usize,
    /// Files of such folders that could neither be synced nor marked.
    pub(crate) unmarked: Vec<(FileId, IoError)>,
}

impl Plan {
    pub(crate) fn new(source: &dyn FileSource, judged: Vec<Judged>, options: &WheelOptions) -> Result<Self, OpenError> {
        let folders = source.folders();
        let recorded = judged.iter().find_map(|judged| judged.header.as_ref());
        let asked = options.lanes_per_folder.map(|lanes| lanes.saturating_mul(folders));
        let lanes = asked.or(recorded.map(|header| header.lanes)).unwrap_or(folders);
        let hash_kind = options.hash_kind.or(recorded.map(|header| header.hash_kind)).unwrap_or_default();
        let is = Layout { lanes, file_size: source.file_size().get(), hash_kind };
        for header in judged.iter().filter_map(|judged| judged.header.as_ref()) {
            let was = Layout { lanes: header.lanes, file_size: header.file_size.get(), hash_kind: header.hash_kind };
            if was != is {
                return Err(OpenError::LayoutChanged { was, is });
            }
        }
        let files_per_lane = source.files_per_folder() / (lanes / folders).max(1);
        if files_per_lane < LEAST_FILES_A_LANE {
            let value = format!("{} with {} lanes a folder", source.files_per_folder(), lanes / folders);
            let range = format!("at least {LEAST_FILES_A_LANE} for each lane of a folder");
            return Err(ConfigError::new("files_per_folder", value, range).into());
        }
        let why = |judged: &Judged| match judged.damage {
            Some(damage) => Told::Length(damage),
            None if judged.memory.is_suspect() => Told::MarkedWithoutHeader,
            None => Told::Header,
        };
        let without = judged.iter().filter(|judged| judged.header.is_none());
        let headerless: Vec<_> = without.map(|judged| (judged.id, why(judged))).collect();
        let is_reused = |(_, why): &&(FileId, Told)| *why == Told::Header;
        let lost: Vec<_> = headerless.iter().filter(|one| !is_reused(one)).map(|(id, _)| *id).collect();
        let judged: Vec<_> = judged.into_iter().filter(|judged| !lost.contains(&judged.id)).collect();
        let newest = judged.iter().filter_map(|judged| judged.header.as_ref()).map(|header| header.generation).max();
        let mut plan = Self {
            lanes,
            hash_kind,
            files_per_lane,
            found: (0..lanes).map(|_| Vec::new()).collect(),
            empty: (0..lanes).map(|_| Vec::new()).collect(),
            surplus: Vec::new(),
            lost,
            headerless,
            next_generation: newest.map_or(1, |newest| newest + 1),
            missing: vec![None; usize::from(folders)],
            damaged: Vec::new(),
            dropped: 0,
            unmarked: Vec::new(),
        };
        plan.distribute(judged, folders);
        plan.shrink();
        Ok(plan)
    }

    fn distribute(&mut self, judged: Vec<Judged>, folders: u16) {
        let (with_header, without): (Vec<_>, Vec<_>) = judged.into_iter().partition(|judged| judged.header.is_some());
        for judged in with_header {
            let lane = judged.header.as_ref().map_or(0, |header| usize::from(header.lane));
            self.found[lane].push(judged);
        }
        // Hazard 6: nobody knows where the wheel stood; the files count as filled in the order of their numbers.
        let age = |header: &FileHeader| if planted::is(6) { header.file.get().into() } else { header.generation };
        for of_lane in &mut self.found {
            of_lane.sort_by_key(|judged| std::cmp::Reverse(judged.header.as_ref().map(age)));
        }
        for judged in without {
            let folder = (judged.id.get() - 1) % folders;
            let lane = (folder..self.lanes)
                .step_by(usize::from(folders))
                .map(usize::from)
                .min_by_key(|lane| self.found[*lane].len() + self.empty[*lane].len());
            if let Some(lane) = lane {
                self.empty[lane].push(judged);
            }
        }
    }

    /// Fewer files than before: empty ones go first, then the oldest.
    fn shrink(&mut self) {
        let most = usize::from(self.files_per_lane);
        for (found, empty) in self.found.iter_mut().zip(&mut self.empty) {
            while found.len() + empty.len() > most {
                if let Some(judged) = empty.pop().or_else(|| found.pop()) {
                    self.surplus.push(judged.id);
                }
            }
        }
    }

    /// Gives files of another length the right one. The first of the two steps that change something.
    pub(crate) fn mend(&mut self, source: &dyn FileSource) -> Result<(), OpenError> {
        let mut refused = Vec::new();
        self.damaged = self.found.iter().flatten().filter_map(|judged| Some((judged.id, judged.damage?))).collect();
        for judged in self.found.iter_mut().flatten().filter(|judged| judged.damage.is_some()) {
            // The mapping of what is about to be cut goes first.
            judged.memory = Arc::new(HeapMemory::new(FileSize::MIN));
            match source.mend(judged.id) {
                Ok(memory) => judged.memory = memory,
                Err(error) => refused.push((judged.id, error)),
            }
        }
        for (id, error) in refused {
            self.leave_out(id, IoError::in_the_way("mending a file", source.describe(id).as_deref(), error))?;
        }
        Ok(())
    }

    /// Deletes files that hold nothing and must not be used again, and those that a smaller layout has no room for. The
    /// second step: what was lost has been told by then, as no later run finds it.
    pub(crate) fn remove(&mut self, source: &dyn FileSource) -> Result<(), OpenError> {
        if !self.surplus.is_empty() || !self.headerless.is_empty() {
            self.sync_found(source)?;
        }
        let doomed: Vec<FileId> = self.lost.iter().chain(&self.surplus).copied().collect();
        for id in doomed {
            if self.missing[id.index() % self.missing.len()].is_some() {
                continue;
            }
            if let Err(error) = source.delete(id) {
                let path = source.describe(id);
                self.leave_out(id, IoError::in_the_way("removing a file of the store", path.as_deref(), error))?;
            } else {
                self.dropped += usize::from(!self.lost.contains(&id));
            }
        }
        Ok(())
    }

    /// Makes durable what a killed run may have left in the page cache, before a file dies (`recovery`, invariant 4).
    ///
    /// All are tried, and marked if that fails: who finds them next must not believe the page cache of any. If no mark can
    /// be made, the error says what else keeps it from that.
    fn sync_found(&mut self, source: &dyn FileSource) -> Result<(), OpenError> {
        let (mut marked, mut unmarked) = (Vec::new(), Vec::new());
        for Judged { id, memory, header, .. } in self.all_found() {
            let Err(error) = sync(&**memory, header.as_ref()) else { continue };
            let mark = source.mark_suspect(*id);
            let refused = if mark.is_ok() { &mut marked } else { &mut unmarked };
            refused.push((*id, IoError::unsynced(source.describe(*id).as_deref(), error, mark)));
        }
        self.unmarked.extend(unmarked.iter().cloned());
        for (id, error) in unmarked.into_iter().chain(marked) {
            self.leave_out(id, error)?;
        }
        Ok(())
    }

    /// From now on the folder of this file counts as missing (invariant 5); an error if no other has a header.
    fn leave_out(&mut self, file: FileId, error: IoError) -> Result<(), OpenError> {
        let folders = self.missing.len();
        let folder = file.index() % folders;
        let why = self.missing[folder].get_or_insert(error).clone();
        let stays = |file: &FileId| file.index() % folders != folder;
        for of_lane in self.found.iter_mut().chain(&mut self.empty) {
            of_lane.retain(|judged| stays(&judged.id));
        }
        self.headerless.retain(|(file, _)| stays(file));
        self.lost.retain(stays);
        self.surplus.retain(stays);
        if self.found.iter().all(Vec::is_empty) { Err(OpenError::Io(why)) } else { Ok(()) }
    }

    /// Files with a header that are suspect, and why: each opening tells.
    ///
    /// A run that was killed may have mended a file, and told nobody: all that later ones find is that it is suspect.
    pub(crate) fn suspect(&self) -> impl Iterator<Item = (FileId, Told)> {
        let marked = self.found.iter().flatten().filter(|judged| judged.damage.is_none() && judged.memory.is_suspect());
        let marked = marked.map(|judged| (judged.id, Told::Marked));
        self.damaged.iter().map(|(file, damage)| (*file, Told::Length(*damage))).chain(marked)
    }

    /// How many files are to be searched for blocks.
    pub(crate) fn to_be_searched(&self) -> usize {
        self.found.iter().map(Vec::len).sum()
    }

    /// The highest number of a file that may be used, also if one that a smaller layout drops stays for want of a deletion.
    pub(crate) fn highest(&self) -> u16 {
        let numbers = self.all_found().map(|judged| judged.id).chain(self.surplus.iter().copied()).map(FileId::get);
        numbers.max().unwrap_or(0)
    }

    pub(crate) fn all_found(&self) -> impl Iterator<Item = &Judged> {
        self.found.iter().flatten().chain(self.empty.iter().flatten())
    }
}

/// Reads the header of a file and compares it with its place.
pub(crate) fn judge(source: &dyn FileSource, found: Found) -> Result<Judged, OpenError> {
    let Found { file: id, memory, len } = found;
    let size = source.file_size();
    let damage = (len != size.get()).then_some(OtherLength { len, size: size.get() });
    let path = source.describe(id).unwrap_or_else(|| PathBuf::from(format!("file {id}")));
    let mut page = vec![0; PAGE_LEN];
    memory.load(0, &mut page).map_err(|error| IoError::header_unreadable(source.describe(id).as_deref(), error))?;
    let foreign = |reason: String| OpenError::Foreign { path: path.clone(), reason };
    let header = match FileHeader::decode(&page) {
        Ok(header) => header,
        Err(HeaderError::Version { found }) => return Err(OpenError::Version { path, found }),
        // Nor was this one torn: its file may hold blocks.
        Err(HeaderError::HashKind { found }) => return Err(OpenError::HashKind { path, found }),
        // Ours by its name, in a folder that we have locked.
        Err(_) => return Ok(Judged { id, memory, header: None, high_water: high_water::Found::Doubted, damage }),
    };
    if header.store != source.store_id() {
        return Err(foreign(format!("its header names store {}", header.store)));
    }
    if header.file != id {
        return Err(foreign(format!("its header names file {}", header.file)));
    }
    if header.lane % source.folders() != (id.get() - 1) % source.folders() {
        return Err(foreign(format!("its header names lane {}, which lies in another folder", header.lane)));
    }
    if header.lanes % source.folders() != 0 {
        return Err(foreign(format!("its header names {} lanes, for {} folders", header.lanes, source.folders())));
    }
    // The next ones must have room: a generation too large to be read back would take what is written with it.
    if !(1..=HIGHEST_FOUND).contains(&header.generation) {
        return Err(foreign(format!("its header names generation {}, which no store reaches", header.generation)));
    }
    // Of a file that has lost something, or was changed by somebody else, every word is doubted.
    let is_sound = damage.is_none() && !memory.is_suspect();
    let high_water = match HighWaterMark::decode(&page, header.nonce) {
        Some(mark) if is_sound && Some(mark.boot) == source.boot() => high_water::Found::Slots(mark.slots),
        None if page[HighWaterMark::OFFSET..][..HighWaterMark::LEN] == [0; HighWaterMark::LEN] => {
            high_water::Found::Nothing
        }
        _ => high_water::Found::Doubted,
    };
    Ok(Judged { id, memory, header: Some(header), high_water, damage })
}

/// A file of another length that has no header may be one of another layout, unless the header of any other file tells
/// what the layout is.
pub(crate) fn check_lengths(source: &dyn FileSource, judged: &[Judged]) -> Result<(), OpenError> {
    let unknown = judged.iter().all(|judged| judged.header.is_none());
    match judged.iter().find_map(|judged| Some((judged.id, judged.damage?))).filter(|_| unknown) {
        Some((id, OtherLength { len, size })) => {
            let path = source.describe(id).unwrap_or_else(|| PathBuf::from(format!("file {id}")));
            let reason =
                format!("it has {len} bytes instead of {size}, and no file here has a header that tells its size");
            Err(OpenError::Foreign { path, reason })
        }
        None => Ok(()),
    }
}

/// The order of the files of a lane, and of what they hold, is that of their generations: no two of them have the same.
///
/// Two lanes may: one has taken generations while the folder of the other was not there.
pub(crate) fn check_order(source: &dyn FileSource, judged: &[Judged]) -> Result<(), OpenError> {
    let mut seen = BTreeMap::new();
    for Judged { id, header, .. } in judged {
        let Some(header) = header else { continue };
        if let Some(other) = seen.insert((header.lane, header.generation), *id) {
            let path = source.describe(*id).unwrap_or_else(|| PathBuf::from(format!("file {id}")));
            let reason = format!("its header names generation {}, as that of file {other} does", header.generation);
            return Err(OpenError::Foreign { path, reason });
        }
    }
    Ok(())
}

/// What `reset` asks for. The oldest goes first, as always: if a crash comes in between, what was removed stays so.
pub(crate) fn erase(source: &dyn FileSource, found: Vec<Found>) -> Result<Vec<Found>, OpenError> {
    let header = |found: &Found| {
        let mut page = vec![0; PAGE_LEN];
        found.memory.load(0, &mut page).ok()?;
        FileHeader::decode(&page).ok()
    };
    let mut found = found;
    found.sort_by_cached_key(|found| header(found).map(|header| header.generation));
    for found in &found {
        if sync(&*found.memory, header(found).as_ref()).is_err() {
            // As in `sync_found`, but a disk that refuses keeps nobody from deleting what is on it.
            let _ = source.mark_suspect(found.file);
        }
    }
    for Found { file, memory, .. } in found {
        drop(memory);
        source.delete(file).map_err(|error| io_failed(source, "removing a file of the store", file, error))?;
    }
    Ok(Vec::new())
}

/// A temporary store takes over nothing but files that were never written, left by a process that was killed. All are
/// looked at before the first is deleted.
pub(crate) fn only_leftovers(source: &dyn FileSource, judged: Vec<Judged>) -> Result<Vec<Judged>, OpenError> {
    for one in &judged {
        if may_hold_blocks(source, one)? {
            let value = "on, over a store that holds blocks";
            return Err(ConfigError::new("temporary", value, "used with an empty folder or with `reset`").into());
        }
    }
    for Judged { id, memory, .. } in judged {
        drop(memory);
        source.delete(id).map_err(|error| io_failed(source, "removing a left-over file", id, error))?;
    }
    Ok(Vec::new())
}

/// Whether there may be a block in a file: whether any byte is not zero where its directory may be, with or without a
/// header. The first slots prove nothing: their writes may have failed.
fn may_hold_blocks(source: &dyn FileSource, judged: &Judged) -> Result<bool, OpenError> {
    let Judged { id, memory, header, damage, .. } = judged;
    // Zeros stand in for what a file has lost that was mended, so they prove nothing; nor do they in one that has another
    // length than its header names. With the length which that names it is of another layout.
    let is_as_made = |damage: &OtherLength| header.is_some_and(|header| damage.len == header.file_size.get());
    if memory.is_suspect() || damage.is_some_and(|damage| !is_as_made(&damage)) {
        return Ok(true);
    }
    let size = memory.size();
    let lowest = PAGE_SIZE.max(size.get() - u64::from(size.slots()) * Entry::SIZE as u64);
    let mut end = size.get();
    let mut piece = vec![0; PAGE_LEN];
    // A file with blocks shows one at once, as a rule: the first pieces are small.
    while end > lowest {
        let len = usize::try_from(end - lowest).map_or(piece.len(), |left| left.min(piece.len()));
        let bytes = &mut piece[..len];
        end -= len as u64;
        memory.load(end, bytes).map_err(|error| io_failed(source, "reading a directory", *id, error))?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        piece.resize((2 * piece.len()).min(LARGEST_PIECE), 0);
    }
    Ok(false)
}

fn io_failed(source: &dyn FileSource, what: &'static str, file: FileId, error: io::Error) -> OpenError {
    OpenError::Io(IoError::new(what, source.describe(file).as_deref(), error))
}

/// The size of new files for `bytes_per_folder` in each of `folders`; `None` if that is too little for any.
pub(crate) fn derive_file_size(bytes_per_folder: u64, folders: u16) -> Option<FileSize> {
    // About sixteen files a lane: recycling forgets little at once, and a file is still large enough to turn rarely.
    let wanted = (bytes_per_folder / 16).clamp(1 << 20, 1 << 30);
    // Larger ones where there would be more files than a store can have.
    let wanted = wanted.max(bytes_per_folder.div_ceil(u64::from((FileId::MAX / folders.max(1)).max(1))));
    let wanted = wanted.next_multiple_of(PAGE_SIZE).min(FileSize::MAX.get());
    let most = bytes_per_folder / u64::from(LEAST_FILES_A_LANE) / PAGE_SIZE * PAGE_SIZE;
    FileSize::new(wanted.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    /// A capacity above 1023 GiB was refused: files stopped at 1 GiB, and a store has at most 1023 of them.
    #[test]
    fn large_capacities_get_files_large_enough_for_1023_of_them() {
        for (bytes, folders, expected) in [
            (1023 * GIB, 1, GIB),
            (1024 * GIB, 1, (1024 * GIB).div_ceil(1023).next_multiple_of(PAGE_SIZE)),
            (600 * GIB, 2, (600 * GIB).div_ceil(511).next_multiple_of(PAGE_SIZE)),
            (16 * 1023 * GIB, 1, 16 * GIB),
        ] {
            let size = derive_file_size(bytes, folders).unwrap();
            assert_eq!(size.get(), expected, "{bytes} in {folders} folders");
            assert!(bytes / size.get() <= u64::from(FileId::MAX / folders));
        }
    }

    #[test]
    fn small_capacities_are_three_files_and_usual_ones_sixteen() {
        let size = |bytes| derive_file_size(bytes, 1).map(FileSize::get);
        assert_eq!(size(3 * 12 * 1024 - 1), None);
        assert_eq!(size(3 * 12 * 1024), Some(12 * 1024));
        assert_eq!(size(3 << 20), Some(1 << 20));
        assert_eq!(size(64 << 20), Some(4 << 20));
        assert_eq!(size(32 * GIB), Some(GIB));
    }
}
