//! One look at one container, in order: identify, digests, signature, files, layers, mounts.
//!
//! The same look serves the timer, an event and a person at the command line. It decides nothing by
//! itself that `core` can decide, remembers in a [`Memory`] what the next look needs, and reports every
//! check that it could not do: as `unverifiable`, never as silence and never as a pass.

mod content;
mod elsewhere;
mod listing;
mod lowers;
mod memory;
mod mounts;
pub mod scrub;
mod signature;
mod stands;
mod verdicts;
mod witness;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::coverage::{ContainerStatus, SCHEMA};
use holdfast_core::finding::Check;
use holdfast_core::place::{About, Look};
use holdfast_core::trust::Verdict;
use holdfast_daemon::shutdown::{Stop, stopped};
use jiff::Timestamp;

pub use self::content::Content;
pub use self::listing::Lists;
pub use self::lowers::Lowers;
pub use self::memory::Memory;
use self::verdicts::Verdicts;
use crate::files::keep::Keep;
use crate::runtime::gather::Stop as NotGathered;
use crate::runtime::identify::Identifier;
use crate::runtime::{Runtime, kernel};
use crate::telemetry::Metrics;
use crate::trust::Trust;
use crate::worker::Workers;

/// How much of a look is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// The kernel's witness and the upper directory.
    Upper,
    /// Everything, from the runtime's records on.
    Whole,
}

/// Where the verdict about layers comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layers {
    /// From the last compare; nothing is said before there was one.
    AsCompared,
    /// Compared now, each once.
    CompareNow,
    /// Nobody asks for them.
    NotAsked,
}

/// What a look gave.
#[derive(Debug)]
pub struct Looked {
    /// Who it is about.
    pub about: About,
    /// The checks that were done, and what they saw.
    pub look: Look,
    /// The same as coverage.
    pub status: ContainerStatus,
}

/// Why a look gave nothing: it is to be repeated, or the container is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// Its process has ended, or another one has its number.
    #[error("the container has ended or was started again")]
    Gone,
    /// It took longer than it may.
    #[error("the look took longer than {0:?}")]
    Deadline(Duration),
}

/// Looks at containers of one runtime.
#[derive(Debug)]
pub struct Inspector<R> {
    runtime: Arc<R>,
    identifier: Identifier<R>,
    shared: Arc<Shared>,
}

/// What the inspectors of all runtimes share.
#[derive(Debug)]
pub struct Shared {
    /// The node's name.
    pub node: String,
    /// Tables, trees, scans and compares.
    pub content: Arc<Content>,
    /// Threads for what may never come back.
    pub workers: Workers,
    /// Documents of images, kept from first sight.
    pub keep: Keep,
    /// Policies and signatures.
    pub trust: Trust,
    /// Counters.
    pub metrics: Metrics,
    /// Containers elsewhere are a finding.
    pub expected_namespaces: Vec<String>,
    /// How long one look may take.
    pub deadline: Duration,
}

impl<R: Runtime> Inspector<R> {
    /// Looks at the containers of `runtime`.
    pub fn new(runtime: Arc<R>, shared: Arc<Shared>) -> Self {
        let identifier = Identifier::new(Arc::clone(&runtime), shared.expected_namespaces.clone())
            .with_workers(shared.workers.clone());
        Self {
            runtime,
            identifier,
            shared,
        }
    }

    /// Counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Looks once. `now` is the time at the beginning; documents carry the time at the end.
    ///
    /// 1. Identify: which image the root really is; the kernel's witness at every look.
    /// 2. Digests: the image's documents hash to their names (done while identifying).
    /// 3. Signature: somebody whom the policy names vouches for that image.
    /// 4. Files: the upper directory against the expected tree.
    /// 5. Layers: the lower directories against the expected trees.
    /// 6. Mounts: every mount table against what the runtime was asked for, and what of the image is hidden.
    /// 7. The container was the same at the end as at the beginning.
    pub async fn look(
        &self,
        memory: &mut Memory,
        depth: Depth,
        layers: Layers,
        now: Timestamp,
    ) -> Result<Looked, LookError> {
        let deadline = self.shared.deadline;
        let looking = self.look_in_time(memory, depth, layers, now);
        tokio::time::timeout(deadline, looking)
            .await
            .unwrap_or(Err(LookError::Deadline(deadline)))
    }

