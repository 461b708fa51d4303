//! What stands in for layer blobs, for nodes that have none: skeletons that nodes give or that are made from a
//! registry's blob, and contents of files for proofs that failed. Handed on, never believed: the node
//! proves what it gets, and what it cannot prove changes nothing there but its own reason.
//!
//! ```text
//! node with a blob ──Offer, Give──▶ flights ──▶ shelf of skeletons ──Seek, Take──▶ node without
//!                registry's blob ──▶ origin ──▶ and of contents
//! ```
//! Every call is answered at once: what takes time is under way, and asked for again. A skeleton whose
//! proof fails on two nodes, or that names contents that the layer does not have, is dropped, and who gave
//! it is named.

mod flights;
mod origin;
mod shelf;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::skeleton::Skeleton;
use holdfast_daemon::capped;
use holdfast_protocol::{MAX_PIECE_BYTES, MAX_SKELETON_BYTES};
use jiff::Timestamp;
use serde::Serialize;
use tempfile::NamedTempFile;
use tokio::time::Instant;

use self::flights::{AFTER_REFUTATION, Flights, Landing};
pub use self::origin::{Origin, OriginTask};
use self::origin::{Standing, Task};
pub use self::shelf::Source;
use self::shelf::{Bounds, Card, Named, Shelf};
use crate::telemetry::{Dropped, LogLimit, Metrics, Read, Skeletons};

/// Skeletons that are kept: one a layer, some MB for the largest.
const SKELETONS: Bounds = Bounds {
    files: 20_000,
    bytes: 2 << 30,
};

/// Contents that are kept: what a few proofs lack.
const CONTENTS: Bounds = Bounds {
    files: 50_000,
    bytes: 1 << 30,
};

/// Nodes on which a proof has to fail before a skeleton is dropped: on one the disk may be to blame.
const NODES_TO_DROP: usize = 2;

/// Dropped skeletons that are remembered for people.
const MAX_TOLD: usize = 100;

/// Skeletons whose failures are remembered; all are forgotten when more fail.
const MAX_DOUBTED: usize = 10_000;

/// A layer, as a node names it. Whether its blob and diff ID are what they are said to be is checked while
/// the blob is read; the repositories only say where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its uncompressed digest.
    pub diff_id: DiffId,
    /// Its blob.
    pub blob: holdfast_registry::Blob,
    /// Where it may be.
    pub repositories: Vec<holdfast_core::reference::Repository>,
}

/// A skeleton, as it is offered or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkeletonName {
    /// The layer.
    pub layer: DiffId,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub length: u64,
}

/// What became of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A skeleton, to be taken.
    Skeleton(SkeletonName),
    /// All contents, to be taken.
    Contents,
    /// Ask again.
    UnderWay,
    /// It cannot be had now.
    Absent(String),
}

/// What is handed on. Clones share it.
#[derive(Clone, Debug)]
pub struct Relay {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    skeletons: Shelf,
    contents: Shelf,
    flights: Mutex<Flights>,
    /// Held while one is checked: it is whole in memory.
    checking: Mutex<()>,
    /// Nodes on which the proof of a skeleton failed.
    doubts: Mutex<HashMap<Digest, BTreeSet<String>>>,
    dropped: Mutex<VecDeque<DroppedSkeleton>>,
    drops: LogLimit,
    origin: Option<Origin>,
    metrics: Metrics,
}

/// A skeleton that turned out to be wrong, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DroppedSkeleton {
    /// The layer.
    pub diff_id: DiffId,
    /// What it was said to be.
    pub digest: Digest,
    /// The node that gave it.
    pub node: String,
    /// Why.
    pub reason: &'static str,
    /// Nodes on which its proof failed.
    pub failed_on: Vec<String>,
    /// By our clock.
    pub dropped_at: Timestamp,
}

impl Relay {
    /// What an earlier run has left in `folder`; with an origin, layers are read from registries.
    pub fn open(folder: &Path, origin: Option<Origin>, metrics: Metrics) -> io::Result<Self> {
        let skeletons = folder.join("skeletons");
        let contents = folder.join("contents");
        let relay = Self {
            parts: Arc::new(Parts {
                skeletons: Shelf::open(skeletons, Named::ByTrailer, SKELETONS)?,
                contents: Shelf::open(contents, Named::ByAll, CONTENTS)?,
                flights: Mutex::default(),
                checking: Mutex::default(),
                doubts: Mutex::default(),
                dropped: Mutex::default(),
                drops: LogLimit::default(),
                origin,
                metrics,
            }),
        };
        relay.measure();
        Ok(relay)
    }

