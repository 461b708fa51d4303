//! Why the ledger records nothing.

use std::io;

use crate::state::NameTooLong;

/// Why something is not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// The file system or the quota is full.
    #[error("no space left for the ledger")]
    NoSpace,
    /// Another error of the operating system.
    #[error("ledger file: {0}")]
    Io(io::ErrorKind),
    /// The database contradicts itself; the next opening sets it aside.
    #[error("the ledger file is damaged")]
    Damaged,
    /// Another process has the file open.
    #[error("another agent uses the ledger")]
    Busy,
    /// A bug ended the work half-way; all of it was rolled back.
    #[error("the ledger's work was interrupted and rolled back")]
    Interrupted,
    /// The writer has ended.
    #[error("the ledger is closed")]
    Closed,
    /// The sequence is of another file, which has been set aside since.
    #[error("the sequence belongs to another epoch")]
    OtherEpoch,
    /// The container's names do not fit a key.
    #[error(transparent)]
    NameTooLong(#[from] NameTooLong),
    /// A full report does not fit one message; a cut one would resolve what it leaves out.
    #[error("a full report of {bytes} bytes does not fit a message")]
    ReportTooLong {
        /// Its length.
        bytes: usize,
    },
}

impl From<io::Error> for LedgerError {
    fn from(error: io::Error) -> Self {
        Self::of_system(error.kind())
    }
}

impl LedgerError {
    /// Only what the operating system said is no sign of damage.
    pub(super) fn of(error: &redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => Self::of_system(error.kind()),
            redb::Error::DatabaseAlreadyOpen => Self::Busy,
            redb::Error::PreviousIo => Self::Interrupted,
            _ => Self::Damaged,
        }
    }

    fn of_system(kind: io::ErrorKind) -> Self {
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            kind => Self::Io(kind),
        }
    }
}

/// Why a piece of work gives no value.
#[derive(Debug)]
pub(super) enum Fault {
    /// The database failed: everything in the transaction is lost.
    Storage(redb::Error),
    /// The work refuses; it has written nothing.
    Refused(LedgerError),
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Storage(error.into())
    }
}
