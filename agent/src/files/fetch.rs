//! The table of a layer whose blob is not on the node: its registry's blob, read once as it comes and kept
//! nowhere. Digest and diff ID are checked in that pass, so whoever sends it need not be trusted.
//!
//! What a host sends that is not the blob is that host's fault and never the image's: a layer is refused
//! only for bytes that hash to its digest.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use holdfast_core::digest::DiffId;
use holdfast_core::layer::{FileTable, Limits, TableError};
use holdfast_core::reference::Repository;
use holdfast_daemon::shutdown::{Stop, stopped};
use holdfast_registry::{Allowance, Blob, BlobStream, Client, FetchError};
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
    client: Client,
    allowance: Allowance,
    limits: Limits,
    runtime: Handle,
}

impl Fetcher {
    /// Fetches with `client`, within the allowance, on `runtime`.
    pub fn new(client: Client, allowance: Allowance, runtime: Handle) -> Self {
        Self {
            client,
            allowance,
            limits: Limits::default(),
            runtime,
        }
    }

    /// The table of a layer, from the first host that has its blob. Blocks for minutes, on a thread for
    /// that; ends at once when stopped.
    pub fn table(&self, remote: &Remote, stop: &Stop) -> Result<FileTable, NotFetched> {
        let mut first = None;
        for repository in &remote.repositories {
            match self.table_of(remote, repository, stop) {
                Err(NotFetched::Fetch(error)) if error != FetchError::OverAllowance => {
                    first.get_or_insert(error);
                }
                done => return done,
            }
        }
        Err(first.map_or(NotFetched::NoName, NotFetched::Fetch))
    }

    fn table_of(
        &self,
        remote: &Remote,
        repository: &Repository,
        stop: &Stop,
    ) -> Result<FileTable, NotFetched> {
        let offers = self.client.offers(repository, remote.blob);
        let mut offers = wait(&self.runtime, stop, offers)??;
        loop {
            self.allowance.take(remote.blob.size)?;
            let stream = match wait(&self.runtime, stop, offers.next()) {
                Ok(Some(stream)) => stream,
                none => {
                    self.allowance.put_back(remote.blob.size);
                    none?;
                    return Err(offers.into_error().into());
                }
            };
            let mut coming = Coming {
                runtime: &self.runtime,
                stop,
                stream,
                rest: Bytes::new(),
                ended: None,
            };
            let (blob, diff_id) = (remote.blob.digest, remote.diff_id);
            let built = FileTable::build(&mut coming, blob, diff_id, &self.limits);
            let received = coming.stream.received();
            self.allowance
                .put_back(remote.blob.size.saturating_sub(received));
            match (built, coming.ended) {
                (Ok(table), _) => return Ok(table),
                // These bytes are the blob.
                (Err(error), Some(Ok(()))) => return Err(NotFetched::Refused(Arc::new(error))),
                (Err(_), Some(Err(error))) => offers.refuse(error),
                (Err(_), None) => return Err(NotFetched::GaveUp),
            }
        }
    }
}

/// Waits on this thread, unless stopped.
fn wait<T>(
    runtime: &Handle,
    stop: &Stop,
    coming: impl Future<Output = T>,
) -> Result<T, NotFetched> {
    let mut stop = stop.clone();
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => Err(NotFetched::GaveUp),
            came = coming => Ok(came),
        }
    })
}

/// A blob under way, for a reader that blocks.
struct Coming<'a> {
    runtime: &'a Handle,
    stop: &'a Stop,
    stream: BlobStream,
    rest: Bytes,
    /// How the stream ended, if it has.
    ended: Option<Result<(), FetchError>>,
}

impl Read for Coming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let piece = wait(self.runtime, self.stop, self.stream.piece());
            // Without an end: it was given up.
            match piece.map_err(io::Error::other)? {
                Ok(Some(piece)) => self.rest = piece,
                Ok(None) => self.ended = Some(Ok(())),
                Err(error) => {
                    self.ended = Some(Err(error.clone()));
                    return Err(io::Error::other(error));
                }
            }
        }
        let length = self.rest.len().min(buffer.len());
        self.rest
            .copy_to_slice(buffer.get_mut(..length).unwrap_or_default());
        Ok(length)
    }
}
