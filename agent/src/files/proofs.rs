//! Tables without blobs: a skeleton and the unpacked files prove one, whoever the skeleton comes from.
//!
//! A proof that fails names the files that differ from what its skeleton says. With their contents from
//! elsewhere it is made once more; if it holds then, the table is proved, and the compare with it finds
//! exactly these files. Until then nothing is said about the disk but that the proof failed.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::skeleton::{Differing, Failure, Plan, ProofError, Skeleton};
use holdfast_core::layer::{ExpectedTree, FileTable, Limits};
use tokio::time::Instant;

use super::open::RootError;
use super::skeletons::Skeletons;
use super::unpacked::Unpacked;
use super::{Root, tables::Layer};

/// A failed proof is made again after this time: every look asks for it, and it reads the whole layer.
const TRY_AGAIN: Duration = Duration::from_hours(1);

/// Contents that a proof is repeated with; more than a skeleton may carry inline is no small repair.
const MAX_CONTENT_BYTES: u64 = 256 << 20;

/// Failures that are remembered; all are forgotten when more come.
const MAX_FAILED: usize = 1024;

/// Why no skeleton gave a table.
#[derive(Clone, Debug)]
pub(super) enum NotProved {
    /// There is none.
    NoSkeleton,
    /// The snapshot's directory cannot be looked at.
    Directory(PathBuf, RootError),
    /// No proof held.
    Proof(Arc<ProofError>),
}

/// A proof that failed on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedProof {
    /// The skeleton's digest.
    pub skeleton: Digest,
    /// The contents that it can be repeated with and that are not here, with their lengths: none when all
    /// are here. `None` when nothing helps it.
    pub lacks: Option<Vec<(Digest, u64)>>,
}

/// Makes proofs, and remembers those that failed.
#[derive(Debug)]
pub(super) struct Proofs {
    pub(super) skeletons: Skeletons,
    failed: Mutex<HashMap<Asked, Failed>>,
}

/// A question: does this skeleton hold on this directory?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    skeleton: Digest,
    lower: PathBuf,
}

#[derive(Clone, Debug)]
struct Failed {
    diff_id: DiffId,
    error: Arc<ProofError>,
    /// Whether the contents that differ were at hand and did not help.
    was_repeated: bool,
    at: Instant,
}

impl Proofs {
    pub(super) fn new(skeletons: Skeletons) -> Self {
        Self {
            skeletons,
            failed: Mutex::default(),
        }
    }

    /// A layer's table from the first skeleton whose proof holds.
    pub(super) fn table(
        &self,
        layer: &Layer,
        parents: &[Arc<ExpectedTree>],
        limits: &Limits,
        is_over: &dyn Fn() -> bool,
    ) -> Result<FileTable, NotProved> {
        let mut why = NotProved::NoSkeleton;
        let Some(lower) = &layer.lower else {
            return Err(why);
        };
        for skeleton in self.skeletons.of(layer.diff_id) {
            let asked = Asked {
                skeleton: skeleton.digest(),
                lower: lower.clone(),
            };
            if let Some(error) = self.known(&asked) {
                why = why.or(NotProved::Proof(error));
                continue;
            }
            let root =
                Root::open(lower).map_err(|error| NotProved::Directory(lower.clone(), error))?;
            let mut attempt = Attempt {
                proofs: self,
                limits,
                parents,
                was_repeated: false,
            };
            match attempt.prove(&skeleton, Unpacked::new(&root, is_over)) {
                Ok(table) => return Ok(table),
                Err(error) => {
                    let failed = Failed {
                        diff_id: layer.diff_id,
                        error: Arc::new(error),
                        was_repeated: attempt.was_repeated,
                        at: Instant::now(),
                    };
                    why = why.or(NotProved::Proof(Arc::clone(&failed.error)));
                    self.remember(asked, failed);
                }
            }
        }
        Err(why)
    }