    /// Which of the offered skeletons `node` is to give.
    pub fn offered(&self, node: &str, offers: &[SkeletonName]) -> Vec<Digest> {
        let now = Instant::now();
        let mut flights = self.flights();
        let mut wanted = Vec::new();
        for offer in offers {
            let offer = flights::Offer {
                layer: offer.layer,
                digest: offer.digest,
                length: offer.length,
            };
            let is_there = !self.parts.skeletons.of(offer.layer).is_empty();
            if !is_there && flights.begin(node, offer, now) {
                wanted.push(offer.digest);
            }
        }
        wanted
    }

    /// A piece of what `node` is to give; true when the next one is wanted. Blocks.
    pub fn given(&self, node: &str, digest: Digest, offset: u64, piece: &[u8]) -> io::Result<bool> {
        let now = Instant::now();
        let at = (offset, piece.len());
        let landing = self.flights().piece(node, digest, at, now);
        let (mut file, offer) = match landing {
            Landing::Unwanted => return Ok(false),
            Landing::Piece(file, offer) => (file, offer),
            Landing::First(offer) => {
                let card = Card {
                    layer: offer.layer,
                    source: Source::Node(node.to_owned()),
                };
                (self.parts.skeletons.begin(&card)?, offer)
            }
        };
        if let Err(error) = file.write_all(piece) {
            self.flights().end(offer.layer);
            return Err(error);
        }
        let Some(whole) = self.flights().keep(offer, file, piece.len()) else {
            return Ok(true);
        };
        let kept = self.keep(whole, offer);
        if let Ok(Given::Refused) = &kept {
            self.flights().fail(node, offer.layer, now);
            let of = (offer.layer, offer.digest);
            self.tell_dropped(of, node, Dropped::NoSkeleton, Vec::new());
        }
        self.flights().end(offer.layer);
        self.measure();
        kept.map(|_given| false)
    }

    /// Keeps what is a skeleton of the layer that was named.
    fn keep(&self, mut file: NamedTempFile, offer: flights::Offer) -> io::Result<Given> {
        use std::io::{BufRead as _, BufReader, Seek as _};
        let checking = self.parts.checking.lock();
        let _checking = checking.unwrap_or_else(PoisonError::into_inner);
        file.flush()?;
        file.rewind()?;
        let mut reader = BufReader::new(file.as_file());
        reader.skip_until(b'\n')?;
        let encoded = capped::read(reader, MAX_SKELETON_BYTES)?;
        let is_it = Skeleton::decode(encoded).is_ok_and(|skeleton| {
            skeleton.digest() == offer.digest && skeleton.diff_id() == offer.layer
        });
        if !is_it {
            return Ok(Given::Refused);
        }
        self.parts.skeletons.put(file, offer.digest)?;
        self.parts.metrics.skeletons_received.inc();
        Ok(Given::Kept)
    }

    /// A skeleton for `node`, on which those in `failed` were no help.
    ///
    /// 1. What failed is doubted, and dropped in the end.
    /// 2. One that is here, or is coming.
    /// 3. One from the registry.
    pub fn seek_skeleton(&self, node: &str, layer: &Layer, failed: &[Digest]) -> Found {
        // (1)
        for digest in failed {
            self.doubt(node, layer.diff_id, *digest);
        }
        // (2)
        let mut here = self.parts.skeletons.of(layer.diff_id);
        let is_ours = |source: &Source| *source == Source::Registry;
        let has_ours = here.iter().any(|found| is_ours(&found.source));
        here.retain(|found| !failed.contains(&found.digest));
        here.sort_by(|a, b| a.source.cmp(&b.source));
        if let Some(found) = here.first() {
            return Found::Skeleton(SkeletonName {
                layer: layer.diff_id,
                digest: found.digest,
                length: found.length,
            });
        }
        if self.flights().is_coming(layer.diff_id, Instant::now()) {
            return Found::UnderWay;
        }
        // (3)
        if has_ours {
            return Found::Absent("the skeleton of the registry's blob failed too".to_owned());
        }
        let standing = match &self.parts.origin {
            None => return Found::Absent("no node has offered a skeleton".to_owned()),
            Some(origin) => origin.ask(node, layer, Task::Skeleton),
        };
        found(standing)
    }

