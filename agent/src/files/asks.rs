//! What the collector is asked for: skeletons of layers whose blobs are not here, and the contents that a
//! failed proof lacks. Looks name them and go on; whoever speaks to the collector takes them from the
//! queue, and puts what came where proofs find it.
//!
//! Whether it helps is decided by the proof alone.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::skeleton::SkeletonError;
use tokio::sync::mpsc;

use super::book::{Book, Standing, Waits};
use super::fetch::Remote;

/// What waits; one more is named again by the next look.
const QUEUE: usize = 256;

/// A node that has just made a skeleton offers it within seconds, others when their blob is read.
const WAITS: Waits = Waits {
    first: Duration::from_secs(30),
    last: Duration::from_mins(30),
};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The layer.
    pub layer: Remote,
    /// What of it.
    pub need: Need,
}

/// What is needed of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// A skeleton, other than those whose proofs failed here.
    Skeleton {
        /// Their digests.
        failed: Vec<Digest>,
    },
    /// Contents of files, so that the proof of a skeleton can be repeated.
    Contents {
        /// The skeleton's digest.
        skeleton: Digest,
        /// Digests and lengths.
        contents: Vec<(Digest, u64)>,
    },
}

/// One question: a later one about the same waits for its answer.
type Key = (DiffId, Option<Digest>);

impl Ask {
    const fn key(&self) -> Key {
        match &self.need {
            Need::Skeleton { .. } => (self.layer.diff_id, None),
            Need::Contents { skeleton, .. } => (self.layer.diff_id, Some(*skeleton)),
        }
    }
}

/// Why the collector gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotRelayed {
    /// It says that it has nothing, and why. Its words, in the form in which foreign bytes are shown.
    #[error("{0}")]
    Absent(String),
    /// It does not answer, or refuses to.
    #[error("no answer: {0}")]
    Call(String),
    /// It was fetching it for too long.
    #[error("it was still fetching it after {} minutes", .0.as_secs() / 60)]
    Deadline(Duration),
    /// What it sent is no skeleton.
    #[error(transparent)]
    Skeleton(#[from] SkeletonError),
    /// What it sent is not what it named.
    #[error("what came is not what was asked for")]
    Other,
    /// Our own disk.
    #[error("cannot be kept: {0}")]
    Store(#[from] io::Error),
}

/// What became of a question.
#[derive(Clone, Debug)]
pub enum AskProgress {
    /// It is being asked, or the answer is being used.
    UnderWay,
    /// It cannot be had now; it is tried again when it is asked for later.
    Failed(Arc<NotRelayed>),
}

impl fmt::Display for AskProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnderWay => f.write_str("the collector is asked for it"),
            Self::Failed(error) => write!(f, "from the collector: {error}"),
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asks {
    queue: mpsc::Sender<Ask>,
    book: Arc<Book<Key, NotRelayed>>,
}

impl Asks {
    /// An empty list, and the questions to come.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (queue, asked) = mpsc::channel(QUEUE);
        let book = Arc::new(Book::new(WAITS));
        (Self { queue, book }, asked)
    }

    /// Asks, and says how it stands. Waits for nothing.
    pub fn ask(&self, ask: Ask) -> AskProgress {
        let standing = self
            .book
            .ask(ask.key(), || self.queue.try_send(ask).is_ok());
        match standing {
            Standing::UnderWay => AskProgress::UnderWay,
            Standing::Failed(error) => AskProgress::Failed(error),
        }
    }

    /// It was answered; what came is where proofs look for it.
    pub fn done(&self, ask: &Ask, result: Result<(), NotRelayed>) {
        match result {
            Ok(()) => self.book.done(&ask.key()),
            Err(error) => {
                tracing::debug!(layer = %ask.layer.diff_id, %error, "Collector gave nothing.");
                self.book.failed(ask.key(), error);
            }
        }
    }
}
