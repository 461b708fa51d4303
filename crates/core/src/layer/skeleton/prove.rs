//! The proof: a skeleton's structure and the files that a node has unpacked, in the archive's order,
//! through SHA-256. When the result is the diff ID, the same bytes have gone through the ordinary table
//! builder, so the table is the one that the blob gives.
//!
//! A proof is about the table and never about the disk, which is compared with the table afterwards. A proof
//! that fails says nothing but that: files may have been tampered with, or the skeleton is wrong. The
//! digests that a skeleton carries then say which contents to ask for; with those in place of the files
//! the proof is made again, and if it holds now, the table is proved all the same.

use std::collections::HashSet;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use crate::digest::{DiffId, Digest};
use crate::display;
use crate::layer::codec::wide;
use crate::layer::skeleton::archive::{Archive, Giver};
use crate::layer::skeleton::plan::{Place, Plan};
use crate::layer::table::{Builder, Contents as Of};
use crate::layer::{Damage, FileTable, PlaceError, TableError};

/// Files that a failed proof names; with more it is not repeated: a node that lost so much is not told
/// apart from a skeleton of another layer.
const MAX_DIFFERING: usize = 10_000;

/// Files are read in pieces of this length when they are looked at one by one.
const PIECE: usize = 128 << 10;

/// The contents of a layer's files, where its snapshot keeps them. Never follows a link and never blocks.
pub trait Contents {
    /// Opens the file at `path`, which must have `size` bytes, in place of the one before. Gives its inode
    /// when it has other names too.
    fn open(&mut self, path: &[u8], size: u64) -> Result<Option<Inode>, Unfit>;

    /// Reads from the open file; nothing where it ends.
    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Unfit>;
}

/// A file on the disk, whatever its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inode {
    /// The device.
    pub device: u64,
    /// The number on it.
    pub number: u64,
}

/// Why a file does not give the content that the layer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is nothing.
    #[error("missing")]
    Missing,
    /// There is something else.
    #[error("no regular file")]
    NotAFile,
    /// It is longer or shorter.
    #[error("of another size")]
    Size,
    /// It is the same file as another one that the layer has apart.
    #[error("a hard link to another file")]
    Reused,
    /// It has other bytes.
    #[error("other content")]
    Content,
    /// It could not be read.
    #[error("could not be read")]
    Unread,
    /// Nobody waits for the proof any more.
    #[error("no time left")]
    Stopped,
}

/// Why there is no table.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The skeleton's archive is refused.
    #[error("skeleton: {0}")]
    Archive(#[from] TableError),
    /// The skeleton's archive is larger than a layer may be.
    #[error("skeleton of an archive of more than {0} bytes")]
    TooLarge(u64),
    /// No snapshotter could have unpacked it here.
    #[error("skeleton cannot be placed: {0}")]
    Unplaceable(#[from] PlaceError),
    /// A content that the layer hides is not in the skeleton.
    #[error("not reassemblable: the content of {} is not inline", display::path(.0))]
    NotReassemblable(Vec<u8>),
    /// Nobody waits for it any more.
    #[error("the proof was stopped")]
    Stopped,
    /// The files on the disk and this skeleton are not the layer.
    #[error("proof failed: {0}")]
    Failed(Failure),
}

impl ProofError {
    /// The reason's name in findings.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Failed(_) => "proof-failed",
            Self::NotReassemblable(_) => "not-reassemblable",
            Self::Stopped => "deadline",
            Self::Archive(_) | Self::TooLarge(_) | Self::Unplaceable(_) => "skeleton-refused",
        }
    }
}

impl From<Damage> for ProofError {
    fn from(damage: Damage) -> Self {
        Self::Unplaceable(damage.into())
    }
}

/// What is known about a proof that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The layer.
    pub expected: DiffId,
    /// Files that differ from what the skeleton says of them, the first of them. A lead and no proof.
    pub differing: Vec<Differing>,
    /// How many there are.
    pub total: u64,
}

/// A file that differs from what a skeleton says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// Where it is in the snapshot.
    pub path: Vec<u8>,
    /// How long its content is in the layer.
    pub size: u64,
    /// The digest of its content in the layer, when the skeleton says so.
    pub digest: Option<Digest>,
    /// How it differs.
    pub unfit: Unfit,
}

