//! Step 3: whether somebody whom the policy names vouches for the image that runs.
//!
//! The running digests decide; a name only selects the policies. A verdict is made again when the policies
//! change, when the container turns out to run another image, and, where it was an error, after a while.

use std::time::Duration;

use holdfast_core::finding::{Check, Detail};
use holdfast_core::image::Image;
use holdfast_core::trust::{Evidence, ImageDigests, Verdict, condition, verify};
use tokio::time::Instant;

use super::memory::Judged;
use super::verdicts::Verdicts;
use super::{Inspector, Memory};
use crate::runtime::Runtime;
use crate::runtime::identify::Identity;

/// An error is tried again after this; the sources keep their own counsel about being asked too often.
const RETRY_ERROR: Duration = Duration::from_mins(1);

/// Nothing found is looked for again after this: signatures are often pushed after the image.
const RETRY_UNSIGNED: Duration = Duration::from_mins(5);

impl<R: Runtime> Inspector<R> {
    pub(super) async fn check_signature(
        &self,
        memory: &mut Memory,
        identity: &Identity,
        verdicts: &mut Verdicts,
    ) {
        let started = Instant::now();
        let policies = self.shared.trust.policies();
        let config = identity.image.config_digest();
        let is_current = memory.judged.as_ref().is_some_and(|judged| {
            judged.generation == policies.generation
                && judged.config == config
                && !is_due(judged, started)
        });
        if !is_current {
            let verdict = self
                .judge(&memory.key().namespace, identity, &policies.set)
                .await;
            let generation = policies.generation;
            memory.judged = Some(Judged {
                verdict,
                generation,
                config,
                at: started,
            });
            verdicts.took(&[Check::Signature], started.elapsed());
        }
        let Some(judged) = &memory.judged else { return };
        let name = identity
            .reference
            .as_ref()
            .map_or_else(|| config.to_string(), ToString::to_string);
        match condition(&judged.verdict, &name) {
            Some(condition) if matches!(condition.detail, Detail::Unverifiable(_)) => {
                verdicts.partly_done(Check::Signature, None, vec![condition]);
            }
            found => verdicts.done(Check::Signature, None, found.into_iter().collect()),
        }
    }

    /// Every image that the container could as well run has to pass: the worst verdict counts.
    async fn judge(
        &self,
        namespace: &str,
        identity: &Identity,
        policies: &holdfast_core::trust::PolicySet,
    ) -> Verdict {
        let mut worst = self
            .judge_image(namespace, &identity.image, identity, policies)
            .await;
        for other in &identity.others {
            let verdict = self.judge_image(namespace, other, identity, policies).await;
            if badness(&verdict) > badness(&worst) {
                worst = verdict;
            }
        }
        worst
    }

    async fn judge_image(
        &self,
        namespace: &str,
        image: &Image,
        identity: &Identity,
        policies: &holdfast_core::trust::PolicySet,
    ) -> Verdict {
        let names = self.names(namespace, image, identity).await;
        let subjects: Vec<_> = image
            .index_digest()
            .into_iter()
            .chain([image.manifest_digest()])
            .collect();
        let evidence = if policies.needs_signatures(&names) {
            self.shared.trust.evidence(&names, &subjects).await
        } else {
            Evidence::none()
        };
        verify(&names, digests(image), policies, &evidence)
    }

    /// The name in the container's record, and every name that the store has for what runs.
    async fn names(&self, namespace: &str, image: &Image, identity: &Identity) -> Vec<String> {
        let mut names: Vec<String> = identity.reference.iter().map(ToString::to_string).collect();
        let records = self.runtime.images(namespace).await.unwrap_or_default();
        let own = [
            Some(image.target()),
            image.index_digest(),
            Some(image.manifest_digest()),
        ];
        for record in records {
            // CRI keeps a record named by the config's digest: no name that a policy could mean.
            let is_name = !record.name.starts_with("sha256:");
            if is_name && own.contains(&Some(record.target)) && !names.contains(&record.name) {
                names.push(record.name);
            }
        }
        names
    }
}

/// The digests that a signature may be about, with the index's bytes: only its own bytes make it count.
fn digests(image: &Image) -> ImageDigests<'_> {
    let index = image
        .index_digest()
        .zip(image.documents().indexes.first().map(Vec::as_slice));
    ImageDigests {
        manifest: image.manifest_digest(),
        index,
    }
}

/// Whether a verdict that is not final is due again.
fn is_due(judged: &Judged, now: Instant) -> bool {
    let age = now.duration_since(judged.at);
    match judged.verdict {
        Verdict::Error { .. } => age >= RETRY_ERROR,
        Verdict::Unsigned { .. } | Verdict::Untrusted { .. } => age >= RETRY_UNSIGNED,
        Verdict::Verified { .. } | Verdict::Accepted { .. } | Verdict::Uncovered { .. } => false,
    }
}

/// Which of two verdicts about one container is the worse.
const fn badness(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Verified { .. } => 0,
        Verdict::Accepted { .. } => 1,
        Verdict::Uncovered { .. } => 2,
        Verdict::Error { .. } => 3,
        Verdict::Unsigned { .. } => 4,
        Verdict::Untrusted { .. } => 5,
    }
}
