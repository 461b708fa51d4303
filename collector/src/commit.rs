//! The only writer: joins what many nodes send at the same time into one transaction, and answers each
//! after its commit, never before.
//!
//! The queue is bounded and nothing is dropped from it: a full queue makes senders wait, and they keep
//! their records until we confirm.

use holdfast_daemon::fail_point;
use holdfast_daemon::readiness::Readiness;
use holdfast_daemon::shutdown::Stop;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::findings::{Applied, Batch, apply};
use crate::store::{NodeRow, StoreError, Writer};
use crate::telemetry::{LogLimit, Metrics};

/// The name of this part's condition in `/readyz`.
pub const CONDITION: &str = "store";

/// Senders that may wait in the queue; each holds a batch of at most 4 MiB.
const QUEUE: usize = 64;

/// Records in one transaction: more do not make it faster, and all of them wait for its flush.
const MAX_GROUP_RECORDS: usize = 4000;

/// Rows of each kind that one transaction of the sweep forgets: the next batch waits for it.
const SWEEP_ROWS: i64 = 1000;

/// What can be written.
#[derive(Clone, Debug)]
pub enum Work {
    /// Records of one spool.
    Batch(Batch),
    /// Nodes as they were last heard.
    Nodes(Vec<NodeRow>),
    /// Forget what was over before this time, in Unix milliseconds.
    Sweep(i64),
}

/// Why something was not stored. The sender keeps it and tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store cannot write now")]
pub struct Unavailable;

#[derive(Debug)]
struct Job {
    work: Work,
    done: oneshot::Sender<Result<Applied, Unavailable>>,
}

/// The way to the writer. Clones share it.
#[derive(Clone, Debug)]
pub struct Queue {
    jobs: mpsc::Sender<Job>,
}

impl Queue {
    /// Waits until the work is durable.
    pub async fn submit(&self, work: Work) -> Result<Applied, Unavailable> {
        let (done, answer) = oneshot::channel();
        let job = Job { work, done };
        self.jobs.send(job).await.map_err(|_closed| Unavailable)?;
        answer.await.map_err(|_closed| Unavailable)?
    }
}

/// The writer's task.
#[derive(Debug)]
pub struct Committer {
    writer: Writer,
    jobs: mpsc::Receiver<Job>,
    metrics: Metrics,
    readiness: Readiness,
    committed: watch::Sender<u64>,
    failures: LogLimit,
}

impl Committer {
    /// The writer, the way to it, and what turns with each commit.
    pub fn new(
        writer: Writer,
        metrics: Metrics,
        readiness: Readiness,
    ) -> (Self, Queue, watch::Receiver<u64>) {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let (committed, commits) = watch::channel(0);
        readiness.set(CONDITION, Ok(()));
        let task = Self {
            writer,
            jobs,
            metrics,
            readiness,
            committed,
            failures: LogLimit::default(),
        };
        (task, Queue { jobs: sender }, commits)
    }