    async fn look_in_time(
        &self,
        memory: &mut Memory,
        depth: Depth,
        layers: Layers,
        now: Timestamp,
    ) -> Result<Looked, LookError> {
        let mut verdicts = Verdicts::new(now);
        // (1) (2)
        self.identify(memory, depth, &mut verdicts).await?;
        let Some(identity) = memory.identity() else {
            verdicts.nothing_to_compare(&[
                Check::Signature,
                Check::Files,
                Check::Layers,
                Check::Mounts,
            ]);
            return Ok(self.finish(memory, verdicts));
        };
        // (3)
        self.check_signature(memory, &identity, &mut verdicts).await;
        let workers = &self.shared.workers;
        let launch = mounts::fix_launch(memory, &identity, workers).await;
        // (4) (5)
        let content = Arc::clone(&self.shared.content);
        let policies = self.shared.trust.policies();
        let rules = memory.rules(&policies);
        memory
            .uppers
            .resize_with(identity.uppers().len(), || content.new_scan());
        for scan in &mut memory.uppers {
            scan.rule_by(&rules);
        }
        let roots = self.runtime.roots().await.unwrap_or_default();
        content
            .check(memory, &identity, (roots, layers), &mut verdicts)
            .await;
        // (6)
        mounts::check(memory, &identity, (launch, workers), &mut verdicts).await?;
        // (7)
        if let Some(root) = identity.root
            && kernel::start_time(root.pid).ok() != Some(root.started)
        {
            return Err(LookError::Gone);
        }
        Ok(self.finish(memory, verdicts))
    }

    /// Steps 1 and 2. A root that is not the one of the last look is identified anew at once.
    async fn identify(
        &self,
        memory: &mut Memory,
        depth: Depth,
        verdicts: &mut Verdicts,
    ) -> Result<(), LookError> {
        let started = tokio::time::Instant::now();
        let is_known = memory
            .identified()
            .is_some_and(|identified| identified.identity.is_some());
        let depth = if is_known && memory.root_is_as_before() {
            depth
        } else {
            Depth::Whole
        };
        if depth == Depth::Whole {
            let known = memory.images(&self.shared.keep);
            match self
                .identifier
                .look(memory.key(), memory.first_sight(), &known)
                .await
            {
                Ok(identified) => memory.on_identified(identified, &self.shared.keep),
                Err(NotGathered::Gone) => return Err(LookError::Gone),
                Err(stop) => verdicts.not_identified(&stop),
            }
        }
        if let Some(identified) = memory.identified() {
            verdicts.identified(identified);
        }
        if depth == Depth::Whole {
            verdicts.took(&[Check::Identity], started.elapsed());
        }
        Ok(())
    }

    fn finish(&self, memory: &mut Memory, verdicts: Verdicts) -> Looked {
        for (check, outcome, took) in verdicts.outcomes() {
            self.shared.metrics.check_ended(check, outcome, took);
        }
        let (about, ended) = (memory.about(&self.shared.node), verdicts.ended());
        let (look, checks) = verdicts.into_parts();
        memory.on_looked(&look, ended);
        let status = ContainerStatus {
            schema: SCHEMA.to_owned(),
            node: about.node.clone(),
            container: about.container.clone(),
            workload: about.workload.clone(),
            image: about.image.clone(),
            signature: memory.verdict().map(Verdict::name),
            checks: memory.remember_checks(checks),
            running: true,
            observed_at: ended,
        };
        Looked {
            about,
            look,
            status,
        }
    }
}

impl Shared {
    /// Reads the policies again and again; looks notice by the number of the set.
    pub async fn watch_policies(self: Arc<Self>, mut stop: Stop) -> Result<(), Infallible> {
        let reloading = async {
            let mut tick = tokio::time::interval(crate::trust::RELOAD);
            loop {
                tick.tick().await;
                Arc::clone(&self).reload_policies().await;
            }
        };
        // A folder on a disk that hangs must not keep the agent from stopping.
        tokio::select! {
            () = stopped(&mut stop) => Ok(()),
            never = reloading => never,
        }
    }

    async fn reload_policies(self: Arc<Self>) {
        let reloaded = tokio::task::spawn_blocking(move || self.trust.reload()).await;
        if let Err(error) = reloaded {
            tracing::error!(%error, "Policies could not be read.");
        }
    }
}
