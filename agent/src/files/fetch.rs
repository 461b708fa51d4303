//! The table of a layer whose blob is not on the node: its registry's blob, read once as it comes and kept
//! nowhere. Digest and diff ID are checked in that pass, so whoever sends it need not be trusted.
//!
//! What a host sends that is not the blob is that host's fault and never the image's: a layer is refused
//! only for bytes that hash to its digest.

use std::io;
use std::sync::Arc;

use holdfast_core::digest::DiffId;
use holdfast_core::layer::{FileTable, Limits, TableError};
use holdfast_core::reference::Repository;
use holdfast_daemon::shutdown::Stop;
use holdfast_registry::{Allowance, Blob, Client, FetchError, NotRead, Reading};
use tokio::runtime::Handle;

/// A layer that is not on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Its uncompressed digest.
    pub diff_id: DiffId,
    /// Its blob, as the manifest names it.
    pub blob: Blob,
    /// Where the image's names say that it lives.
    pub repositories: Vec<Repository>,
}

/// Why there is no table from a registry.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotFetched {
    /// The image has no name that leads to a registry.
    #[error("the image has no name that leads to a registry")]
    NoName,
    /// No registry that its names lead to gave the blob.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The blob came, and is no layer that can be modelled.
    #[error("the layer is refused: {0}")]
    Refused(Arc<TableError>),
    /// The table cannot be kept.
    #[error("the table cannot be kept: {0}")]
    Store(io::ErrorKind),
    /// Nobody waits any more.
    #[error("nobody waits any more")]
    GaveUp,
}

/// Reads blobs from registries.
#[derive(Debug)]
pub struct Fetcher {
    reading: Reading,
    limits: Limits,
}

impl Fetcher {
    /// Fetches with `client`, within the allowance, on `runtime`.
    pub fn new(client: Client, allowance: Allowance, runtime: Handle) -> Self {
        Self {
            reading: Reading::new(client, allowance, runtime),
            limits: Limits::default(),
        }
    }

    /// The table of a layer, from the first host that has its blob. Blocks for minutes, on a thread for
    /// that; ends at once when stopped.
    pub fn table(&self, remote: &Remote, stop: &Stop) -> Result<FileTable, NotFetched> {
        let (blob, diff_id) = (remote.blob.digest, remote.diff_id);
        let mut first = None;
        for repository in &remote.repositories {
            let read = self.reading.read(repository, remote.blob, stop, |coming| {
                FileTable::build(coming, blob, diff_id, &self.limits)
            });
            match read {
                Ok(table) => return Ok(table),
                Err(NotRead::Fetch(error)) if error != FetchError::OverAllowance => {
                    first.get_or_insert(error);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(first.map_or(NotFetched::NoName, NotFetched::Fetch))
    }
}

impl From<NotRead<TableError>> for NotFetched {
    fn from(error: NotRead<TableError>) -> Self {
        match error {
            NotRead::Fetch(error) => Self::Fetch(error),
            NotRead::Refused(error) => Self::Refused(Arc::new(error)),
            NotRead::GaveUp => Self::GaveUp,
        }
    }
}
