//! Folders that are byte vectors with names: a source in memory, judged as one on disks judges what it lists.
//!
//! # Invariants
//!
//! 1. A file here is refused, believed or left alone for the same name and length as on a disk; `folder` runs some of
//!    its inputs on both and compares.
//! 2. A file ends where its allocation does, so that AddressSanitizer sees a read behind it.

use std::cell::UnsafeCell;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use scratchspace::{FileId, FileMemory, FileSize, FileSource, Found, OpenError, StoreId};

use super::format::{self, Header, PAGE};
use super::store::{Image, Setup, kind};

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u8; PAGE]>);

/// One file.
struct Bytes {
    pages: Box<[Page]>,
    /// All of it, if its length is none that a file can have; then the pages show its first one.
    odd: Option<Vec<u8>>,
    /// A sync of it has failed in an earlier run.
    suspect: AtomicBool,
    turns: Mutex<()>,
}

// SAFETY: stores and loads take turns, and whoever reads through `base` sees to it that nobody stores there.
unsafe impl Sync for Bytes {}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} pages", self.pages.len())
    }
}

impl Bytes {
    fn new(size: FileSize, contents: &[u8]) -> Self {
        let pages = (0..size.pages()).map(|_| Page(UnsafeCell::new([0; PAGE]))).collect();
        let new = Self { pages, odd: None, suspect: AtomicBool::new(false), turns: Mutex::new(()) };
        new.store(0, &[contents]).expect("no more than its size");
        new
    }

    /// A file that was there, however long it is.
    fn found(contents: &[u8]) -> Self {
        match FileSize::new(contents.len() as u64) {
            Some(size) => Self::new(size, contents),
            None => {
                let first = &contents[..contents.len().min(PAGE)];
                Self { odd: Some(contents.to_vec()), ..Self::new(FileSize::MIN, first) }
            }
        }
    }

    fn contents(&self) -> Vec<u8> {
        self.odd.clone().unwrap_or_else(|| {
            let mut bytes = vec![0; self.pages.len() * PAGE];
            self.load(0, &mut bytes).expect("all of it");
            bytes
        })
    }

