//! What is on the disk against what the image says: the scan of a container's upper directory and the whole
//! compare of one unpacked layer. Blocking code for a worker thread; it starts nothing by itself.
//!
//! ```text
//! open (never out of the root, never a device) ─▶ walk ─▶ observe (one path → entry) ─┬─▶ upper ─▶ changes of a container
//!                                                                                     └─▶ lower ─▶ tampering of a layer
//! ```
//! Whatever could not be read is [`Unverified`], by name: never clean, never left out.

pub mod asks;
mod atomic;
mod book;
pub mod budget;
mod bytecode;
mod expected;
pub mod fetch;
pub mod fetches;
mod follow;
mod genuine;
mod hidden;
pub mod history;
pub mod keep;
mod known;
pub mod last_run;
pub mod layers;
pub mod lower;
mod new;
pub mod newest;
pub mod observe;
pub mod open;
mod origin;
pub mod pressure;
mod proofs;
pub mod reading;
mod refusals;
pub mod skeletons;
pub mod tables;
mod unpacked;
pub mod upper;
mod walk;

use holdfast_core::drift::group::Changes;
use holdfast_core::finding::Severity;
use holdfast_core::layer::TreeError;
use jiff::Timestamp;
use rustix::io::Errno;

pub use observe::Observer;
pub use open::{Root, RootError};
pub use proofs::prove_over_nothing;
pub use upper::{Extent, Upper, UpperScan};

/// Entries of one walk (DESIGN section 10).
pub const MAX_ENTRIES: u64 = 10_000_000;

/// A file read for a verdict (DESIGN section 10).
pub const MAX_FILE_BYTES: u64 = 16 << 30;

/// How one pass is to be made.
#[derive(Clone, Copy)]
pub struct Pass<'a> {
    /// The time at its start.
    pub now: Timestamp,
    /// What is hashed although nothing about it seems to have changed.
    pub rehash: Rehash,
    /// Entries after which the walk is given up; [`MAX_ENTRIES`] outside tests.
    pub max_entries: u64,
    /// Bytes after which no further file is begun: the others are said and wait for the next pass.
    pub budget: u64,
    /// Asked now and then: true once there is no more time.
    pub is_over: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Pass<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass")
            .field("now", &self.now)
            .field("rehash", &self.rehash)
            .finish_non_exhaustive()
    }
}

/// What is hashed although nothing about it seems to have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rehash {
    /// What was hashed last more than ten minutes ago.
    Due,
    /// Everything.
    All,
}

/// Which changes a scan keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keeps {
    /// What findings list: the worst of each kind, in little memory.
    #[default]
    Findings,
    /// All of them, also those that are not worth a finding: for a person who asks.
    Everything,
}

impl Keeps {
    fn changes(self) -> Changes {
        match self {
            Self::Findings => Changes::default(),
            Self::Everything => Changes::listing_every(),
        }
    }
}

/// What one pass found.
#[derive(Debug, Default)]
pub struct ScanOutcome {
    /// What differs.
    pub changes: Changes,
    /// Of an unpacked layer: what a power cut has left without content.
    pub corrupt: Changes,
    /// What could not be looked at.
    pub unverifiable: Unverified,
    /// Entries seen.
    pub entries: u64,
    /// Bytes that went through SHA-256.
    pub bytes_hashed: u64,
}

impl ScanOutcome {
    /// Two directories of one container as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.unverifiable.join(other.unverifiable);
        self.entries = self.entries.saturating_add(other.entries);
        self.bytes_hashed = self.bytes_hashed.saturating_add(other.bytes_hashed);
        Self {
            changes: self.changes.and(other.changes),
            ..self
        }
    }
}

/// Paths that could not be looked at: the first of them, and how many there are.
#[derive(Debug, Default)]
pub struct Unverified {
    /// The first ones, with the reason of each.
    pub listed: Vec<(Vec<u8>, Unread)>,
    /// How many there are.
    pub total: u64,
    /// How bad the worst of them is: whoever writes a file all the time may not get away with less than for
    /// having written it.
    pub worst: Option<Severity>,
}

impl Unverified {
    /// How many are listed; the rest is counted.
    const MAX_LISTED: usize = 1_000;

    fn push(&mut self, path: &[u8], reason: Unread) {
        self.push_at(path, reason, Severity::Warning);
    }

    /// The worst one is listed first.
    fn push_at(&mut self, path: &[u8], reason: Unread, severity: Severity) {
        self.total = self.total.saturating_add(1);
        if self.worst < Some(severity) {
            self.worst = Some(severity);
            self.listed.truncate(Self::MAX_LISTED.saturating_sub(1));
            self.listed.insert(0, (path.to_vec(), reason));
        } else if self.listed.len() < Self::MAX_LISTED {
            self.listed.push((path.to_vec(), reason));
        }
    }

    fn join(&mut self, other: Self) {
        self.total = self.total.saturating_add(other.total);
        self.worst = self.worst.max(other.worst);
        self.listed.extend(other.listed);
        self.listed.truncate(Self::MAX_LISTED);
    }

    /// Whether everything was looked at.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }
}

/// Why a path could not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unread {
    /// It was another after each of two readings.
    #[error("it changes while it is read")]
    Changing,
    /// So much was read in this pass that it is read in a later one.
    #[error("too much to read in one look; it is read in a later one")]
    Postponed,
    /// Somebody holds a lease on it, and whoever opens it would wait.
    #[error("somebody holds a lease on it")]
    Leased,
    /// The file is longer than what is read for a verdict.
    #[error("file is longer than {MAX_FILE_BYTES} bytes")]
    FileLength,
    /// More extended attributes than are read.
    #[error("too many extended attributes")]
    Xattrs,
    /// The path is longer than any that can be opened.
    #[error("path is longer than 4096 bytes")]
    PathLength,
    /// A directory holds more names than fit in memory.
    #[error("too many names in one directory")]
    Names,
    /// Another file system or another part of one lies over it: what is below belongs to nobody's image.
    #[error("something is mounted over it")]
    Mounted,
    /// The walk was given up here: too many entries.
    #[error("too many entries")]
    Entries,
    /// The walk was given up here: no time left.
    #[error("no time left")]
    Deadline,
    /// The kernel said no.
    #[error("{call}: {errno}")]
    Refused {
        /// Which call.
        call: &'static str,
        /// What it said.
        errno: Errno,
    },
}

impl Unread {
    /// The name in findings and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changing => "changing",
            Self::Postponed => "postponed",
            Self::Leased => "leased",
            Self::FileLength => "file-length",
            Self::Xattrs => "xattrs",
            Self::PathLength => "path-length",
            Self::Names => "names",
            Self::Mounted => "mounted",
            Self::Entries => "entries",
            Self::Deadline => "deadline",
            Self::Refused { .. } => "refused",
        }
    }

    fn is_gone(self) -> bool {
        matches!(self, Self::Refused { errno, .. } if errno == Errno::NOENT)
    }

    const fn refused(call: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::XDEV => Self::Mounted,
            Errno::AGAIN => Self::Leased,
            Errno::NAMETOOLONG => Self::PathLength,
            errno => Self::Refused { call, errno },
        }
    }
}

/// Why a whole pass could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The expected tree gives no answer.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
