//! The layers that are to be fetched: looks name them and go on, one worker fetches them one after the
//! other, and a later look finds the table.
//!
//! A look must never wait for a registry: there are only so many looks at once, and other containers. What
//! failed is tried again, later each time.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::digest::DiffId;
use holdfast_core::layer::FileTable;
use holdfast_daemon::shutdown::{Stop, stopped};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::fetch::{Fetcher, NotFetched, Remote};

/// Layers that wait; one more is named again by the next look.
const QUEUE: usize = 256;
/// Layers that are remembered; what has failed long ago is forgotten first.
const MAX_KNOWN: usize = 4096;
/// The first wait after a failure; doubled after each.
const FIRST_WAIT: Duration = Duration::from_mins(1);
/// The longest: a blob that was pushed again is found within this time.
const MAX_WAIT: Duration = Duration::from_hours(6);

/// Keeps a table where looks find it.
pub type Keep = Arc<dyn Fn(&FileTable) -> io::Result<()> + Send + Sync>;

/// What became of a layer that was asked for.
#[derive(Clone, Debug)]
pub enum FetchProgress {
    /// It waits, or is being fetched.
    UnderWay,
    /// It cannot be had now; it is tried again when it is asked for later.
    Failed(Arc<NotFetched>),
}

impl fmt::Display for FetchProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay => f.write_str("it is being fetched from its registry"),
            Self::Failed(error) => write!(f, "from its registry: {error}"),
        }
    }
}

impl FetchProgress {
    /// Whether the blob was had, and is what cannot be modelled.
    pub fn is_images_fault(&self) -> bool {
        matches!(self, Self::Failed(error) if matches!(**error, NotFetched::Refused(_)))
    }
}

/// The layers that were asked for.
#[derive(Clone, Debug)]
pub struct Fetches {
    queue: mpsc::Sender<Remote>,
    book: Arc<Mutex<HashMap<DiffId, Entry>>>,
}

#[derive(Debug)]
enum Entry {
    UnderWay,
    Failed {
        error: Arc<NotFetched>,
        again: Instant,
        wait: Duration,
    },
    /// Asked for again after a failure; the wait that follows the next one.
    Again(Duration),
}

/// The worker.
pub struct Worker {
    queue: mpsc::Receiver<Remote>,
    list: Fetches,
    fetcher: Arc<Fetcher>,
    keep: Keep,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}

impl Fetches {
    /// An empty list, and the worker that is to be run for it. Tables go to `keep`.
    pub fn new(fetcher: Fetcher, keep: Keep) -> (Self, Worker) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let list = Self {
            queue: sender,
            book: Arc::default(),
        };
        let worker = Worker {
            queue,
            list: list.clone(),
            fetcher: Arc::new(fetcher),
            keep,
        };
        (list, worker)
    }

    /// Asks for a layer's table, and says how it stands. Waits for nothing.
    pub fn ask(&self, remote: Remote) -> FetchProgress {
        let now = Instant::now();
        let mut book = self.book();
        let next = match book.get(&remote.diff_id) {
            Some(Entry::UnderWay | Entry::Again(_)) => return FetchProgress::UnderWay,
            Some(Entry::Failed { error, again, .. }) if now < *again => {
                return FetchProgress::Failed(Arc::clone(error));
            }
            Some(Entry::Failed { wait, .. }) => Entry::Again(wait.saturating_mul(2).min(MAX_WAIT)),
            None => Entry::UnderWay,
        };
        if book.len() >= MAX_KNOWN {
            book.retain(|_, entry| !matches!(entry, Entry::Failed { again, .. } if *again <= now));
        }
        let diff_id = remote.diff_id;
        // A full list: the next look asks again.
        if book.len() < MAX_KNOWN && self.queue.try_send(remote).is_ok() {
            book.insert(diff_id, next);
        }
        FetchProgress::UnderWay
    }

    fn done(&self, diff_id: DiffId, result: Result<(), NotFetched>) {
        match result {
            // The next look finds the table.
            Ok(()) => drop(self.book().remove(&diff_id)),
            Err(error) => {
                tracing::warn!(layer = %diff_id, %error, "Layer cannot be read from its registry.");
                self.failed(diff_id, error);
            }
        }
    }

    fn failed(&self, diff_id: DiffId, error: NotFetched) {
        let mut book = self.book();
        let wait = match book.get(&diff_id) {
            // What these bytes are does not change.
            _ if matches!(error, NotFetched::Refused(_)) => MAX_WAIT,
            Some(Entry::Again(wait)) => *wait,
            Some(Entry::UnderWay | Entry::Failed { .. }) | None => FIRST_WAIT,
        };
        if let Some(again) = Instant::now().checked_add(wait) {
            let error = Arc::new(error);
            book.insert(diff_id, Entry::Failed { error, again, wait });
        }
    }

    fn book(&self) -> MutexGuard<'_, HashMap<DiffId, Entry>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// Fetches what is asked for until stopped.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), Infallible> {
        let stops = stop.clone();
        let working = async {
            while let Some(remote) = self.queue.recv().await {
                let diff_id = remote.diff_id;
                let result = fetch(&self.fetcher, &self.keep, remote, stops.clone()).await;
                self.list.done(diff_id, result);
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => {}
            () = working => {}
        }
        Ok(())
    }
}

async fn fetch(
    fetcher: &Arc<Fetcher>,
    keep: &Keep,
    remote: Remote,
    stop: Stop,
) -> Result<(), NotFetched> {
    let (fetcher, keep) = (Arc::clone(fetcher), Arc::clone(keep));
    let work = move || {
        let table = fetcher.table(&remote, &stop)?;
        keep(&table).map_err(|error| NotFetched::Store(error.kind()))
    };
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(NotFetched::GaveUp))
}
