//! The reading verbs.
#![forbid(unsafe_code)]

use crate::blittable::BlittableReader;
use crate::block::{BlockAddress, BlockHash, FileId, KeyHash, Realm};
use crate::error::{ReadError, ReadWithError};
use crate::scratch::{BlockRef, Scratch};
use crate::wheel::{BlockView, Refused};

/// How many keys ahead `get_many` asks the index.
const AHEAD: usize = 16;
/// How many blocks ahead it asks the disk, or the processor where they are in memory; fewer than keys.
const REQUESTED: usize = 8;
/// Most bytes that it asks the disk for ahead, but for one block.
const REQUESTED_BYTES: u64 = 1 << 20;

/// What the store knows of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockInfo {
    /// Whose block it is.
    pub realm: Realm,
    /// Its hash, or the key it was named by.
    pub hash: BlockHash,
    /// Its length in bytes.
    pub len: u32,
    /// The file that holds it.
    pub file: FileId,
    /// The lap of that file: files with a smaller generation make room earlier.
    pub generation: u64,
}

impl BlockInfo {
    fn new(file: FileId, block: &BlockView) -> Self {
        Self { realm: block.realm, hash: block.key, len: block.len, file, generation: block.generation }
    }
}

impl From<Refused> for ReadError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Closed => Self::Closed,
            Refused::Reentrant => Self::Reentrant,
            Refused::Forked => Self::Forked,
        }
    }
}

