//! Which image a chain of layers belongs to. Pure.
//!
//! Several images can share a chain ID: same layers, another entry point. **A name may choose among
//! candidates, never add one.** And a name that disagrees with the layers is either a tag that moved or
//! a root that was swapped; the difference is a page at night, so the rule is short and here.

use std::sync::Arc;

use holdfast_core::digest::{ChainId, Digest};
use holdfast_core::image::Image;
use jiff::Timestamp;

use super::candidates::Summary;

/// What is known about the image of one container.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    /// The chain that the container's snapshot stands on.
    pub chain: ChainId,
    /// Every image, in the store and in our own state, whose layers give the chain.
    pub candidates: &'a [Arc<Image>],
    /// What CRI resolved the image to.
    pub image_ref: ImageRefWitness,
    /// What the record's name means now.
    pub named: &'a Named,
    /// What the name meant at first sight.
    pub first_target: Option<Digest>,
    /// Whether name and chain were once seen to agree.
    pub has_agreed: bool,
    /// When the container was made.
    pub created_at: Option<Timestamp>,
    /// The host's architecture as images spell it.
    pub architecture: &'a str,
}

/// What CRI's `ImageRef` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageRefWitness {
    /// Not a container of CRI.
    None,
    /// A config, and the chain that its diff IDs give.
    Config {
        /// Its digest.
        digest: Digest,
        /// The chain.
        chain: Option<ChainId>,
    },
    /// A config that is neither in the store nor in our state.
    Missing {
        /// Its digest.
        digest: Digest,
    },
}

/// What the name of a container's record means now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The record has no name.
    NoName,
    /// The store does not have the name.
    Unknown,
    /// The name resolves.
    Target {
        /// To this.
        target: Digest,
        /// When the name was last changed.
        updated_at: Option<Timestamp>,
        /// The images below it that are in the store.
        summaries: Vec<Summary>,
    },
}

/// What the name is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameVerdict {
    /// It names what runs.
    Agrees,
    /// There is no name, or its documents are not there.
    NotCompared,
    /// It was moved to another image.
    Moved {
        /// What it means now.
        target: Digest,
    },
    /// The root is not the image that the records name.
    Mismatch {
        /// The record that disagrees.
        witness: &'static str,
        /// What it says.
        says: Digest,
    },
}

/// Judges the record's name against the chain.
///
/// 1. CRI's `ImageRef` was fixed when the container was made: if it disagrees, the root was swapped.
/// 2. A name that agrees with the chain is fine, unless it now means a twin with the same layers.
/// 3. A name that disagrees has moved if it was changed after the container was made, or if we saw them
///    agree before.
/// 4. Else nothing explains the disagreement: the root was swapped.
pub fn judge_name(question: &Question<'_>, selected: Option<&Image>) -> NameVerdict {
    // (1)
    if let ImageRefWitness::Config { digest, chain } = question.image_ref
        && chain != Some(question.chain)
    {
        return NameVerdict::Mismatch {
            witness: "image-ref",
            says: digest,
        };
    }
    let Named::Target {
        target,
        updated_at,
        summaries,
    } = question.named
    else {
        return NameVerdict::NotCompared;
    };
    if summaries.is_empty() {
        return NameVerdict::NotCompared;
    }
    let moved = NameVerdict::Moved { target: *target };
    // (2)
    if summaries
        .iter()
        .any(|each| each.chain == Some(question.chain))
    {
        let is_twin = selected.is_some_and(|image| {
            summaries
                .iter()
                .all(|each| each.config != image.config_digest())
        });
        return if is_twin { moved } else { NameVerdict::Agrees };
    }
    // (3)
    let is_changed_since = match (updated_at, question.created_at) {
        (Some(updated), Some(created)) => *updated > created,
        _ => false,
    };
    if is_changed_since || question.has_agreed {
        return moved;
    }
    // (4)
    NameVerdict::Mismatch {
        witness: "image-name",
        says: *target,
    }
}

/// The images that the container can be, best first: one if it is certain, none if nothing fits.
///
/// `ImageRef` selects; else the target that the name had at first sight; else its target now. Among what
/// is left, images for this host's architecture count before others.
pub fn select(question: &Question<'_>) -> Vec<Arc<Image>> {
    let mut pool = question.candidates.to_vec();
    match question.image_ref {
        ImageRefWitness::None => {}
        ImageRefWitness::Config { digest, .. } | ImageRefWitness::Missing { digest } => {
            pool.retain(|image| image.config_digest() == digest);
        }
    }
    let now = match question.named {
        Named::Target { target, .. } => Some(*target),
        Named::NoName | Named::Unknown => None,
    };
    for target in [question.first_target, now].into_iter().flatten() {
        if narrow(&mut pool, |image| image.target() == target) {
            break;
        }
    }
    narrow(&mut pool, |image| {
        image.config().architecture == question.architecture
    });
    // One manifest can be reached with and without an index: with it, more signatures can count.
    pool.sort_by_key(|image| {
        let (manifest, config) = (image.manifest_digest(), image.config_digest());
        (
            config,
            manifest,
            image.index_digest().is_none(),
            image.target(),
        )
    });
    pool.dedup_by_key(|image| (image.config_digest(), image.manifest_digest()));
    pool
}

/// Keeps what fits, if anything does.
fn narrow(pool: &mut Vec<Arc<Image>>, fits: impl Fn(&Image) -> bool) -> bool {
    let is_any = pool.iter().any(|image| fits(image));
    if is_any {
        pool.retain(|image| fits(image));
    }
    is_any
}
