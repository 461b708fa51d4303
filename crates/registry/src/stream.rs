//! A layer's blob, piece by piece: for whoever reads it once and has no room for it.
//!
//! The digest is that of all bytes that were handed out, and is checked before the end is. A stream that
//! breaks is taken up once where it broke. It ends in time, whatever the other side drips.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use reqwest::Response;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::answer::{checked, is_encoded};
use crate::client::{Client, Tried, object};
use crate::endpoint::{Endpoint, Need};
use crate::error::FetchError;
use crate::retry::Retry;
use crate::transport::Ask;

/// A blob as a manifest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length: not one byte more is read.
    pub size: u64,
}

/// The hosts that may have a blob, one after the other: what one of them breaks off or has altered is
/// taken from the next, from its beginning.
#[derive(Debug)]
pub struct Offers {
    client: Client,
    repository: Repository,
    blob: Blob,
    hosts: Arc<Vec<Endpoint>>,
    next: usize,
    tried: Tried,
}

impl Client {
    /// The hosts that may have `blob` of `repository`.
    pub async fn offers(&self, repository: &Repository, blob: Blob) -> Result<Offers, FetchError> {
        let hosts = self.transport.hosts.of(repository.registry()).await?;
        Ok(Offers {
            client: self.clone(),
            repository: repository.clone(),
            blob,
            hosts,
            next: 0,
            tried: Tried::default(),
        })
    }
}

impl Offers {
    /// Opens the blob at the next host that has it; `None` after the last, and [`Self::into_error`] says
    /// why.
    pub async fn next(&mut self) -> Option<BlobStream> {
        while let Some(endpoint) = self.hosts.get(self.next) {
            self.next = self.next.saturating_add(1);
            if !endpoint.capabilities.allow(Need::Content) {
                continue;
            }
            match BlobStream::open(&self.client, endpoint, &self.repository, self.blob).await {
                Ok(stream) => return Some(stream),
                Err(error) => self.tried.note(endpoint, error),
            }
        }
        None
    }

    /// The stream that the last host gave was of no use.
    pub fn refuse(&mut self, error: FetchError) {
        if let Some(endpoint) = self.next.checked_sub(1).and_then(|at| self.hosts.get(at)) {
            self.tried.note(endpoint, error);
        }
    }

    /// Why no host has it.
    pub fn into_error(self) -> FetchError {
        self.tried.into_error()
    }
}

/// A blob under way from one host.
pub struct BlobStream {
    client: Client,
    endpoint: Endpoint,
    repository: Repository,
    blob: Blob,
    response: Response,
    hasher: Sha256,
    /// Bytes that were handed out.
    at: u64,
    /// Bytes to pass over, of a host that begins again when asked for the rest.
    skip: u64,
    is_resumed: bool,
    ends_at: Instant,
    /// How it ended.
    ended: Option<Result<(), FetchError>>,
    _download: OwnedSemaphorePermit,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobStream")
            .field("blob", &self.blob)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl BlobStream {
    async fn open(
        client: &Client,
        endpoint: &Endpoint,
        repository: &Repository,
        blob: Blob,
    ) -> Result<Self, FetchError> {
        let download = Arc::clone(&client.downloads)
            .acquire_owned()
            .await
            .map_err(|_closed| FetchError::Busy)?;
        let response = ask(client, endpoint, (repository, blob), 0).await?;
        announced(&response, blob.size)?;
        let timing = client.transport.timing;
        let slowest = blob.size / u64::from(timing.slowest.max(1));
        let whole = timing.grace.saturating_add(Duration::from_secs(slowest));
        Ok(Self {
            client: client.clone(),
            endpoint: endpoint.clone(),
            repository: repository.clone(),
            blob,
            response,
            hasher: Sha256::new(),
            at: 0,
            skip: 0,
            is_resumed: false,
            ends_at: Instant::now()
                .checked_add(whole)
                .unwrap_or_else(Instant::now),
            ended: None,
            _download: download,
        })
    }

    /// Bytes that were handed out so far.
    pub const fn received(&self) -> u64 {
        self.at
    }

    /// The next piece; `None` when the blob is whole and is the one that was asked for.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, FetchError> {
        if let Some(ended) = &self.ended {
            return ended.clone().map(|()| None);
        }
        match self.unchecked_piece().await {
            Ok(Some(piece)) => {
                self.hasher.update(&piece);
                Ok(Some(piece))
            }
            Ok(None) => {
                let hasher = std::mem::take(&mut self.hasher);
                let actual = Digest::from_sha256(hasher.finalize().into());
                self.end(checked(actual, self.blob.digest))
            }
            Err(error) => self.end(Err(error)),
        }
    }

    fn end(&mut self, ended: Result<(), FetchError>) -> Result<Option<Bytes>, FetchError> {
        self.ended = Some(ended.clone());
        ended.map(|()| None)
    }

