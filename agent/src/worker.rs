//! Threads for looks that may never come back: a read that a disk or a server does not answer cannot be
//! ended from outside, not even by a signal.
//!
//! So nobody waits for such a thread longer than it makes no progress. It is left behind, told to end as
//! soon as it can, and counted; as long as it is away nobody sends another one after it to the same place.
//! What hangs at one container thus costs one thread, and delays nobody else. The runtime's own blocking
//! threads are few and shared with the ledger: a look must never hold one of those.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

/// Threads that may be away at one time. Each container and each layer can have one, and nodes run some
/// hundred containers; with so many, the node's disks have failed.
pub const MAX_STUCK: usize = 256;

/// Why work gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// It made no progress for too long, and was left behind.
    #[error("reading it makes no progress: a disk or a server does not answer (stuck: {stuck})")]
    Stuck {
        /// How many are left behind on this node, this one included.
        stuck: usize,
    },
    /// An earlier one about the same place has not come back.
    #[error("an earlier look at it has not come back (stuck: {stuck})")]
    Away {
        /// How many are left behind on this node.
        stuck: usize,
    },
    /// Too many have not come back.
    #[error("too many looks have not come back (stuck: {stuck})")]
    Full {
        /// How many are left behind on this node.
        stuck: usize,
    },
    /// The node gives us no thread.
    #[error("no thread: {0}")]
    NoThread(#[source] std::io::Error),
    /// A defect of ours ended it.
    #[error("it was interrupted by a defect")]
    Defect,
}

impl WorkError {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Stuck { .. } | Self::Away { .. } | Self::Full { .. } => "stuck",
            Self::NoThread(_) => "no-thread",
            Self::Defect => "defect",
        }
    }
}

/// Starts threads, and knows which did not come back. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Workers {
    jobs: Arc<Mutex<Jobs>>,
    stuck: Gauge,
}

#[derive(Debug, Default)]
struct Jobs {
    next: u64,
    running: BTreeMap<u64, Job>,
}

#[derive(Debug)]
struct Job {
    subject: String,
    is_left_behind: bool,
}

impl Jobs {
    fn stuck(&self) -> usize {
        let jobs = self.running.values();
        jobs.filter(|job| job.is_left_behind).count()
    }

    fn admit(&mut self, subject: &str) -> Result<u64, WorkError> {
        let stuck = self.stuck();
        let is_away = |job: &Job| job.is_left_behind && job.subject == subject;
        if self.running.values().any(is_away) {
            return Err(WorkError::Away { stuck });
        }
        if stuck >= MAX_STUCK {
            return Err(WorkError::Full { stuck });
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        let job = Job {
            subject: subject.to_owned(),
            is_left_behind: false,
        };
        self.running.insert(id, job);
        Ok(id)
    }
}

/// What work says while it is under way, and what it is told.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    steps: AtomicU64,
    is_unhurried: AtomicBool,
    is_over: AtomicBool,
}

impl Progress {
    /// A step was made. True when nobody waits for the rest any more.
    pub fn is_over(&self) -> bool {
        self.0.steps.fetch_add(1, Ordering::Relaxed);
        self.0.is_over.load(Ordering::Relaxed)
    }

    /// Does what is long and says nothing meanwhile; not for what a container controls.
    pub fn unhurried<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.is_unhurried.store(true, Ordering::Relaxed);
        let done = work();
        self.is_over();
        self.0.is_unhurried.store(false, Ordering::Relaxed);
        done
    }

    /// Whether there was a step since `before`, or none is expected.
    fn has_gone_on(&self, before: &mut u64) -> bool {
        let steps = self.0.steps.load(Ordering::Relaxed);
        let has_stepped = std::mem::replace(before, steps) != steps;
        has_stepped || self.0.is_unhurried.load(Ordering::Relaxed)
    }
}

impl Workers {
    /// Workers that keep the number of those left behind in `stuck`.
    pub fn new(stuck: Gauge) -> Self {
        Self {
            jobs: Arc::default(),
            stuck,
        }
    }

    /// Does `work` on a thread of its own and waits for it as long as it steps at least once in `patience`.
    /// Whoever stops waiting leaves it behind too.
    pub async fn run<T: Send + 'static>(
        &self,
        subject: &str,
        patience: Duration,
        work: impl FnOnce(&Progress) -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let id = self.lock().admit(subject)?;
        let ended = Ended {
            workers: self.clone(),
            id,
        };
        let progress = Progress::default();
        let left = LeftBehind {
            workers: self.clone(),
            id,
            progress: progress.clone(),
        };
        let (answer, mut answered) = oneshot::channel();
        let thread = std::thread::Builder::new().name("look".to_owned());
        let started = thread.spawn(move || {
            let done = work(&progress);
            // First: who has the answer must not find the thread still under way.
            drop(ended);
            drop(answer.send(done));
        });
        drop(started.map_err(WorkError::NoThread)?);
        let mut steps = 0;
        loop {
            match tokio::time::timeout(patience, &mut answered).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(_panicked)) => return Err(WorkError::Defect),
                Err(_elapsed) if left.progress.has_gone_on(&mut steps) => {}
                Err(_elapsed) => {
                    drop(left);
                    let stuck = self.stuck();
                    return Err(WorkError::Stuck { stuck });
                }
            }
        }
    }

    /// How many are left behind now.
    pub fn stuck(&self) -> usize {
        self.lock().stuck()
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, jobs: &Jobs) {
        let stuck = i64::try_from(jobs.stuck()).unwrap_or(i64::MAX);
        self.stuck.set(stuck);
    }
}

