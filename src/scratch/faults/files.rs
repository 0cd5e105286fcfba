//! The files that a run works on, and who makes its calls fail.
#![forbid(unsafe_code)]

use tempfile::TempDir;

use super::{FILE_SIZE, FILES};
use crate::error::OpenError;
#[cfg(target_os = "linux")]
use crate::os::{calls::SystemCall, watch::Watch};
use crate::storage::faulty::{Call, Errno, Fault, Faults, FaultySource};
use crate::storage::{DiskFileSource, FileSource, MemoryFileSource, test_folder::test_folder};
use crate::sync::Arc;

/// What calls are counted, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Calls of the trait, of files in memory.
    Memory,
    /// Calls of the trait, of files on a disk.
    Disk,
    /// Calls of the system, of files on a disk: a store that fails has stored half.
    #[cfg(target_os = "linux")]
    System,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            #[cfg(target_os = "linux")]
            Self::System => "system",
        }
    }

    /// The calls each of which must have failed when all cases were run.
    pub(super) fn calls(self) -> Vec<String> {
        match self {
            Self::Memory | Self::Disk => Call::ALL.iter().map(|call| format!("{call:?}")).collect(),
            #[cfg(target_os = "linux")]
            Self::System => SystemCall::ALL.iter().map(|call| format!("{call:?}")).collect(),
        }
    }
}

pub(super) enum Files {
    Memory {
        files: MemoryFileSource,
        faults: Arc<Faults>,
    },
    Disk {
        folder: TempDir,
        faults: Arc<Faults>,
    },
    #[cfg(target_os = "linux")]
    System {
        folder: TempDir,
        watch: Watch,
    },
}

impl Files {
    pub(super) fn new(kind: Kind) -> Self {
        let faults = Arc::<Faults>::default();
        match kind {
            Kind::Memory => {
                let files = MemoryFileSource::builder().files_per_folder(FILES).file_size(FILE_SIZE).build().unwrap();
                Self::Memory { files, faults }
            }
            Kind::Disk => Self::Disk { folder: test_folder(), faults },
            #[cfg(target_os = "linux")]
            Kind::System => {
                let folder = test_folder();
                let watch = Watch::new(folder.path());
                Self::System { folder, watch }
            }
        }
    }

    pub(super) fn source(&self) -> Result<Box<dyn FileSource>, OpenError> {
        let on_disk = |folder: &TempDir| {
            DiskFileSource::builder().folder(folder.path()).files_per_folder(FILES).file_size(FILE_SIZE).build()
        };
        Ok(match self {
            Self::Memory { files, faults } => Box::new(FaultySource::with(files.clone(), faults.clone()).named()),
            Self::Disk { folder, faults } => Box::new(FaultySource::with(on_disk(folder)?, faults.clone()).named()),
            #[cfg(target_os = "linux")]
            Self::System { folder, .. } => Box::new(on_disk(folder)?),
        })
    }

    /// The `k`-th call from now on fails; `sticky`: and all after it.
    pub(super) fn fail(&self, k: u64, errno: Errno, sticky: bool) {
        match self {
            Self::Memory { faults, .. } | Self::Disk { faults, .. } => {
                let fault = Fault::at(k).errno(errno);
                faults.set(if sticky { fault.sticky() } else { fault });
            }
            #[cfg(target_os = "linux")]
            Self::System { watch, .. } => {
                watch.fail(k, errno.error().raw_os_error().expect("a number of the system"), sticky);
            }
        }
    }

    /// From now on nothing fails.
    pub(super) fn clear(&self) {
        match self {
            Self::Memory { faults, .. } | Self::Disk { faults, .. } => faults.clear(),
            #[cfg(target_os = "linux")]
            Self::System { watch, .. } => watch.clear(),
        }
    }

    /// How many calls there were.
    pub(super) fn total(&self) -> u64 {
        match self {
            Self::Memory { faults, .. } | Self::Disk { faults, .. } => faults.total(),
            #[cfg(target_os = "linux")]
            Self::System { watch, .. } => watch.total(),
        }
    }

    /// How many calls have failed.
    pub(super) fn failed(&self) -> u64 {
        match self {
            Self::Memory { faults, .. } | Self::Disk { faults, .. } => faults.failed(),
            #[cfg(target_os = "linux")]
            Self::System { watch, .. } => watch.failed().len() as u64,
        }
    }

    /// Which calls have failed.
    pub(super) fn failed_calls(&self) -> Vec<String> {
        match self {
            Self::Memory { faults, .. } | Self::Disk { faults, .. } => {
                let failed = Call::ALL.iter().filter(|call| faults.failed_of(**call) > 0);
                failed.map(|call| format!("{call:?}")).collect()
            }
            #[cfg(target_os = "linux")]
            Self::System { watch, .. } => watch.failed().iter().map(|call| format!("{call:?}")).collect(),
        }
    }

    /// What the path in an error begins with.
    pub(super) fn root(&self) -> std::path::PathBuf {
        match self {
            Self::Memory { .. } | Self::Disk { .. } => "folder-0".into(),
            #[cfg(target_os = "linux")]
            Self::System { folder, .. } => folder.path().canonicalize().expect("it is there"),
        }
    }
}
