//! The witness: the next sequence, written beside the database after each commit.
//!
//! redb keeps its last two commits. When the pages of the newer one are damaged it goes back to the
//! older one, silently. What is worse than the records lost: their sequences would be given to other
//! records, which the collector would take for repeats and drop. The witness tells how far the sequence
//! had come, so that the loss is counted and no sequence is given twice.
//!
//! It is not synced, because it only has to outlive the process: without it, or with one that is behind
//! or damaged, the database is believed. It must never be a reason not to start or not to commit.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::file;
use crate::state::{seal, unseal};

const FILE_NAME: &str = "ledger.witness";

/// The checksum covers this too, so that another file of ours is no witness.
const CONTEXT: &[u8] = b"holdfast ledger witness 1";

/// Checksum, epoch, next sequence.
const BYTES: usize = 4 + 8 + 8;

#[derive(Debug)]
pub(super) struct Witness(Option<File>);

/// What the witness says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Testimony {
    pub(super) epoch: u64,
    pub(super) next_sequence: u64,
}

impl Witness {
    pub(super) fn open(directory: &Path) -> Self {
        let file = file::open_beside(&directory.join(FILE_NAME));
        if let Err(error) = &file {
            tracing::warn!(%error, "Ledger has no witness.");
        }
        Self(file.ok())
    }

    pub(super) fn read(&self) -> Option<Testimony> {
        let mut bytes = [0; BYTES];
        self.0.as_ref()?.read_exact_at(&mut bytes, 0).ok()?;
        let (epoch, rest) = unseal(CONTEXT, &bytes)?.split_first_chunk()?;
        Some(Testimony {
            epoch: u64::from_le_bytes(*epoch),
            next_sequence: u64::from_le_bytes(*rest.first_chunk()?),
        })
    }

    pub(super) fn write(&mut self, testimony: Testimony) {
        let Some(file) = &self.0 else { return };
        let content = [
            testimony.epoch.to_le_bytes(),
            testimony.next_sequence.to_le_bytes(),
        ];
        let bytes = seal(CONTEXT, content.as_flattened());
        if let Err(error) = file.write_all_at(&bytes, 0) {
            tracing::warn!(%error, "Ledger's witness could not be written.");
            self.0 = None;
        }
    }
}