    fn known(&self, asked: &Asked) -> Option<Arc<ProofError>> {
        let failed = {
            let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get(asked).cloned()?
        };
        let is_due = failed.at.elapsed() >= TRY_AGAIN;
        let may_help = !failed.was_repeated
            && matches!(&*failed.error, ProofError::Failed(failure) if self.has_all(failure));
        (!is_due && !may_help).then_some(failed.error)
    }

    fn remember(&self, asked: Asked, failed: Failed) {
        if !matches!(*failed.error, ProofError::Stopped) {
            let mut known = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= MAX_FAILED {
                known.clear();
            }
            known.insert(asked, failed);
        }
    }

    /// The proofs that failed lately of skeletons of a layer.
    pub(super) fn failures(&self, diff_id: DiffId) -> Vec<FailedProof> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let of_layer = failed
            .iter()
            .filter(|(_, failed)| failed.diff_id == diff_id && failed.at.elapsed() < TRY_AGAIN);
        of_layer
            .map(|(asked, failed)| FailedProof {
                skeleton: asked.skeleton,
                lacks: self.lacks(failed),
            })
            .collect()
    }

    fn lacks(&self, failed: &Failed) -> Option<Vec<(Digest, u64)>> {
        let ProofError::Failed(failure) = &*failed.error else {
            return None;
        };
        if failed.was_repeated || !is_whole(failure) {
            return None;
        }
        let mut lacks = BTreeMap::new();
        for differing in &failure.differing {
            let digest = differing.digest?;
            if self.skeletons.content(digest).is_none() {
                lacks.insert(digest, differing.size);
            }
        }
        let total = lacks
            .values()
            .fold(0_u64, |sum, size| sum.saturating_add(*size));
        (total <= MAX_CONTENT_BYTES).then(|| lacks.into_iter().collect())
    }

    fn has_all(&self, failure: &Failure) -> bool {
        self.stand_ins(failure).is_some()
    }

    /// The contents of all files that differ; none while one of them is missing.
    fn stand_ins(&self, failure: &Failure) -> Option<HashMap<Vec<u8>, Digest>> {
        if !is_whole(failure) {
            return None;
        }
        let stand_in = |differing: &Differing| {
            let digest = differing.digest?;
            self.skeletons.content(digest)?;
            Some((differing.path.clone(), digest))
        };
        failure.differing.iter().map(stand_in).collect()
    }
}

/// Whether all files that differ are named.
fn is_whole(failure: &Failure) -> bool {
    let named = u64::try_from(failure.differing.len());
    !failure.differing.is_empty() && named.is_ok_and(|named| named == failure.total)
}

/// Proves a lowest layer once, on its directory alone: for measuring.
pub fn prove_over_nothing(skeleton: &Skeleton, root: &Root) -> Result<FileTable, ProofError> {
    let plan = Plan::of(skeleton, &[], &Limits::default())?;
    plan.prove(&mut Unpacked::new(root, &|| false))
}

/// One skeleton on one directory.
struct Attempt<'a> {
    proofs: &'a Proofs,
    limits: &'a Limits,
    parents: &'a [Arc<ExpectedTree>],
    was_repeated: bool,
}

impl Attempt<'_> {
    /// Proves, and once more with contents in place of the files that differ, where there are any.
    fn prove(
        &mut self,
        skeleton: &Skeleton,
        mut files: Unpacked<'_>,
    ) -> Result<FileTable, ProofError> {
        let plan = Plan::of(skeleton, self.parents, self.limits)?;
        let failure = match plan.prove(&mut files) {
            Err(ProofError::Failed(failure)) => failure,
            ended => return ended,
        };
        tracing::warn!(layer = %skeleton.diff_id(), %failure, "Proof failed.");
        let Some(stand_ins) = self.proofs.stand_ins(&failure) else {
            return Err(ProofError::Failed(failure));
        };
        self.was_repeated = true;
        plan.prove(&mut files.with(stand_ins, &self.proofs.skeletons))
    }
}

impl NotProved {
    /// The one that says more: what the disk says before what is wrong with a skeleton.
    fn or(self, other: Self) -> Self {
        match self {
            Self::Proof(error) if matches!(*error, ProofError::Failed(_)) => Self::Proof(error),
            _ => other,
        }
    }
}