    /// The next piece, not longer than due; `None` at the due length.
    async fn unchecked_piece(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let came = match self.wait().await {
                Ok(Some(came)) => self.cut(came)?,
                Ok(None) if self.at == self.blob.size => return Ok(None),
                Ok(None) => {
                    self.resume(FetchError::WrongLength {
                        due: self.blob.size,
                        actual: self.at,
                    })
                    .await?;
                    continue;
                }
                Err(error) => {
                    self.resume(error).await?;
                    continue;
                }
            };
            if !came.is_empty() {
                return Ok(Some(came));
            }
        }
    }

    /// What the host sends next, in time.
    async fn wait(&mut self) -> Result<Option<Bytes>, FetchError> {
        let left = self.ends_at.saturating_duration_since(Instant::now());
        let stall = self.client.transport.timing.stall.min(left);
        tokio::time::timeout(stall, self.response.chunk())
            .await
            .map_err(|_elapsed| FetchError::Timeout)?
            .map_err(|error| FetchError::of_connection(&error))
    }

    /// Without what was had before the break; an error where it is more than is due.
    fn cut(&mut self, mut came: Bytes) -> Result<Bytes, FetchError> {
        let length = u64::try_from(came.len()).unwrap_or(u64::MAX);
        let passed = length.min(self.skip);
        self.skip = self.skip.saturating_sub(passed);
        came.advance(usize::try_from(passed).unwrap_or(came.len()));
        let at = self.at.saturating_add(length.saturating_sub(passed));
        if at > self.blob.size {
            return Err(FetchError::WrongLength {
                due: self.blob.size,
                actual: at,
            });
        }
        self.at = at;
        Ok(came)
    }

    /// Takes the stream up where it broke, once.
    async fn resume(&mut self, error: FetchError) -> Result<(), FetchError> {
        let is_over = Instant::now() >= self.ends_at;
        if self.is_resumed || is_over {
            return Err(error);
        }
        self.is_resumed = true;
        let what = (&self.repository, self.blob);
        let response = ask(&self.client, &self.endpoint, what, self.at).await?;
        if response.status().as_u16() == 206 {
            let rest = self.blob.size.saturating_sub(self.at);
            if !is_rest(response.headers(), self.at, self.blob.size) {
                return Err(FetchError::WrongRange);
            }
            announced(&response, rest)?;
        } else {
            announced(&response, self.blob.size)?;
            self.skip = self.at;
        }
        self.response = response;
        Ok(())
    }
}

/// Asks for a blob from a byte on, and gives its body to come.
async fn ask(
    client: &Client,
    endpoint: &Endpoint,
    (repository, blob): (&Repository, Blob),
    from: u64,
) -> Result<Response, FetchError> {
    if let Some(fault) = &endpoint.fault {
        return Err(FetchError::Setup(fault.clone()));
    }
    let name = blob.digest.to_string();
    let ask = Ask {
        endpoint,
        repository,
        url: endpoint.url(&object(repository, "blobs", &name))?,
        accept: None,
        from,
    };
    tokio::time::timeout(client.transport.timing.object, attempts(client, &ask))
        .await
        .map_err(|_elapsed| FetchError::Timeout)?
}

async fn attempts(client: &Client, ask: &Ask<'_>) -> Result<Response, FetchError> {
    let mut retry = Retry::new();
    loop {
        match client.transport.ask(ask).await {
            // The place in the lane is for questions: a layer would hold it for minutes.
            Ok(reply) => return Ok(reply.response),
            Err(error) if retry.again(&error).await => {}
            Err(error) => return Err(error),
        }
    }
}

/// Refuses a body that is announced as another than the one that is due.
fn announced(response: &Response, due: u64) -> Result<(), FetchError> {
    if is_encoded(response.headers()) {
        return Err(FetchError::Encoded);
    }
    match response.content_length() {
        Some(actual) if actual != due => Err(FetchError::WrongLength { due, actual }),
        _ => Ok(()),
    }
}

/// Whether the answer is the rest of a body of `size` bytes, from byte `from` on.
fn is_rest(headers: &HeaderMap, from: u64, size: u64) -> bool {
    let range = headers
        .get(CONTENT_RANGE)
        .and_then(|range| range.to_str().ok())
        .and_then(|range| range.trim().strip_prefix("bytes "))
        .and_then(|range| range.split_once('/'));
    let last = size.saturating_sub(1);
    range.is_some_and(|(range, total)| {
        range == format!("{from}-{last}") && (total == "*" || total == size.to_string())
    })
}

/// A piece under way, and the stream that it comes from.
type Came = (BlobStream, Result<Option<Bytes>, FetchError>);

async fn coming(mut stream: BlobStream) -> Came {
    let piece = stream.piece().await;
    (stream, piece)
}

/// A blob as a reader: its end is only reached when the digest is right. Errors hold a [`FetchError`].
pub struct BlobReader {
    coming: Option<Pin<Box<dyn Future<Output = Came> + Send>>>,
    stream: Option<BlobStream>,
    rest: Bytes,
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader").finish_non_exhaustive()
    }
}

impl From<BlobStream> for BlobReader {
    fn from(stream: BlobStream) -> Self {
        Self {
            coming: None,
            stream: Some(stream),
            rest: Bytes::new(),
        }
    }
}

impl AsyncRead for BlobReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.rest.is_empty() {
            if let Some(stream) = self.stream.take() {
                self.coming = Some(Box::pin(coming(stream)));
            }
            let Some(next) = &mut self.coming else {
                return Poll::Ready(Ok(()));
            };
            let (stream, piece) = ready!(next.as_mut().poll(context));
            self.coming = None;
            self.stream = Some(stream);
            match piece {
                Ok(Some(piece)) => self.rest = piece,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(std::io::Error::other(error))),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest.split_to(length));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_exactly_what_was_asked_for() {
        for (range, is_due) in [
            ("bytes 5-9/10", true),
            ("bytes 5-9/*", true),
            ("bytes 4-9/10", false),
            ("bytes 5-8/10", false),
            ("bytes 5-9/11", false),
            ("bytes */10", false),
            ("5-9/10", false),
            ("bytes 5-9", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, range.parse().unwrap());
            assert_eq!(is_rest(&headers, 5, 10), is_due, "{range}");
        }
        assert!(!is_rest(&HeaderMap::new(), 5, 10));
    }
}
