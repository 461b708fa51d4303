//! The life of findings over the fleet: joins batches of records into places, and places into findings.
//!
//! Runs inside one transaction of the store, so that "stored" and "seen as a repeat" can never differ.
//! It reads no clock and sends nothing.
//!
//! 1. A record at or below the last sequence of its spool is a repeat, and nothing happens.
//! 2. A record's transition goes into history and moves its place.
//! 3. A finding is open while one of its places is; its severity is that of the worst.
//! 4. A new digest, a new path or a higher severity on an open finding is *news*.

mod brief;
mod life;
mod members;
mod places;

use std::collections::{BTreeMap, BTreeSet};

use holdfast_core::container::ContainerKey;
use holdfast_core::coverage::ContainerStatus;
use holdfast_core::finding::{Finding, Fingerprint};
use jiff::Timestamp;

pub use self::brief::Brief;
use self::places::Moves;
use crate::store::{StoreError, Tx};

/// Records of one spool, in the order of their sequences.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The node, from its certificate.
    pub node: String,
    /// The spool; [`OWN_EPOCH`](crate::store::OWN_EPOCH) for what the collector says itself, whose records are numbered here.
    pub epoch: u64,
    /// The records.
    pub records: Vec<Record>,
}

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number in its spool.
    pub sequence: u64,
    /// What it says.
    pub body: Body,
}

/// What a record says.
#[derive(Clone, Debug)]
pub enum Body {
    /// A transition, with its document as it came.
    Finding(Box<Finding>, String),
    /// The state of a container, with its document as it came.
    Container(Box<ContainerStatus>, String),
    /// Everything that is open on the node.
    Full(FullReport),
    /// Refused at the door: it only moves the sequence on.
    Refused,
}

/// A part of everything that is open on a node.
#[derive(Clone, Debug, Default)]
pub struct FullReport {
    /// What is open on each of these containers.
    pub open: BTreeMap<ContainerKey, Vec<Fingerprint>>,
    /// In the last part.
    pub census: Option<Census>,
}

/// Which containers a node has.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Those that run.
    pub running: BTreeSet<ContainerKey>,
    /// Others on which something may be open.
    pub known: BTreeSet<ContainerKey>,
}

/// What became of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Everything of the batch's spool up to this is stored.
    pub confirmed: u64,
    /// Records that were new.
    pub stored: u64,
    /// Transitions among the new ones.
    pub transitions: u64,
    /// Records that we had.
    pub repeated: u64,
    /// The last part of a full report was among them.
    pub has_full_report: bool,
    /// Places of a full report that we do not know.
    pub unknown_places: u64,
}

/// Applies batches in one transaction, which the caller commits.
pub async fn apply(
    tx: &mut Tx<'_>,
    batches: &[&Batch],
    now: Timestamp,
) -> Result<Vec<Applied>, StoreError> {
    let mut moves = Moves::begin(tx, batches, now.as_millisecond()).await?;
    let mut applied = Vec::with_capacity(batches.len());
    for batch in batches {
        applied.push(moves.batch(batch).await?);
    }
    moves.finish().await?;
    Ok(applied)
}

/// At most `limit` bytes of a text, cut between characters.
pub fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit)).unwrap_or(text)
}