    /// Contents for `node`, where the proof of `skeleton` failed.
    pub fn seek_contents(&self, node: &str, layer: &Layer, wanted: BTreeMap<Digest, u64>) -> Found {
        let contents = &self.parts.contents;
        if wanted
            .iter()
            .all(|(digest, length)| contents.has(*digest, *length))
        {
            return Found::Contents;
        }
        match &self.parts.origin {
            None => Found::Absent("the collector reads no registry".to_owned()),
            Some(origin) => found(origin.ask(node, layer, Task::Contents(wanted))),
        }
    }

    /// A piece of a skeleton; `None` when there is none any more. Blocks.
    pub fn skeleton(&self, digest: Digest, offset: u64) -> io::Result<Option<Vec<u8>>> {
        self.parts.skeletons.piece(digest, offset, MAX_PIECE_BYTES)
    }

    /// A piece of a content. Blocks.
    pub fn content(&self, digest: Digest, offset: u64) -> io::Result<Option<Vec<u8>>> {
        self.parts.contents.piece(digest, offset, MAX_PIECE_BYTES)
    }

    /// The proof of a skeleton failed on a node.
    fn doubt(&self, node: &str, layer: DiffId, digest: Digest) {
        let here = self.parts.skeletons.of(layer);
        let Some(found) = here.into_iter().find(|found| found.digest == digest) else {
            return;
        };
        // Ours was made from the blob: it is the disk that differs.
        let Source::Node(source) = found.source else {
            return;
        };
        let mut doubts = self
            .parts
            .doubts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if doubts.len() >= MAX_DOUBTED {
            doubts.clear();
        }
        let nodes = doubts.entry(digest).or_default();
        nodes.insert(node.to_owned());
        if nodes.len() < NODES_TO_DROP {
            return;
        }
        let nodes = doubts.remove(&digest).unwrap_or_default();
        drop(doubts);
        if let Err(error) = self.parts.skeletons.remove(digest) {
            tracing::warn!(%layer, %error, "Skeleton cannot be removed.");
        }
        // It is not asked for another one of this layer.
        let until = Instant::now().checked_add(AFTER_REFUTATION);
        self.flights().bar(&source, layer, until);
        let nodes = nodes.into_iter().collect();
        self.tell_dropped((layer, digest), &source, Dropped::ProofFailed, nodes);
        self.measure();
    }

    /// Names who gave a skeleton that was wrong.
    fn tell_dropped(
        &self,
        (diff_id, digest): (DiffId, Digest),
        node: &str,
        why: Dropped,
        failed_on: Vec<String>,
    ) {
        self.parts.metrics.skeletons_dropped(why);
        let reason = why.as_str();
        if let Some(held_back) = self.parts.drops.pass(Instant::now()) {
            tracing::warn!(layer = %diff_id, %node, reason, ?failed_on, held_back, "Skeleton is dropped.");
        }
        let mut dropped = self.told();
        dropped.truncate(MAX_TOLD.saturating_sub(1));
        dropped.push_front(DroppedSkeleton {
            diff_id,
            digest,
            node: node.to_owned(),
            reason,
            failed_on,
            dropped_at: Timestamp::now(),
        });
    }

    /// The skeletons that were dropped last, the latest first.
    pub fn dropped(&self) -> Vec<DroppedSkeleton> {
        self.told().iter().cloned().collect()
    }

    fn told(&self) -> MutexGuard<'_, VecDeque<DroppedSkeleton>> {
        let dropped = self.parts.dropped.lock();
        dropped.unwrap_or_else(PoisonError::into_inner)
    }

    /// A registry was asked for a layer.
    fn read_ended(&self, outcome: Read) {
        self.parts.metrics.registry_read(outcome);
    }

    fn measure(&self) {
        let (files, bytes) = self.parts.skeletons.size();
        self.parts.metrics.skeletons(Skeletons {
            files: i64::try_from(files).unwrap_or(i64::MAX),
            bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
        });
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.parts
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of something that was given.
enum Given {
    Kept,
    Refused,
}

fn found(standing: Standing) -> Found {
    match standing {
        Standing::UnderWay => Found::UnderWay,
        Standing::Failed(reason) => Found::Absent(reason),
    }
}