    /// Writes until `stop` turns true. Damage ends the process: the next start sets the store aside.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), StoreError> {
        loop {
            let first = tokio::select! {
                biased;
                _ = stop.changed() => None,
                job = self.jobs.recv() => job,
            };
            let Some(first) = first else {
                return self.writer.close().await;
            };
            let group = self.gather(first);
            self.commit(group).await?;
        }
    }

    /// Takes what has come in the meantime: while one transaction is flushed, the next one fills.
    fn gather(&mut self, first: Job) -> Vec<Job> {
        let mut records = first.work.records();
        let mut group = vec![first];
        while records < MAX_GROUP_RECORDS {
            let Ok(job) = self.jobs.try_recv() else { break };
            records += job.work.records();
            group.push(job);
        }
        group
    }

    async fn commit(&mut self, group: Vec<Job>) -> Result<(), StoreError> {
        let is_alone = group.len() == 1;
        let (works, waiting): (Vec<Work>, Vec<_>) =
            group.into_iter().map(|job| (job.work, job.done)).unzip();
        match self.write(&works).await {
            Ok(applied) => confirm(waiting, applied),
            Err(StoreError::Damaged(error)) => return Err(StoreError::Damaged(error)),
            Err(_) if is_alone => refuse(waiting),
            // One batch that the store cannot take must not hold up those that it was joined with.
            Err(_) => {
                for (work, done) in works.into_iter().zip(waiting) {
                    match self.write(&[work]).await {
                        Ok(applied) => confirm(vec![done], applied),
                        Err(StoreError::Damaged(error)) => return Err(StoreError::Damaged(error)),
                        Err(_) => refuse(vec![done]),
                    }
                }
            }
        }
        Ok(())
    }

    /// One transaction.
    async fn write(&mut self, works: &[Work]) -> Result<Vec<Applied>, StoreError> {
        let now = Timestamp::now();
        match transaction(&mut self.writer, works, now).await {
            Ok(applied) => {
                self.metrics.commits.inc();
                self.metrics.last_commit.set(now.as_second());
                for applied in &applied {
                    self.metrics.records_stored.inc_by(applied.stored);
                    self.metrics.records_repeated.inc_by(applied.repeated);
                    self.metrics.findings_received.inc_by(applied.transitions);
                    self.metrics.unknown_places.inc_by(applied.unknown_places);
                }
                self.readiness.set(CONDITION, Ok(()));
                self.committed.send_modify(|commits| *commits += 1);
                Ok(applied)
            }
            Err(error) => {
                if let Some(held_back) = self.failures.pass(Instant::now()) {
                    tracing::error!(%error, held_back, "Transaction failed, nothing is confirmed.");
                }
                self.metrics.store_errors.inc();
                self.readiness.set(CONDITION, Err(error.to_string()));
                self.writer.on_error(&error);
                Err(error)
            }
        }
    }
}

async fn transaction(
    writer: &mut Writer,
    works: &[Work],
    now: Timestamp,
) -> Result<Vec<Applied>, StoreError> {
    let mut tx = writer.begin().await?;
    let mut batches = Vec::with_capacity(works.len());
    for work in works {
        match work {
            Work::Batch(batch) => batches.push(batch),
            Work::Nodes(nodes) => tx.put_nodes(nodes).await?,
            Work::Sweep(cutoff) => tx.sweep(*cutoff, SWEEP_ROWS).await?,
        }
    }
    let mut applied = Vec::new();
    if !batches.is_empty() {
        applied = apply(&mut tx, &batches, now).await?;
    }
    if !batches.is_empty() {
        fail_point::hit("before-commit");
    }
    tx.commit().await?;
    if !batches.is_empty() {
        fail_point::hit("after-commit");
    }
    let mut applied = applied.into_iter();
    let answers = works.iter().map(|work| match work {
        Work::Batch(_) => applied.next().unwrap_or_default(),
        Work::Nodes(_) | Work::Sweep(_) => Applied::default(),
    });
    Ok(answers.collect())
}

fn confirm(waiting: Vec<oneshot::Sender<Result<Applied, Unavailable>>>, applied: Vec<Applied>) {
    for (done, applied) in waiting.into_iter().zip(applied) {
        // Whoever has gone away sends its batch again, and it is a repeat then.
        let _is_gone = done.send(Ok(applied)).is_err();
    }
}

fn refuse(waiting: Vec<oneshot::Sender<Result<Applied, Unavailable>>>) {
    for done in waiting {
        let _is_gone = done.send(Err(Unavailable)).is_err();
    }
}

impl Work {
    const fn records(&self) -> usize {
        match self {
            Self::Batch(batch) => batch.records.len(),
            Self::Nodes(_) | Self::Sweep(_) => 1,
        }
    }
}

/// Forgets what has been over for `kept`, a little every minute: a large sweep would hold up ingest.
pub async fn sweep(
    queue: Queue,
    kept: std::time::Duration,
    mut stop: Stop,
) -> Result<(), std::convert::Infallible> {
    let mut tick = tokio::time::interval(std::time::Duration::from_mins(1));
    loop {
        tokio::select! {
            biased;
            _ = stop.changed() => return Ok(()),
            _ = tick.tick() => {}
        }
        let kept = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
        let cutoff = Timestamp::now().as_millisecond().saturating_sub(kept);
        // A failure was logged and counted by the writer, and the next minute tries again.
        let _is_away = queue.submit(Work::Sweep(cutoff)).await.is_err();
    }
}
