//! The layers that are to be fetched: looks name them and go on, one worker fetches them one after the
//! other, and a later look finds the table.
//!
//! A look must never wait for a registry: there are only so many looks at once, and other containers. What
//! failed is tried again, later each time.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::digest::DiffId;
use holdfast_core::layer::FileTable;
use holdfast_daemon::shutdown::{Stop, stopped};
use tokio::sync::mpsc;

use super::book::{Book, Standing, Waits};
use super::fetch::{Fetcher, NotFetched, Remote};

/// Layers that wait; one more is named again by the next look.
const QUEUE: usize = 256;
/// A blob that was pushed again is found within the longest.
const WAITS: Waits = Waits {
    first: Duration::from_mins(1),
    last: Duration::from_hours(6),
};

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
    book: Arc<Book<DiffId, NotFetched>>,
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
            book: Arc::new(Book::new(WAITS)),
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
        let standing = self
            .book
            .ask(remote.diff_id, || self.queue.try_send(remote).is_ok());
        match standing {
            Standing::UnderWay => FetchProgress::UnderWay,
            Standing::Failed(error) => FetchProgress::Failed(error),
        }
    }

    fn done(&self, diff_id: DiffId, result: Result<(), NotFetched>) {
        match result {
            // The next look finds the table.
            Ok(()) => self.book.done(&diff_id),
            Err(error) => {
                tracing::warn!(layer = %diff_id, %error, "Layer cannot be read from its registry.");
                match error {
                    // What these bytes are does not change.
                    NotFetched::Refused(_) => self.book.failed_for_long(diff_id, error),
                    error => self.book.failed(diff_id, error),
                }
            }
        }
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