/// Tells that a thread has come back, also when it panics.
#[derive(Debug)]
struct Ended {
    workers: Workers,
    id: u64,
}

impl Drop for Ended {
    fn drop(&mut self) {
        let mut jobs = self.workers.lock();
        let job = jobs.running.remove(&self.id);
        self.workers.count(&jobs);
        drop(jobs);
        if let Some(job) = job.filter(|job| job.is_left_behind) {
            tracing::info!(subject = %job.subject, "A look that was stuck has come back.");
        }
    }
}

/// Leaves a thread behind when nobody waits for it any more.
#[derive(Debug)]
struct LeftBehind {
    workers: Workers,
    id: u64,
    progress: Progress,
}

impl Drop for LeftBehind {
    fn drop(&mut self) {
        self.progress.0.is_over.store(true, Ordering::Relaxed);
        let mut jobs = self.workers.lock();
        if let Some(job) = jobs.running.get_mut(&self.id) {
            job.is_left_behind = true;
        }
        self.workers.count(&jobs);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(10);

    /// Work that comes back when the other end is dropped.
    fn stuck_until_dropped() -> (mpsc::Sender<()>, impl FnOnce(&Progress) + Send + 'static) {
        let (release, released) = mpsc::channel();
        (release, move |_: &Progress| {
            assert!(released.recv().is_err());
        })
    }

    fn until_told(progress: &Progress) {
        while !progress.is_over() {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn an_answer_comes_back_and_nothing_is_left_behind() {
        let workers = Workers::default();
        let done = workers.run("a", LONG, |_| 7).await.unwrap();
        assert_eq!((done, workers.stuck()), (7, 0));
    }

    #[tokio::test]
    async fn what_makes_no_progress_is_left_behind_and_holds_nobody_else_up() {
        let workers = Workers::default();
        let (release, stuck) = stuck_until_dropped();
        let left = workers.run("a", SHORT, stuck).await;
        assert!(
            matches!(left, Err(WorkError::Stuck { stuck: 1 })),
            "{left:?}"
        );
        assert_eq!(workers.stuck.get(), 1);
        let again = workers.run("a", LONG, |_| 7).await;
        assert!(
            matches!(again, Err(WorkError::Away { stuck: 1 })),
            "{again:?}"
        );
        assert_eq!(workers.run("b", LONG, |_| 7).await.unwrap(), 7);

        drop(release);
        while workers.stuck() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(workers.run("a", LONG, |_| 7).await.unwrap(), 7);
        assert_eq!(workers.stuck.get(), 0);
    }

    #[test]
    fn a_step_is_progress_and_so_is_long_work_of_our_own() {
        let (progress, mut before) = (Progress::default(), 0);
        assert!(!progress.has_gone_on(&mut before));
        assert!(!progress.is_over());
        assert!(progress.has_gone_on(&mut before));
        assert!(!progress.has_gone_on(&mut before));
        let is_waited_for = progress.unhurried(|| {
            assert!(progress.has_gone_on(&mut before));
            progress.has_gone_on(&mut before)
        });
        assert!(is_waited_for);
        assert!(progress.has_gone_on(&mut before));
        assert!(!progress.has_gone_on(&mut before));
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_the_work_behind_and_it_hears_so() {
        let workers = Workers::default();
        let (said, heard) = oneshot::channel();
        let work = move |progress: &Progress| {
            said.send(()).unwrap();
            until_told(progress);
        };
        tokio::select! {
            biased;
            done = workers.run("a", LONG, work) => panic!("{done:?}"),
            Ok(()) = heard => {}
        }
        while workers.stuck() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_is_a_defect_and_leaves_nothing_behind() {
        let workers = Workers::default();
        let done = workers.run("a", LONG, |_| panic!("as a defect does")).await;
        assert!(matches!(done, Err(WorkError::Defect)), "{done:?}");
        assert_eq!(workers.stuck(), 0);
    }

    #[tokio::test]
    async fn only_so_many_are_left_behind() {
        let workers = Workers::default();
        let mut releases = Vec::new();
        for n in 0..MAX_STUCK {
            let (release, stuck) = stuck_until_dropped();
            releases.push(release);
            let left = workers.run(&n.to_string(), Duration::ZERO, stuck).await;
            assert!(matches!(left, Err(WorkError::Stuck { .. })), "{left:?}");
        }
        let full = workers.run("one more", LONG, |_| 7).await;
        assert!(
            matches!(full, Err(WorkError::Full { stuck: MAX_STUCK })),
            "{full:?}"
        );
    }
}
