//! The container runtime as the agent sees it: one of the two seams. Values here are our own; no type
//! of containerd's API leaves this folder.
//!
//! Nothing that the runtime says is believed alone: [`identify`] holds it against the kernel
//! ([`kernel`]) and against the image's own digests. It must not write, anywhere: the one thing that we
//! send besides questions is the marker that proves a subscription ([`events`]).

pub(crate) mod about;
mod bind;
mod bolt;
mod bundle;
pub mod candidates;
mod cgroup;
mod conditions;
pub mod containerd;
mod convert;
mod decision;
pub mod envelope;
pub mod events;
pub mod gather;
pub mod identify;
mod identity;
pub mod kernel;
pub mod list;
pub mod mounts;
mod native;
pub mod overlay;
pub mod rootfs;
pub mod select;
pub mod sockets;
pub mod spec;

/// The kernel's mount table.
pub use holdfast_core::mounts::table as mountinfo;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_core::container::ContainerKey;
use holdfast_core::digest::{ChainId, Digest};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use spec::Spec;

/// A container's stored definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRecord {
    /// Namespace and id.
    pub key: ContainerKey,
    /// The image name that it was made from; empty when there was none.
    pub image_name: String,
    /// The snapshotter that serves its root.
    pub snapshotter: String,
    /// The key of its active snapshot; empty when the root is no snapshot.
    pub snapshot_key: String,
    /// The shim that runs it: `io.containerd.runc.v2`, …
    pub runtime_name: String,
    /// Labels: its creator, the kubelet and the image's author write here.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    pub updated_at: Option<Timestamp>,
    /// The parts of its OCI runtime spec that we use; `None` when it could not be read.
    pub spec: Option<Spec>,
    /// The config digest that CRI resolved the image to.
    pub cri_image_ref: Option<Digest>,
}

/// A container's running process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its first process, in the host's numbers.
    pub pid: u32,
    /// What containerd says of it.
    pub status: TaskStatus,
}

/// What containerd says of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    /// Made, not started: its first process is the runtime's own.
    Created,
    /// Running.
    Running,
    /// Frozen, or being frozen: it still has its files.
    Paused,
    /// Ended.
    Stopped,
}

/// A snapshot in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its key.
    pub key: String,
    /// Active, committed, or a read-only view.
    pub kind: SnapshotKind,
}

impl Snapshot {
    /// The chain ID, if the key is one and nothing else.
    pub fn chain_id(&self) -> Option<ChainId> {
        self.key.parse().ok()
    }
}

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// Writable.
    Active,
    /// Frozen.
    Committed,
    /// Read-only use of a frozen one.
    View,
}

/// A mount that a snapshotter asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// `overlay`, `bind`, …
    pub kind: String,
    /// What is mounted.
    pub source: String,
    /// Options, as given.
    pub options: Vec<String>,
}

/// A name in the image store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    /// The name.
    pub name: String,
    /// What it resolves to now.
    pub target: Digest,
    /// When the name was made.
    pub created_at: Option<Timestamp>,
    /// When it was last changed.
    pub updated_at: Option<Timestamp>,
}

/// Where containerd keeps its files, as its plugins say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// The content store.
    pub content: Option<PathBuf>,
    /// The snapshotters, by name.
    pub snapshotters: BTreeMap<String, PathBuf>,
}

impl Roots {
    /// The file that holds a blob.
    pub fn blob_path(&self, digest: Digest) -> Option<PathBuf> {
        let blobs = self.content.as_ref()?.join("blobs/sha256");
        Some(blobs.join(digest.encoded()))
    }
}

