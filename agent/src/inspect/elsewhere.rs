//! What is asked for when a layer's blob is not on the node and nothing here stands in for it: the
//! collector first, which hands on what proves itself and costs one registry a read for the whole fleet;
//! then, where it may, the registry.
//!
//! Nobody waits here: a later look finds what came. An answer that does not come is a reason beside the
//! verdict, and no verdict.

use std::fmt;
use std::sync::OnceLock;

use holdfast_registry::Blob;

use crate::files::asks::{Ask, AskProgress, Asks, Need};
use crate::files::fetch::Remote;
use crate::files::fetches::{FetchProgress, Fetches};
use crate::files::tables::{FailedProof, Tables, Unavailable};
use crate::runtime::identify::Identity;

/// Skeletons of one layer that are tried on this node within an hour: each costs a pass over its files, and
/// whoever sends bad ones must not keep the disk busy.
const MAX_TRIED: usize = 4;

/// Whom to ask.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    collector: OnceLock<Asks>,
    registry: OnceLock<Fetches>,
}

/// How it stands with what was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    collector: Option<AskProgress>,
    registry: Option<FetchProgress>,
}

impl Asked {
    /// Whether the blob was had, and is what cannot be modelled.
    pub(super) fn is_images_fault(&self) -> bool {
        let registry = self.registry.as_ref();
        registry.is_some_and(FetchProgress::is_images_fault)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let collector = self.collector.iter().map(ToString::to_string);
        let all: Vec<String> = collector
            .chain(self.registry.iter().map(ToString::to_string))
            .collect();
        f.write_str(&all.join("; "))
    }
}

impl Elsewhere {
    /// From now on the collector is asked.
    pub(super) fn ask_collector(&self, asks: Asks) {
        self.collector.get_or_init(|| asks);
    }

    /// From now on blobs are fetched.
    pub(super) fn ask_registry(&self, fetches: Fetches) {
        self.registry.get_or_init(|| fetches);
    }

    /// Asks for what would help; `None` when nobody is to be asked, or nothing helps.
    pub(super) fn ask(
        &self,
        tables: &Tables,
        unavailable: &Unavailable,
        identity: &Identity,
    ) -> Option<Asked> {
        let diff_id = unavailable.without_blob()?;
        let layer = identity
            .layers
            .iter()
            .find(|layer| layer.diff_id == diff_id)?;
        let reference = identity.reference.iter();
        let remote = Remote {
            diff_id,
            blob: Blob {
                digest: layer.blob.digest,
                size: layer.blob.size,
            },
            repositories: reference.map(|name| name.repository().clone()).collect(),
        };
        let collector = self
            .collector
            .get()
            .map(|asks| ask_collector(asks, &tables.failures(diff_id), &remote));
        let is_waiting = matches!(collector, Some(AskProgress::UnderWay));
        let registry = self.registry.get().filter(|_| !is_waiting);
        let registry = registry.map(|fetches| fetches.ask(remote));
        let is_any = collector.is_some() || registry.is_some();
        is_any.then_some(Asked {
            collector,
            registry,
        })
    }
}

/// 1. Contents that make a failed proof hold: they name what was tampered with.
/// 2. Another skeleton than those that failed.
fn ask_collector(asks: &Asks, failures: &[FailedProof], layer: &Remote) -> AskProgress {
    let mut last = None;
    // (1)
    for failure in failures {
        let contents = match &failure.lacks {
            None => continue,
            // All of them came since: the next look repeats the proof.
            Some(lacks) if lacks.is_empty() => return AskProgress::UnderWay,
            Some(lacks) => lacks.clone(),
        };
        let ask = Ask {
            layer: layer.clone(),
            need: Need::Contents {
                skeleton: failure.skeleton,
                contents,
            },
        };
        match asks.ask(ask) {
            AskProgress::UnderWay => return AskProgress::UnderWay,
            failed @ AskProgress::Failed(_) => last = Some(failed),
        }
    }
    // (2)
    let failed: Vec<_> = failures.iter().map(|failure| failure.skeleton).collect();
    let ask = Ask {
        layer: layer.clone(),
        need: Need::Skeleton { failed },
    };
    match last {
        Some(last) if failures.len() >= MAX_TRIED => last,
        last => match (asks.ask(ask), last) {
            // Why the contents cannot be had says more.
            (AskProgress::Failed(_), Some(last)) => last,
            (progress, _) => progress,
        },
    }
}