    /// The first byte of a range that lies within.
    fn at(&self, offset: u64, len: usize) -> io::Result<NonNull<u8>> {
        let all = (self.pages.len() * PAGE) as u64;
        if offset.checked_add(len as u64).is_none_or(|end| end > all) {
            let problem = format!("{len} bytes at {offset} do not lie within {all}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        // SAFETY: at most one behind the last byte of the allocation.
        Ok(unsafe { self.base().add(offset as usize) })
    }
}

// SAFETY: the pages stay where they are for as long as `self` lives, begin at a page, are `size` bytes, and only
// `store` changes them.
unsafe impl FileMemory for Bytes {
    fn size(&self) -> FileSize {
        FileSize::new((self.pages.len() * PAGE) as u64).expect("made of one")
    }

    fn base(&self) -> NonNull<u8> {
        NonNull::from_ref(&*self.pages).cast()
    }

    fn store(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut to = self.at(offset, parts.iter().map(|part| part.len()).sum())?;
        let _turn = self.turns.lock().expect("nothing panics here");
        for part in parts {
            // SAFETY: all parts lie within; they are none of these pages, which nobody holds a slice of who stores.
            unsafe { NonNull::from_ref(*part).cast::<u8>().copy_to_nonoverlapping(to, part.len()) };
            // SAFETY: as above.
            to = unsafe { to.add(part.len()) };
        }
        Ok(())
    }

    fn load(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let from = self.at(offset, into.len())?;
        let _turn = self.turns.lock().expect("nothing panics here");
        // SAFETY: within, and `into` is exclusive.
        unsafe { from.copy_to_nonoverlapping(NonNull::from_mut(&mut *into).cast(), into.len()) };
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn is_suspect(&self) -> bool {
        // Relaxed: written before the source is handed to a store.
        self.suspect.load(Ordering::Relaxed)
    }

    fn start_write_back(&self, _range: Range<u64>) {}

    fn will_need(&self, _range: Range<u64>) {}

    fn populate(&self, range: Range<u64>) -> io::Result<()> {
        let len = range.end.saturating_sub(range.start);
        self.at(range.start, len as usize).map(drop)
    }

    fn populate_tells(&self) -> bool {
        true
    }
}

/// Folders in memory; clones share the files.
#[derive(Clone, Debug)]
pub struct Folders {
    store: u128,
    size: FileSize,
    folders: u16,
    files_per_folder: u16,
    files: Arc<Mutex<BTreeMap<FileId, Arc<Bytes>>>>,
    refused: Option<OpenError>,
}

impl Folders {
    /// The files of an image whose lock files are whole, as they would be found.
    pub fn new(image: &Image, setup: &Setup) -> Self {
        let listed = listed(image);
        let fallback = FileSize::new(setup.file_size as u64).expect("a size of the test");
        let size = usual(&listed, image.store).unwrap_or(fallback);
        let (files, refused) = match judged(&listed, image.store, image.folders()) {
            Ok(files) => (files, None),
            Err(error) => (BTreeMap::new(), Some(error)),
        };
        let folders = image.folders() as u16;
        let files = Arc::new(Mutex::new(files));
        Self { store: image.store, size, folders, files_per_folder: setup.files_per_folder, files, refused }
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<FileId, Arc<Bytes>>> {
        self.files.lock().expect("nothing panics here")
    }

    /// What is there now.
    pub fn image(&self) -> Image {
        let mut image = Image::empty(&Setup { folders: usize::from(self.folders), ..Setup::default() });
        for (id, file) in &*self.files() {
            image.put(usize::from(id.get()), file.contents());
        }
        image
    }
}

/// A file with the name of some store's file, by the words of `docs/format.md`.
struct Listed<'a> {
    path: PathBuf,
    folder: usize,
    store: u128,
    number: u16,
    kind: &'a str,
    bytes: &'a [u8],
}

fn listed(image: &Image) -> Vec<Listed<'_>> {
    let all = image.files.iter();
    all.filter_map(|((folder, name), bytes)| {
        let (store, rest) = name.split_once('-')?;
        let (number, kind) = rest.split_once('.')?;
        let is_number = |text: &str, radix, len| {
            text.len() == len && text.chars().all(|digit| digit.is_digit(radix) && !digit.is_ascii_uppercase())
        };
        let ours =
            is_number(store, 16, 32) && is_number(number, 10, 4) && ["scratch", "tmp", "suspect"].contains(&kind);
        let (store, number) = (u128::from_str_radix(store, 16).ok()?, number.parse().ok()?);
        let path = PathBuf::from(format!("{folder}/{name}"));
        ours.then_some(Listed { path, folder: *folder, store, number, kind, bytes })
    })
    .collect()
}

/// The size that most headers name, or else of most files; the larger one of two that are as many.
fn usual(listed: &[Listed<'_>], store: u128) -> Option<FileSize> {
    let most = |size: &dyn Fn(&Listed<'_>) -> Option<u64>| {
        let mut sizes: BTreeMap<u64, usize> = BTreeMap::new();
        for file in listed.iter().filter(|file| file.store == store && file.kind != "tmp") {
            if let Some(size) = size(file).and_then(FileSize::new) {
                *sizes.entry(size.get()).or_default() += 1;
            }
        }
        sizes.into_iter().max_by_key(|(size, count)| (*count, *size)).and_then(|(size, _)| FileSize::new(size))
    };
    let named = most(&|file| match format::header(file.bytes) {
        Header::Fine(header) if header.store == store && kind(header.hash_kind).is_some() => Some(header.size),
        _ => None,
    });
    named.or_else(|| most(&|file| Some(file.bytes.len() as u64)))
}

/// The files of the store, or why something there cannot be one.
fn judged(listed: &[Listed<'_>], store: u128, folders: usize) -> Result<BTreeMap<FileId, Arc<Bytes>>, OpenError> {
    let mut files = BTreeMap::new();
    for file in listed {
        let refuse = |reason: &str| {
            Err(OpenError::Foreign { path: file.path.clone(), reason: format!("in memory it is refused: {reason}") })
        };
        let Some(id) = FileId::new(file.number) else { return refuse("its number is none") };
        if file.store != store {
            return refuse("it is of another store");
        }
        if (usize::from(file.number) - 1) % folders != file.folder {
            return refuse("it lies in another folder than its own");
        }
        if file.kind == "tmp" {
            continue;
        }
        let bytes = Bytes::found(file.bytes);
        bytes.suspect.store(file.kind == "suspect", Ordering::Relaxed);
        if files.insert(id, Arc::new(bytes)).is_some() {
            return refuse("it is there twice");
        }
    }
    Ok(files)
}

impl FileSource for Folders {
    fn store_id(&self) -> StoreId {
        StoreId::from_u128(self.store)
    }

    fn file_size(&self) -> FileSize {
        self.size
    }

    fn folders(&self) -> u16 {
        self.folders
    }

    fn files_per_folder(&self) -> u16 {
        self.files_per_folder
    }

    fn describe(&self, file: FileId) -> Option<PathBuf> {
        let folder = file.index() % usize::from(self.folders);
        Some(PathBuf::from(format!("{folder}/{:032x}-{file:04}.scratch", self.store)))
    }

    fn scan(&self) -> Result<Vec<Found>, OpenError> {
        match &self.refused {
            Some(refused) => Err(refused.clone()),
            None => {
                let found = |(&file, bytes): (_, &Arc<Bytes>)| {
                    let memory: Arc<dyn FileMemory> = bytes.clone();
                    let len = bytes.odd.as_ref().map_or(memory.size().get(), |odd| odd.len() as u64);
                    Found { file, memory, len }
                };
                Ok(self.files().iter().map(found).collect())
            }
        }
    }

    fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
        if header.len() > PAGE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the header is longer than a page"));
        }
        let mut files = self.files();
        if files.contains_key(&file) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("file {file} is there already")));
        }
        let new = Arc::new(Bytes::new(self.size, header));
        files.insert(file, new.clone());
        Ok(new)
    }

    fn delete(&self, file: FileId) -> io::Result<()> {
        self.files().remove(&file);
        Ok(())
    }

    fn mark_suspect(&self, file: FileId) -> io::Result<()> {
        if let Some(bytes) = self.files().get(&file) {
            bytes.suspect.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
        let mut files = self.files();
        let Some(found) = files.get(&file) else { return Err(io::ErrorKind::NotFound.into()) };
        let mut contents = found.contents();
        contents.resize(self.size.get() as usize, 0);
        let mended = Arc::new(Bytes::new(self.size, &contents));
        mended.suspect.store(true, Ordering::Relaxed);
        files.insert(file, mended.clone());
        Ok(mended)
    }
}
