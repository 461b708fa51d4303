//! A blob for a reader that blocks: on a thread for that, piece by piece as it comes, within an hour's
//! bytes, and given up at once when the program stops.
//!
//! What a host sends that is not the blob is that host's fault: the next one is asked. Only what a reader
//! says of bytes that hash to the digest is said of the blob.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use holdfast_core::reference::Repository;
use holdfast_daemon::shutdown::{Stop, stopped};
use tokio::runtime::Handle;

use crate::allowance::Allowance;
use crate::client::Client;
use crate::error::FetchError;
use crate::stream::{Blob, BlobStream};

/// Reads blobs on the thread that asks.
#[derive(Debug)]
pub struct Reading {
    client: Client,
    allowance: Allowance,
    runtime: Handle,
}

/// Why a blob was not read.
#[derive(Debug, thiserror::Error)]
pub enum NotRead<E> {
    /// No host gave it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It came, and the reader refuses it.
    #[error(transparent)]
    Refused(E),
    /// The program stops.
    #[error("nobody waits any more")]
    GaveUp,
}

/// The program stops.
struct GaveUp;

impl<E> From<GaveUp> for NotRead<E> {
    fn from(_gave_up: GaveUp) -> Self {
        Self::GaveUp
    }
}

impl Reading {
    /// Reads with `client`, within the allowance, waiting on `runtime`.
    pub const fn new(client: Client, allowance: Allowance, runtime: Handle) -> Self {
        Self {
            client,
            allowance,
            runtime,
        }
    }

    /// Has `read` read a blob to its end, from the first host that gives it. Blocks for minutes.
    pub fn read<T, E>(
        &self,
        repository: &Repository,
        blob: Blob,
        stop: &Stop,
        mut read: impl FnMut(&mut Coming<'_>) -> Result<T, E>,
    ) -> Result<T, NotRead<E>> {
        let offers = self.client.offers(repository, blob);
        let mut offers = wait(&self.runtime, stop, offers)??;
        loop {
            self.allowance.take(blob.size)?;
            let stream = match wait(&self.runtime, stop, offers.next()) {
                Ok(Some(stream)) => stream,
                none => {
                    self.allowance.put_back(blob.size);
                    none?;
                    return Err(offers.into_error().into());
                }
            };
            let mut coming = self.coming(stream, stop);
            let done = read(&mut coming);
            let received = coming.stream.received();
            self.allowance.put_back(blob.size.saturating_sub(received));
            match (done, coming.ended) {
                (Ok(done), _) => return Ok(done),
                // These bytes are the blob.
                (Err(error), Some(Ok(()))) => return Err(NotRead::Refused(error)),
                (Err(_), Some(Err(error))) => offers.refuse(error),
                (Err(_), None) => return Err(NotRead::GaveUp),
            }
        }
    }

    /// The blob once more, for a reader that needs it twice: from the first host that has it.
    pub fn again<'a>(
        &'a self,
        repository: &Repository,
        blob: Blob,
        stop: &'a Stop,
    ) -> io::Result<Coming<'a>> {
        self.allowance.take(blob.size).map_err(io::Error::other)?;
        let stream = wait(&self.runtime, stop, async {
            let mut offers = self.client.offers(repository, blob).await?;
            let stream = offers.next().await;
            stream.ok_or_else(|| offers.into_error())
        });
        match stream {
            Ok(Ok(stream)) => Ok(self.coming(stream, stop)),
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(GaveUp) => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    const fn coming<'a>(&'a self, stream: BlobStream, stop: &'a Stop) -> Coming<'a> {
        Coming {
            runtime: &self.runtime,
            stop,
            stream,
            rest: Bytes::new(),
            ended: None,
        }
    }
}

/// Waits on this thread, unless stopped.
fn wait<T>(runtime: &Handle, stop: &Stop, coming: impl Future<Output = T>) -> Result<T, GaveUp> {
    let mut stop = stop.clone();
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => Err(GaveUp),
            came = coming => Ok(came),
        }
    })
}

/// A blob under way.
#[derive(Debug)]
pub struct Coming<'a> {
    runtime: &'a Handle,
    stop: &'a Stop,
    stream: BlobStream,
    rest: Bytes,
    /// How the stream ended, if it has. Without an end it was given up.
    ended: Option<Result<(), FetchError>>,
}

impl Read for Coming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            let piece = wait(self.runtime, self.stop, self.stream.piece());
            match piece.map_err(|GaveUp| io::Error::other("stopped"))? {
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