/// Paths named in a sentence.
const MAX_NAMED: usize = 5;

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.differing.is_empty() {
            return write!(f, "{} is not what comes out", self.expected);
        }
        let named = self.differing.iter().take(MAX_NAMED);
        let named = named.map(|file| format!("{} ({})", display::path(&file.path), file.unfit));
        let named: Vec<String> = named.collect();
        write!(f, "{}", named.join(", "))?;
        match self.total.saturating_sub(wide(named.len())) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Plan<'_> {
    /// Makes the table, from the skeleton and the contents.
    pub fn prove(&self, contents: &mut impl Contents) -> Result<FileTable, ProofError> {
        match self.reassemble(contents)? {
            Some(table) => Ok(table),
            None => Err(self.why_not(contents)),
        }
    }

    /// 1. Structure and contents, in the archive's order, go through SHA-256 and the table builder.
    /// 2. The result is the diff ID.
    fn reassemble(&self, contents: &mut impl Contents) -> Result<Option<FileTable>, ProofError> {
        // (1)
        let giver = Files::new(self, contents).map_err(TableError::Io)?;
        let mut archive = Archive::open(self.skeleton, &self.limits, giver)?;
        let mut builder = Builder::new(self.limits.table_bytes, Of::Hashed);
        let read = archive.read_with(&mut builder, &self.limits);
        let files = archive.into_giver();
        match (files.unfit, read) {
            (Some(Unfit::Stopped), _) => return Err(ProofError::Stopped),
            (Some(_), _) => return Ok(None),
            (None, read) => read?,
        }
        // (2)
        let actual = DiffId(Digest::from_sha256(files.sha256.finalize().into()));
        let is_right = actual == self.skeleton.diff_id();
        Ok(is_right.then(|| builder.finish(actual)))
    }

    /// Which files differ from what the skeleton says of them, each looked at by itself.
    fn why_not(&self, contents: &mut impl Contents) -> ProofError {
        let mut failure = Failure {
            expected: self.skeleton.diff_id(),
            differing: Vec::new(),
            total: 0,
        };
        let mut seen = HashSet::new();
        let mut piece = vec![0; PIECE];
        for place in self.files.values() {
            let Place::Disk { path, size, digest } = place else {
                continue;
            };
            let fits = open_once(contents, &mut seen, path, *size).and_then(|()| match digest {
                Some(digest) => is_content(contents, *size, *digest, &mut piece),
                None => Ok(()),
            });
            match fits {
                Ok(()) => {}
                Err(Unfit::Stopped) => return ProofError::Stopped,
                Err(unfit) => failure.push(Differing {
                    path: path.clone(),
                    size: *size,
                    digest: *digest,
                    unfit,
                }),
            }
        }
        ProofError::Failed(failure)
    }
}

impl Failure {
    fn push(&mut self, differing: Differing) {
        self.total = self.total.saturating_add(1);
        if self.differing.len() < MAX_DIFFERING {
            self.differing.push(differing);
        }
    }
}

/// Opens a file that was not opened before under another name: a skeleton that names one large file again
/// and again ends here.
fn open_once(
    contents: &mut impl Contents,
    seen: &mut HashSet<Inode>,
    path: &[u8],
    size: u64,
) -> Result<(), Unfit> {
    match contents.open(path, size)? {
        Some(inode) if !seen.insert(inode) => Err(Unfit::Reused),
        _ => Ok(()),
    }
}

/// Whether the open file has the content with this digest.
fn is_content(
    contents: &mut impl Contents,
    size: u64,
    digest: Digest,
    piece: &mut [u8],
) -> Result<(), Unfit> {
    let (mut sha256, mut offset) = (Sha256::new(), 0_u64);
    while offset < size {
        let length = contents.read_at(piece, offset)?;
        if length == 0 {
            return Err(Unfit::Size);
        }
        sha256.update(piece.get(..length).unwrap_or_default());
        offset = offset.saturating_add(wide(length));
    }
    if Digest::from_sha256(sha256.finalize().into()) == digest {
        Ok(())
    } else {
        Err(Unfit::Content)
    }
}

/// Gives each content from where the plan says, and hashes the archive.
struct Files<'a, C> {
    plan: &'a Plan<'a>,
    contents: &'a mut C,
    inline: Box<dyn Read + 'a>,
    /// Inline contents that were not reached yet.
    ahead: std::slice::Iter<'a, (u64, u64)>,
    open: Option<u64>,
    is_inline: bool,
    offset: u64,
    seen: HashSet<Inode>,
    unfit: Option<Unfit>,
    sha256: Sha256,
}

impl<'a, C: Contents> Files<'a, C> {
    fn new(plan: &'a Plan<'a>, contents: &'a mut C) -> io::Result<Self> {
        Ok(Self {
            plan,
            contents,
            inline: Box::new(plan.skeleton.inline()?),
            ahead: plan.skeleton.index().iter(),
            open: None,
            is_inline: false,
            offset: 0,
            seen: HashSet::new(),
            unfit: None,
            sha256: Sha256::new(),
        })
    }
}

impl<C: Contents> Files<'_, C> {
    /// Steps over inline contents up to that of `entry`.
    fn seek_inline(&mut self, entry: u64) -> io::Result<()> {
        for (next, length) in self.ahead.by_ref() {
            if *next == entry {
                return Ok(());
            }
            io::copy(&mut self.inline.by_ref().take(*length), &mut io::sink())?;
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn unfit(&mut self, unfit: Unfit) -> io::Error {
        self.unfit = Some(unfit);
        io::Error::other(unfit)
    }
}

impl<C: Contents> Giver for Files<'_, C> {
    fn open(&mut self, entry: u64, offset: u64, _length: u64) -> io::Result<()> {
        self.offset = offset;
        if self.open == Some(entry) {
            return Ok(());
        }
        self.open = Some(entry);
        match self.plan.files.get(&entry) {
            Some(Place::Disk { path, size, .. }) => {
                self.is_inline = false;
                open_once(self.contents, &mut self.seen, path, *size)
                    .map_err(|unfit| self.unfit(unfit))
            }
            Some(Place::Inline) => {
                self.is_inline = true;
                self.seek_inline(entry)
            }
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn give(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.is_inline {
            return self.inline.read(buf);
        }
        let read = self.contents.read_at(buf, self.offset);
        match read {
            Ok(0) => Err(self.unfit(Unfit::Size)),
            Ok(length) => {
                self.offset = self.offset.saturating_add(wide(length));
                Ok(length)
            }
            Err(unfit) => Err(self.unfit(unfit)),
        }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
    }
}
