//! What the main loop waits for, beside itself: each job runs alone and says how it ended.

use std::sync::Arc;

use holdfast_core::container::ContainerKey;
use holdfast_core::finding::Finding;
use tokio::task::AbortHandle;

use super::watched::Outcome;
use super::{Reconcile, Running};
use crate::inspect::{Depth, Inspector, Layers, LookError, Looked, Memory};
use crate::report::{Ledger, LedgerError};
use crate::runtime::Runtime;
use crate::runtime::list::{Found, find, list};
use crate::telemetry::Metrics;

/// A piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Everything that runs on a socket.
    List { source: usize },
    /// One container by name.
    Find { source: usize, key: ContainerKey },
    /// One look at one container.
    Look { key: ContainerKey },
    /// A container has ended.
    End { key: ContainerKey },
    /// Containers of an earlier run of the agent that no longer run.
    EndAbsent,
    /// Everything that is open, to the collector.
    Report,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Done {
    Listed {
        source: usize,
        result: Result<Vec<Found>, String>,
    },
    Found {
        source: usize,
        key: ContainerKey,
        result: Result<Option<Box<Found>>, String>,
    },
    Looked {
        key: ContainerKey,
        memory: Box<Memory>,
        outcome: Outcome,
    },
    Ended {
        key: ContainerKey,
        outcome: Outcome,
    },
    EndedAbsent {
        is_recorded: bool,
    },
    Reported {
        is_recorded: bool,
    },
}

impl<R: Runtime> Reconcile<R> {
    /// Starts a job and remembers what it is about.
    pub(super) fn start(&mut self, job: Job) {
        let now = tokio::time::Instant::now();
        let handle = match &job {
            Job::List { source } => self.start_list_job(*source),
            Job::Find { source, key } => self.start_find(*source, key.clone()),
            Job::Look { key } => self.start_look(key.clone(), now),
            Job::End { key } => Some(self.start_end(key.clone())),
            Job::EndAbsent => Some(self.start_end_absent()),
            Job::Report => Some(self.start_report()),
        };
        if let Some(handle) = handle {
            self.about.insert(handle.id(), Running { job, since: now });
        }
    }

    fn start_list_job(&mut self, source: usize) -> Option<AbortHandle> {
        let runtime = Arc::clone(&self.sources.get(source)?.watching.runtime);
        Some(self.jobs.spawn(async move {
            let result = list(&runtime).await.map_err(|error| error.to_string());
            Done::Listed { source, result }
        }))
    }

    fn start_find(&mut self, source: usize, key: ContainerKey) -> Option<AbortHandle> {
        let runtime = Arc::clone(&self.sources.get(source)?.watching.runtime);
        Some(self.jobs.spawn(async move {
            let result = find(&*runtime, &key)
                .await
                .map(|found| found.map(Box::new))
                .map_err(|error| error.to_string());
            Done::Found {
                source,
                key,
                result,
            }
        }))
    }

    fn start_look(&mut self, key: ContainerKey, now: tokio::time::Instant) -> Option<AbortHandle> {
        let watched = self.watched.get_mut(&key)?;
        let inspector = Arc::clone(&self.sources.get(watched.source)?.watching.inspector);
        let (memory, depth) = watched.start_look(now)?;
        let ledger = self.parts.ledger.clone();
        let node = self.parts.shared.node.clone();
        Some(self.jobs.spawn(async move {
            let mut memory = memory;
            let outcome = look(&inspector, &ledger, &node, &mut memory, depth).await;
            Done::Looked {
                key,
                memory,
                outcome,
            }
        }))
    }

    fn start_end(&mut self, key: ContainerKey) -> AbortHandle {
        let (ledger, metrics) = (self.parts.ledger.clone(), self.parts.shared.metrics.clone());
        self.jobs.spawn(async move {
            let ended = ledger.end_container(&key, crate::now()).await;
            Done::Ended {
                key,
                outcome: counted(ended, &metrics),
            }
        })
    }

    fn start_end_absent(&mut self) -> AbortHandle {
        let (ledger, metrics) = (self.parts.ledger.clone(), self.parts.shared.metrics.clone());
        let running = self.watched.keys().cloned().collect();
        self.jobs.spawn(async move {
            let ended = ledger.end_absent(running, crate::now()).await;
            Done::EndedAbsent {
                is_recorded: counted(ended, &metrics) == Outcome::Recorded,
            }
        })
    }

    fn start_report(&mut self) -> AbortHandle {
        let ledger = self.parts.ledger.clone();
        let running = self.watched.keys().cloned().collect();
        self.jobs.spawn(async move {
            let reported = ledger.full_report(running, crate::now()).await;
            if let Err(error) = &reported {
                tracing::warn!(%error, "Full report is not recorded.");
            }
            Done::Reported {
                is_recorded: reported.is_ok(),
            }
        })
    }
}

/// One look, from the container to the ledger.
async fn look<R: Runtime>(
    inspector: &Inspector<R>,
    ledger: &Ledger,
    node: &str,
    memory: &mut Memory,
    depth: Depth,
) -> Outcome {
    let now = crate::now();
    let looked = match inspector.look(memory, depth, Layers::AsCompared, now).await {
        Ok(looked) => looked,
        Err(error @ LookError::Gone) => {
            return Outcome::Repeat {
                reason: error.to_string(),
            };
        }
        Err(LookError::Deadline(_)) => memory.not_looked(node, crate::now()),
    };
    match record(inspector, ledger, memory, looked).await {
        Ok(()) => Outcome::Recorded,
        Err(error) => Outcome::Repeat {
            reason: error.to_string(),
        },
    }
}

/// Nothing that is not in the ledger has been said.
async fn record<R: Runtime>(
    inspector: &Inspector<R>,
    ledger: &Ledger,
    memory: &mut Memory,
    looked: Looked,
) -> Result<(), LedgerError> {
    if let Some(identity) = memory.to_remember() {
        ledger.remember(looked.about.clone(), identity).await?;
        memory.remembered();
    }
    let at = looked.status.observed_at;
    let findings = ledger.record_look(looked.about, looked.look, at).await?;
    for finding in &findings {
        inspector.metrics().finding_recorded(finding);
    }
    if memory.is_news(&looked.status) {
        ledger.record_status(looked.status.clone()).await?;
        memory.told(looked.status);
    }
    Ok(())
}

fn counted(ended: Result<Vec<Finding>, LedgerError>, metrics: &Metrics) -> Outcome {
    match ended {
        Ok(findings) => {
            for finding in &findings {
                metrics.finding_recorded(finding);
            }
            Outcome::Recorded
        }
        Err(error) => {
            tracing::warn!(%error, "The end of a container is not recorded.");
            Outcome::not_recorded()
        }
    }
}