impl Scratch {
    /// Runs `read` on the bytes of a block, zero-copy, pinned until `read` returns: keep it short.
    ///
    /// The first read of a block may wait: while its closure runs (on this thread, if nobody has begun), or while its
    /// bytes are compared with their hash, once, after a restart. The bytes start on a page boundary (4096 bytes),
    /// unless they are a verified copy ([`Verify::Always`](crate::Verify::Always), or the file is suspect).
    ///
    /// # Errors
    ///
    /// [`ReadError::Missing`] if the block was never written, was removed, has been recycled since, or was not found
    /// yet after a restart; [`ReadError::Busy`] if a wait ended at its deadline, or if more blocks of the file are held
    /// than can be counted; [`ReadError::Corrupted`] if the bytes do not match their hash any more, once: afterwards it
    /// is missing; [`ReadError::Failed`] if its closure failed, for those who waited for it; [`ReadError::Io`] if the
    /// disk could not read it (with the feature `sigbus-guard` also after `read` has seen zeros in its place), or if
    /// nothing was found and nobody knows whether it is there (its folder was not there at open and is not back, or the store may not
    /// forget and did not find all of an earlier run); [`ReadError::Closed`];
    /// [`ReadError::Reentrant`] inside a closure of the same store; [`ReadError::Forked`] in a forked child.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let (realm, hash) = (Realm::DEFAULT, scratch.put(Realm::DEFAULT, b"block")?);
    /// let bytes_in_block = scratch.read(realm, hash, <[u8]>::len)?;
    /// # assert_eq!(bytes_in_block, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn read<T>(&self, realm: Realm, hash: BlockHash, read: impl FnOnce(&[u8]) -> T) -> Result<T, ReadError> {
        self.wheel().check_open()?;
        let lent = self.wheel().find(realm, hash)?;
        let result = read(&lent);
        self.wheel().check_lent(&lent)?;
        Ok(result)
    }

    /// As [`read`](Self::read), on a copy whose hash was compared just now: allocates the block's length.
    ///
    /// A disk that cannot read the bytes is an error here, where a mapping would raise a signal. A block that is still
    /// gathered is lent from memory.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let (realm, hash) = (Realm::DEFAULT, scratch.put(Realm::DEFAULT, b"block")?);
    /// let copy = scratch.read_verified(realm, hash, <[u8]>::to_vec)?;
    /// # assert_eq!(copy, b"block");
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_verified<T>(
        &self,
        realm: Realm,
        hash: BlockHash,
        read: impl FnOnce(&[u8]) -> T,
    ) -> Result<T, ReadError> {
        self.wheel().check_open()?;
        let lent = self.wheel().find_verified(realm, hash)?;
        Ok(read(&lent))
    }

    /// As [`read`](Self::read), with a cursor over typed values.
    ///
    /// # Errors
    ///
    /// [`ReadWithError::Read`] as [`read`](Self::read); [`ReadWithError::Closure`] with what `read` returned.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlittableError, MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let realm = Realm::DEFAULT;
    /// let mut writer = scratch.writer(realm);
    /// writer.write(&7_u32);
    /// writer.write_str("seven");
    /// let hash = writer.commit()?;
    ///
    /// let (number, name) = scratch.read_with(realm, hash, |block| {
    ///     Ok::<_, BlittableError>((block.read::<u32>()?, block.read_str()?.to_owned()))
    /// })?;
    /// assert_eq!((number, name.as_str()), (7, "seven"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn read_with<T, E>(
        &self,
        realm: Realm,
        hash: BlockHash,
        read: impl FnOnce(&mut BlittableReader<'_>) -> Result<T, E>,
    ) -> Result<T, ReadWithError<E>> {
        let read = |bytes: &[u8]| read(&mut BlittableReader::new(bytes));
        self.read(realm, hash, read)?.map_err(ReadWithError::Closure)
    }

    /// The block itself: owned, pinned, zero-copy bytes that outlive the call.
    ///
    /// A file whose blocks are held is not reused: hold blocks for as long as they are needed and no longer. A block
    /// of up to 64 KiB that is still being gathered is copied instead, and then need not start on a page boundary.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let realm = Realm::DEFAULT;
    /// let hash = scratch.put(realm, b"taken along")?;
    /// let block = scratch.get(realm, hash)?;
    /// let len = std::thread::spawn(move || block.len()).join().unwrap();
    /// assert_eq!(len, 11);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, realm: Realm, hash: BlockHash) -> Result<BlockRef, ReadError> {
        self.wheel().check_open()?;
        let lent = self.wheel().find(realm, hash)?;
        Ok(BlockRef::new(self.wheel(), lent))
    }

    /// Reads many blocks, in the order of `hashes`; `read` gets each one's place in `hashes` and its bytes or error.
    ///
    /// The index is asked for 16 blocks ahead, and up to eight blocks, or 1 MiB, are requested from the disk while one is
    /// read. With the feature `sigbus-guard`, `read` is called once more for a block, with [`ReadError::Io`], if the disk
    /// could not read what it has just seen.
    ///
    /// # Errors
    ///
    /// [`ReadError::Closed`], [`ReadError::Reentrant`] or [`ReadError::Forked`] for the whole call; what concerns one block
    /// goes to `read`, as [`read`](Self::read) says it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{BlockHash, MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// # let realm = Realm::DEFAULT;
    /// let mut hashes = scratch.put_many(realm, &[b"one", b"three"])?;
    /// hashes.push(BlockHash::of(b"never written"));
    /// let mut lens = Vec::new();
    /// scratch.get_many(realm, &hashes, |_, block| lens.push(block.ok().map(<[u8]>::len)))?;
    /// assert_eq!(lens, [Some(3), Some(5), None]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get_many(
        &self,
        realm: Realm,
        hashes: &[BlockHash],
        mut read: impl FnMut(usize, Result<&[u8], ReadError>),
    ) -> Result<(), ReadError> {
        let wheel = self.wheel();
        wheel.check_open()?;
        let mut keys: [KeyHash; AHEAD] = [wheel.key_hash(realm, BlockHash::from_u128(0)); AHEAD];
        // Bytes of the blocks that were requested, and the first one that was not.
        let (mut requested, mut ahead, mut next) = ([0; AHEAD], 0, 0);
        for (at, hash) in hashes.iter().take(AHEAD).enumerate() {
            keys[at] = wheel.key_hash(realm, *hash);
            wheel.index.prefetch(keys[at]);
        }
        for (at, hash) in hashes.iter().enumerate() {
            let key = keys[at % AHEAD];
            if let Some(later) = hashes.get(at + AHEAD) {
                keys[at % AHEAD] = wheel.key_hash(realm, *later);
                wheel.index.prefetch(keys[at % AHEAD]);
            }
            // Later blocks are requested while this one is read.
            ahead -= std::mem::take(&mut requested[at % AHEAD]);
            next = next.max(at + 1);
            while next < hashes.len() && next <= at + REQUESTED && ahead < REQUESTED_BYTES {
                requested[next % AHEAD] = wheel.request_ahead(keys[next % AHEAD], realm, hashes[next]);
                ahead += requested[next % AHEAD];
                next += 1;
            }
            match wheel.find_hashed(key, realm, *hash, wheel.options.verify) {
                Ok(lent) => {
                    read(at, Ok(&lent));
                    if let Err(error) = wheel.check_lent(&lent) {
                        read(at, Err(error));
                    }
                }
                Err(error) => read(at, Err(error)),
            }
            // `read` may have forked, and this be the child.
            if wheel.is_forked() {
                return Err(ReadError::Forked);
            }
        }
        Ok(())
    }

    /// Whether the block is there, without touching its bytes: a deferred one counts, and nothing is verified.
    ///
    /// # Errors
    ///
    /// [`ReadError::Io`] if the disk could not read its entry, or its folder is not there, as for [`read`](Self::read);
    /// [`ReadError::Corrupted`] if its entry is damaged, once; [`ReadError::Busy`] if more blocks of its file are held
    /// than can be counted; [`ReadError::Closed`], [`ReadError::Reentrant`] and [`ReadError::Forked`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let hash = scratch.put(Realm::DEFAULT, b"block")?;
    /// assert!(scratch.contains(Realm::DEFAULT, hash)?);
    /// assert!(!scratch.contains(Realm::from(7), hash)?, "another realm");
    /// # Ok(())
    /// # }
    /// ```
    pub fn contains(&self, realm: Realm, hash: BlockHash) -> Result<bool, ReadError> {
        self.wheel().check_open()?;
        let key = self.wheel().key_hash(realm, hash);
        let found = self.locate(key, realm, hash)?;
        Ok(found.is_some_and(|(_, block)| !block.kind.is_tombstone()))
    }

    /// What is known of a block, without touching its bytes.
    ///
    /// # Errors
    ///
    /// [`ReadError::Missing`] if it is not there; the others as [`contains`](Self::contains).
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// let hash = scratch.put(Realm::DEFAULT, b"block")?;
    /// assert_eq!(scratch.info(Realm::DEFAULT, hash)?.len, 5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn info(&self, realm: Realm, hash: BlockHash) -> Result<BlockInfo, ReadError> {
        self.wheel().check_open()?;
        let key = self.wheel().key_hash(realm, hash);
        match self.locate(key, realm, hash)? {
            Some((address, block)) if !block.kind.is_tombstone() => Ok(BlockInfo::new(address.file(), &block)),
            _ => Err(ReadError::Missing { realm, hash }),
        }
    }

    fn locate(
        &self,
        key: KeyHash,
        realm: Realm,
        hash: BlockHash,
    ) -> Result<Option<(BlockAddress, BlockView)>, ReadError> {
        let wheel = self.wheel();
        // Asked before the index, and again where that has nothing, for why.
        let is_known = wheel.is_known(key);
        let located = match wheel.locate(key, realm, hash) {
            // By now it may be, and have found it.
            Ok(None) if !is_known => {
                wheel.known(key).map_err(ReadError::Io).and_then(|_| wheel.locate(key, realm, hash))
            }
            located => located,
        };
        wheel.count_failed_read(located.as_ref().err());
        located
    }

    /// Visits every block of a realm, in no order, without touching the bytes. Walks the index of all realms.
    ///
    /// Blocks that are written, replaced, removed or recycled meanwhile may or may not be visited; all others are,
    /// once. While blocks of an earlier run are looked for, those that were found so far:
    /// [`wait_recovered`](Self::wait_recovered) first if all of them are wanted. `visit` may call the store.
    ///
    /// # Errors
    ///
    /// After everything else was visited: [`ReadError::Io`] if the disk could not read the entry of some block, or, with
    /// the folder, if nobody knows what it holds: it was not there at open and is not back and searched, or the store may not
    /// forget and did not find all of an earlier run;
    /// [`ReadError::Busy`] if more blocks of a file are held than can be counted. Before anything is visited:
    /// [`ReadError::Closed`], [`ReadError::Reentrant`] and [`ReadError::Forked`].
    ///
    /// # Examples
    ///
    /// ```
    /// # use scratchspace::{MemoryFileSource, Realm, Scratch};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let scratch = Scratch::open(MemoryFileSource::builder().build()?)?;
    /// scratch.put_many(Realm::DEFAULT, &[b"one", b"three"])?;
    /// let mut bytes = 0;
    /// scratch.for_each(Realm::DEFAULT, |block| bytes += block.len)?;
    /// assert_eq!(bytes, 8);
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_each(&self, realm: Realm, mut visit: impl FnMut(&BlockInfo)) -> Result<(), ReadError> {
        let wheel = self.wheel();
        wheel.check_open()?;
        // Asked before the index: what is found meanwhile need not be visited.
        let known = wheel.all_known();
        let mut unreadable = Ok(());
        wheel.index.for_each(|address| {
            // `visit` may have forked, and this be the child.
            if wheel.is_forked() {
                return;
            }
            match wheel.try_view(address) {
                Ok(Some(block)) if block.realm == realm && !block.kind.is_tombstone() => {
                    visit(&BlockInfo::new(address.file(), &block));
                }
                // Whose a damaged entry is nobody knows: the read of its key tells.
                Ok(_) | Err(ReadError::Corrupted { .. }) => {}
                Err(error) => unreadable = Err(error),
            }
        });
        if wheel.is_forked() {
            return Err(ReadError::Forked);
        }
        let all = known.map_err(ReadError::Io).and(unreadable);
        wheel.count_failed_read(all.as_ref().err());
        all
    }
}