/// Why a call to the runtime gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// What was asked for is not there.
    #[error("not found")]
    NotFound,
    /// Nobody listens, or the connection broke.
    #[error("runtime cannot be reached: {message}")]
    Unreachable {
        /// What the transport said, shortened and escaped.
        message: String,
    },
    /// No answer in time.
    #[error("no answer within {seconds} s")]
    Deadline {
        /// The deadline.
        seconds: u64,
    },
    /// containerd answered, but the shim behind it did not.
    #[error("the task's shim does not answer")]
    ShimSilent,
    /// Larger or more than we read.
    #[error("answer exceeds {limit}")]
    TooLarge {
        /// The bound.
        limit: u64,
    },
    /// The answer is not one that this call can give.
    #[error("answer cannot be read: {field}")]
    Malformed {
        /// The field.
        field: &'static str,
    },
    /// An error of containerd's own.
    #[error("runtime refused: code {code}: {message}")]
    Refused {
        /// The gRPC code.
        code: i32,
        /// What it said, shortened and escaped.
        message: String,
    },
}

impl CallError {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Unreachable { .. } => "runtime-unreachable",
            Self::Deadline { .. } => "runtime-deadline",
            Self::ShimSilent => "shim-silent",
            Self::TooLarge { .. } => "answer-too-large",
            Self::Malformed { .. } => "answer-malformed",
            Self::Refused { .. } => "runtime-refused",
        }
    }
}

/// An answer of the runtime, some time later.
pub trait Answer<T>: Future<Output = Result<T, CallError>> + Send {}
impl<T, F: Future<Output = Result<T, CallError>> + Send> Answer<T> for F {}

/// A container runtime. Every call ends within its deadline, and every answer is bounded.
pub trait Runtime: Send + Sync + 'static {
    /// All namespaces: a container in one that nobody expects is itself a finding.
    fn namespaces(&self) -> impl Answer<Vec<String>>;

    /// The containers of a namespace: definitions only, so no shim is asked.
    fn containers(&self, namespace: &str) -> impl Answer<Vec<ContainerRecord>>;

    /// One container's definition.
    fn container(&self, key: &ContainerKey) -> impl Answer<ContainerRecord>;

    /// A container's task; asks its shim. `NotFound` when there is none.
    fn task(&self, key: &ContainerKey) -> impl Answer<Task>;

    /// A snapshot and its parents, from `snapshot_key` down to the lowest.
    fn chain(
        &self,
        namespace: &str,
        snapshotter: &str,
        snapshot_key: &str,
    ) -> impl Answer<Vec<Snapshot>>;

    /// The mounts of an active snapshot.
    fn mounts(
        &self,
        namespace: &str,
        snapshotter: &str,
        snapshot_key: &str,
    ) -> impl Answer<Vec<Mount>>;

    /// The image names of a namespace.
    fn images(&self, namespace: &str) -> impl Answer<Vec<ImageRecord>>;

    /// A blob, whole, if it is at most `limit` bytes. The bytes are as they are on disk: the caller
    /// checks the digest.
    fn read_blob(&self, namespace: &str, digest: Digest, limit: u64) -> impl Answer<Vec<u8>>;

    /// Where the files are; empty where the runtime does not say.
    fn roots(&self) -> impl Answer<Roots>;

    /// Sends what happens until the receiver is gone: connects, subscribes, says
    /// [`events::Event::Connected`], and does so again after every loss.
    fn watch(&self, events: mpsc::Sender<events::Event>) -> impl Future<Output = ()> + Send;
}

/// Asks for the tasks of `keys`, each on its own: one hung shim delays nobody else. Answers come as
/// they arrive; the receiver ends after the last.
pub fn tasks_of<R: Runtime>(
    runtime: &Arc<R>,
    keys: Vec<ContainerKey>,
    on: &mut JoinSet<()>,
) -> mpsc::Receiver<(ContainerKey, Result<Task, CallError>)> {
    let (answers, receiver) = mpsc::channel(keys.len().max(1));
    for key in keys {
        let (runtime, answers) = (Arc::clone(runtime), answers.clone());
        on.spawn(async move {
            let task = runtime.task(&key).await;
            // A receiver that is gone no longer wants to know.
            drop(answers.send((key, task)).await);
        });
    }
    receiver
}
