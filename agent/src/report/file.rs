//! Opening the ledger's database file. A file that is damaged, foreign or of the wrong type is set aside
//! under another name and a new one is made: it may cost records, never the start. A full or read-only
//! disk is not damage: such a file stays where it is and is tried again later.
//!
//! redb may panic on a file whose pages were altered behind its back, so every open verifies the whole
//! file first, and a panic counts as damage.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageError};
use rustix::fs::OFlags;

use super::error::LedgerError;

/// The database below the agent's state directory.
pub(super) const FILE_NAME: &str = "ledger.redb";

/// Pages that redb keeps in memory. The spool is read in order and places by container, so a larger
/// cache gains little, and the agent's budget is 40 MiB in all.
const CACHE_BYTES: usize = 4 << 20;

/// Damaged files that are kept for a person; the oldest goes first.
const MAX_SET_ASIDE: u32 = 3;

/// A database that is open.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) database: Database,
    /// Where a damaged predecessor was put.
    pub(super) set_aside: Option<PathBuf>,
}

/// Why a file could not be opened as it is.
#[derive(Debug)]
enum Failure {
    /// The content is not what redb wrote: a new file is the answer.
    Damaged,
    /// The file may be right, but not now.
    NotNow(LedgerError),
}

/// Opens or makes the database below `directory`.
pub(super) fn open(directory: &Path) -> Result<OpenFile, LedgerError> {
    make_directory(directory)?;
    let path = directory.join(FILE_NAME);
    match try_open(&path) {
        Ok(database) => Ok(OpenFile {
            database,
            set_aside: None,
        }),
        Err(Failure::NotNow(error)) => Err(error),
        Err(Failure::Damaged) => {
            let aside = set_aside(&path)?;
            match try_open(&path) {
                Ok(database) => Ok(OpenFile {
                    database,
                    set_aside: Some(aside),
                }),
                Err(Failure::NotNow(error)) => Err(error),
                Err(Failure::Damaged) => Err(LedgerError::Damaged),
            }
        }
    }
}

/// Opens or makes a small file beside the database; what else stands in its place is set aside.
pub(super) fn open_beside(path: &Path) -> Result<File, LedgerError> {
    match open_regular(path) {
        Ok(file) => Ok(file),
        Err(Failure::NotNow(error)) => Err(error),
        Err(Failure::Damaged) => {
            set_aside(path)?;
            open_regular(path).map_err(|failure| match failure {
                Failure::NotNow(error) => error,
                Failure::Damaged => LedgerError::Damaged,
            })
        }
    }
}

/// Puts the file under another name, the newest being `.damaged-1`.
pub(super) fn set_aside(path: &Path) -> Result<PathBuf, LedgerError> {
    let numbered = |number: u32| path.with_added_extension(format!("damaged-{number}"));
    drop(fs::remove_file(numbered(MAX_SET_ASIDE)));
    for number in (1..MAX_SET_ASIDE).rev() {
        drop(fs::rename(numbered(number), numbered(number + 1)));
    }
    let newest = numbered(1);
    if fs::rename(path, &newest).is_ok() {
        return Ok(newest);
    }
    // A directory stands in the way of the rotation. We did not make it, so we do not empty it.
    let unique = path.with_added_extension(format!("damaged-{:016x}", random()));
    fs::rename(path, &unique)?;
    Ok(unique)
}

/// 64 bits from the random keys that the operating system gives each process.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one(())
}

fn make_directory(directory: &Path) -> Result<(), LedgerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    Ok(())
}

fn try_open(path: &Path) -> Result<Database, Failure> {
    let file = open_regular(path)?;
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Builder::new()
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(FileBackend::new(file)?)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(judge(error)),
        Err(_panic) => Err(Failure::Damaged),
    }
}

/// A directory, FIFO, device or link in the file's place is not ours: it is not opened, since opening
/// may already act or block.
fn open_regular(path: &Path) -> Result<File, Failure> {
    let is_foreign = match fs::symlink_metadata(path) {
        Ok(metadata) => !metadata.is_file(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(Failure::NotNow(error.into())),
    };
    if is_foreign {
        return Err(Failure::Damaged);
    }
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
        .map_err(|error| Failure::NotNow(error.into()))
}

fn judge(error: DatabaseError) -> Failure {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            Failure::NotNow(LedgerError::Busy)
        }
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            // No redb file, or one that ends before its pages do.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Failure::Damaged,
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::OutOfMemory => Failure::NotNow(error.into()),
            // EMFILE and ENFILE have no kind of their own; an unreadable sector (EIO) has none either,
            // and only a new file helps against that one.
            _ if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Failure::Damaged
            }
            _ => Failure::NotNow(error.into()),
        },
        // What follows an I/O error that was reported before: says nothing about the content.
        DatabaseError::Storage(StorageError::PreviousIo) => {
            Failure::NotNow(LedgerError::Interrupted)
        }
        // Corrupted, of another format version, or a state that only a bug makes.
        _ => Failure::Damaged,
    }
}
