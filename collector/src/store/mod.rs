//! What the collector remembers, as rows. Only `sqlite/` knows SQL; nobody else may.
//!
//! There is one writer, which joins batches into transactions, and several readers. A second database
//! is a second folder beside `sqlite/` with the same functions.

mod sqlite;

use holdfast_core::finding::{Fingerprint, Resolution, Severity, Transition};

pub use self::sqlite::{Opened, Store, Tx, Writer};

/// The collector's own voice about a node; an agent's batch with this epoch is refused.
pub const OWN_EPOCH: u64 = 0;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database said no.
    #[error("store: {0}")]
    Database(#[from] sqlx::Error),
    /// The database is damaged: it is set aside at the next start.
    #[error("store is damaged: {0}")]
    Damaged(sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("store: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A newer collector has written it.
    #[error("store was written by a newer collector (schema {0})")]
    Newer(i64),
    /// A file could not be created or moved.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A row holds what we never write.
    #[error("store holds a row that cannot be read: {0}")]
    Row(&'static str),
}

/// One problem on one container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlaceKey {
    /// The finding that it belongs to.
    pub fingerprint: Fingerprint,
    /// The node.
    pub node: String,
    /// containerd namespace; empty for a finding about a node.
    pub namespace: String,
    /// containerd's container id; empty for a finding about a node.
    pub container: String,
}

/// A place as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRow {
    /// Which one.
    pub key: PlaceKey,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub title: String,
    /// The bounded part of its document that lists and alerts need, as JSON.
    pub brief: String,
    /// When the node first saw it, by the node's clock.
    pub first_seen: i64,
    /// When the node last saw it changed.
    pub last_seen: i64,
    /// When it was resolved, by our clock.
    pub resolved: Option<i64>,
    /// Why.
    pub reason: Option<Resolution>,
    /// Epoch of the transition that holds its document.
    pub epoch: u64,
    /// Sequence of that transition.
    pub sequence: u64,
}

/// A finding as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingRow {
    /// Its number in the store, 0 before it has one: the order of lists.
    pub id: i64,
    /// Which one.
    pub fingerprint: Fingerprint,
    /// The kind's name.
    pub kind: String,
    /// The workload.
    pub workload: String,
    /// What it is about.
    pub subject: String,
    /// The worst of its open places; of the last ones when it is resolved.
    pub severity: Severity,
    /// The earliest sight since it was opened, by a node's clock.
    pub first_seen: i64,
    /// The latest sight.
    pub last_seen: i64,
    /// When it was opened, by our clock.
    pub opened: i64,
    /// When its last place was resolved, by our clock.
    pub resolved: Option<i64>,
    /// Why that one was.
    pub reason: Option<Resolution>,
    /// How many places are open.
    pub places_open: u64,
    /// The worst open place, the latest among equals.
    pub lead: PlaceKey,
    /// Digests of what has been seen in it since it was opened.
    pub members: Vec<u8>,
    /// How often it was worth a new notification.
    pub news: u64,
    /// When it last was, by our clock.
    pub news_at: i64,
    /// The transaction that last touched it.
    pub change: i64,
}

impl FindingRow {
    /// Whether a place is open.
    pub const fn is_open(&self) -> bool {
        self.resolved.is_none()
    }
}

/// A finding with what lists and alerts say of its lead place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingView {
    /// The finding.
    pub finding: FindingRow,
    /// The lead place's title.
    pub title: String,
    /// The lead place's brief.
    pub brief: String,
    /// The first few nodes with an open place, by name.
    pub nodes: Vec<String>,
}

/// The worst open place of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// The place.
    pub key: PlaceKey,
    /// Its severity, which is the finding's.
    pub severity: Severity,
    /// How many places are open.
    pub places_open: u64,
}

/// One transition of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow<'b> {
    /// The place. Its node is the sender's.
    pub key: PlaceKey,
    /// The spool it came from.
    pub epoch: u64,
    /// Its number there.
    pub sequence: u64,
    /// What happened.
    pub transition: Transition,
    /// Why it is resolved.
    pub reason: Option<Resolution>,
    /// How bad it was.
    pub severity: Severity,
    /// When, by the node's clock.
    pub observed: i64,
    /// When it reached us.
    pub received: i64,
    /// The document; none for what the collector concluded by itself.
    pub document: Option<&'b str>,
}

/// The latest state of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRow {
    /// The node.
    pub node: String,
    /// containerd namespace.
    pub namespace: String,
    /// containerd's container id.
    pub container: String,
    /// False once it has ended.
    pub is_running: bool,
    /// When the node said so, by its clock.
    pub observed: i64,
    /// When it reached us.
    pub received: i64,
    /// The document.
    pub document: String,
}

/// How far a spool has been taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// The node.
    pub node: String,
    /// The spool.
    pub epoch: u64,
    /// Everything up to this is stored.
    pub last_sequence: u64,
    /// When the last batch came.
    pub last_batch: i64,
    /// When the last full report came.
    pub full_report: Option<i64>,
}

/// A node that has reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// When it was first heard.
    pub first_heard: i64,
    /// When it was last heard, up to a minute ago.
    pub last_heard: i64,
    /// Its last heartbeat, as JSON.
    pub heartbeat: String,
}

/// Which findings are asked for.
#[derive(Clone, Debug, Default)]
pub struct FindingFilter {
    /// Open only, resolved only, or both.
    pub is_open: Option<bool>,
    /// One of these; empty means any.
    pub severities: Vec<Severity>,
    /// One of these kinds; empty means any.
    pub kinds: Vec<String>,
    /// Exactly this workload.
    pub workload: Option<String>,
    /// Only those listed after this number.
    pub after: Option<i64>,
    /// At most this many.
    pub limit: i64,
}
