//! A source behind a pointer is a source.
//!
//! # Invariants
//!
//! 1. Every method asks the source behind: a default of the trait would stand in front of its own.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use super::{FileMemory, FileSource, Found};
use crate::block::{FileId, FileSize, StoreId};
use crate::error::OpenError;
use crate::sync::Arc;

macro_rules! source_behind_a_pointer {
    ($pointer:ident) => {
        #[deny(clippy::missing_trait_methods, reason = "a default would not ask the source behind")]
        impl<S: FileSource + ?Sized> FileSource for $pointer<S> {
            fn store_id(&self) -> StoreId {
                (**self).store_id()
            }

            fn file_size(&self) -> FileSize {
                (**self).file_size()
            }

            fn folders(&self) -> u16 {
                (**self).folders()
            }

            fn files_per_folder(&self) -> u16 {
                (**self).files_per_folder()
            }

            fn boot(&self) -> Option<u64> {
                (**self).boot()
            }

            fn describe(&self, file: FileId) -> Option<PathBuf> {
                (**self).describe(file)
            }

            fn scan(&self) -> Result<Vec<Found>, OpenError> {
                (**self).scan()
            }

            fn scan_folder(&self, folder: u16) -> Result<Vec<Found>, OpenError> {
                (**self).scan_folder(folder)
            }

            fn create(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
                (**self).create(file, header)
            }

            fn create_unnamed(&self, file: FileId, header: &[u8]) -> io::Result<Arc<dyn FileMemory>> {
                (**self).create_unnamed(file, header)
            }

            fn delete(&self, file: FileId) -> io::Result<()> {
                (**self).delete(file)
            }

            fn mark_suspect(&self, file: FileId) -> io::Result<()> {
                (**self).mark_suspect(file)
            }

            fn mend(&self, file: FileId) -> io::Result<Arc<dyn FileMemory>> {
                (**self).mend(file)
            }
        }
    };
}

source_behind_a_pointer!(Box);
source_behind_a_pointer!(Arc);
