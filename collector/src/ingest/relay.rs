//! The relay's calls: parsed at the door, answered at once. What reads or writes files does it on a thread
//! for that, and only so many at a time: findings come over the same connections, and go first.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use holdfast_core::digest::{DiffId, Digest};
use holdfast_protocol::v1::part::Of;
use holdfast_protocol::v1::relay_server::{Relay as RelayCalls, RelayServer};
use holdfast_protocol::{
    MAX_CONTENT_BYTES, MAX_CONTENTS, MAX_FAILED, MAX_MESSAGE_BYTES, MAX_OFFERS, MAX_PIECE_BYTES,
    MAX_REPOSITORIES, MAX_TABLES, v1,
};
use holdfast_registry::Blob;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tower::Service;

use super::Ingest;
use crate::nodes::{Table, Tables};
use crate::relay::{Found, Layer, Relay, SkeletonName};

/// Relay calls of all connections at a time, of the 128 that there are: one more is told to come later.
const MAX_RELAY_CALLS: usize = 32;

/// Why a message is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("a digest has 32 bytes")]
    Digest,
    #[error("a repository's name is none")]
    Repository,
    #[error("a layer is missing")]
    Layer,
    #[error("nothing is named that could be taken")]
    Part,
    #[error("more of something than a message may hold")]
    TooMany,
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

/// What the calls work with.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    relay: Relay,
    tables: Arc<Tables>,
}

/// The relay's server with its limits.
pub(super) fn server(relay: Relay, tables: Arc<Tables>) -> Bounded<RelayServer<Calls>> {
    let server = RelayServer::new(Calls { relay, tables });
    Bounded {
        inner: server.max_decoding_message_size(MAX_MESSAGE_BYTES),
        places: Arc::new(Semaphore::new(MAX_RELAY_CALLS)),
    }
}

#[tonic::async_trait]
impl RelayCalls for Calls {
    async fn offer(&self, request: Request<v1::Offers>) -> Result<Response<v1::Wishes>, Status> {
        let node = Ingest::node(&request)?;
        let offers = some(request.into_inner().skeletons, MAX_OFFERS)?;
        let offers = offers.iter().map(skeleton_name);
        let offers: Vec<SkeletonName> = offers.collect::<Result<_, _>>()?;
        let wishes = self.relay.offered(&node, &offers);
        Ok(Response::new(v1::Wishes {
            digests: wishes.into_iter().map(bytes).collect(),
        }))
    }

    async fn give(&self, request: Request<v1::Piece>) -> Result<Response<v1::Given>, Status> {
        let node = Ingest::node(&request)?;
        let piece = request.into_inner();
        let digest = digest(&piece.digest)?;
        if piece.content.len() > MAX_PIECE_BYTES {
            return Err(Malformed::TooMany.into());
        }
        let relay = self.relay.clone();
        let more =
            blocking(move || relay.given(&node, digest, piece.offset, &piece.content)).await?;
        Ok(Response::new(v1::Given { more }))
    }

    async fn seek(&self, request: Request<v1::Sought>) -> Result<Response<v1::Found>, Status> {
        let node = Ingest::node(&request)?;
        let sought = request.into_inner();
        let layer = layer(sought.layer.ok_or(Malformed::Layer)?)?;
        let failed = some(sought.failed, MAX_FAILED)?;
        let failed = failed.iter().map(|failed| digest(failed));
        let failed: Vec<Digest> = failed.collect::<Result<_, _>>()?;
        let found = if sought.contents.is_empty() {
            self.relay.seek_skeleton(&node, &layer, &failed)
        } else {
            let wanted = contents(sought.contents)?;
            self.relay.seek_contents(&node, &layer, wanted)
        };
        Ok(Response::new(to_wire(found)))
    }

    async fn take(&self, request: Request<v1::Part>) -> Result<Response<v1::Piece>, Status> {
        Ingest::node(&request)?;
        let v1::Part { of, offset } = request.into_inner();
        let relay = self.relay.clone();
        let (name, piece) = match of.ok_or(Malformed::Part)? {
            Of::Skeleton(name) => {
                let digest = digest(&name)?;
                (
                    name,
                    blocking(move || relay.skeleton(digest, offset)).await?,
                )
            }
            Of::Content(name) => {
                let digest = digest(&name)?;
                (name, blocking(move || relay.content(digest, offset)).await?)
            }
        };
        let content = piece.ok_or_else(|| Status::not_found("it is not here any more"))?;
        Ok(Response::new(v1::Piece {
            digest: name,
            offset,
            content,
        }))
    }

    async fn report_tables(
        &self,
        request: Request<v1::Tables>,
    ) -> Result<Response<v1::TablesNoted>, Status> {
        let node = Ingest::node(&request)?;
        let v1::Tables { version, tables } = request.into_inner();
        let now = Instant::now();
        for table in some(tables, MAX_TABLES)? {
            let said = digest(&table.digest)?;
            let layer = DiffId(digest(&table.diff_id)?);
            self.tables.note(&node, Table { layer, version }, said, now);
        }
        Ok(Response::new(v1::TablesNoted {}))
    }
}

/// Reads and writes files on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    match done.map_err(io::Error::other).flatten() {
        Ok(done) => Ok(done),
        Err(error) => {
            tracing::warn!(%error, "Relayed files cannot be used.");
            Err(Status::unavailable("the collector cannot use its files"))
        }
    }
}

fn some<T>(list: Vec<T>, limit: usize) -> Result<Vec<T>, Malformed> {
    if list.len() > limit {
        Err(Malformed::TooMany)
    } else {
        Ok(list)
    }
}

fn skeleton_name(name: &v1::SkeletonName) -> Result<SkeletonName, Malformed> {
    Ok(SkeletonName {
        layer: DiffId(digest(&name.diff_id)?),
        digest: digest(&name.digest)?,
        length: name.length,
    })
}

fn layer(layer: v1::Layer) -> Result<Layer, Malformed> {
    let names = some(layer.repositories, MAX_REPOSITORIES)?;
    let names = names.iter().map(|name| name.parse());
    Ok(Layer {
        diff_id: DiffId(digest(&layer.diff_id)?),
        blob: Blob {
            digest: digest(&layer.blob)?,
            size: layer.size,
        },
        repositories: names
            .collect::<Result<_, _>>()
            .map_err(|_reference| Malformed::Repository)?,
    })
}

fn contents(
    contents: Vec<v1::Content>,
) -> Result<std::collections::BTreeMap<Digest, u64>, Malformed> {
    let contents = some(contents, MAX_CONTENTS)?;
    let total = contents
        .iter()
        .fold(0_u64, |sum, content| sum.saturating_add(content.size));
    if total > MAX_CONTENT_BYTES {
        return Err(Malformed::TooMany);
    }
    let contents = contents.into_iter();
    contents
        .map(|content| Ok((digest(&content.digest)?, content.size)))
        .collect()
}

fn digest(bytes: &[u8]) -> Result<Digest, Malformed> {
    let raw = bytes.try_into().map_err(|_length| Malformed::Digest)?;
    Ok(Digest::from_sha256(raw))
}

fn bytes(digest: Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

fn to_wire(found: Found) -> v1::Found {
    use v1::found::Outcome;
    let outcome = match found {
        Found::Skeleton(name) => Outcome::Skeleton(v1::SkeletonName {
            diff_id: bytes(name.layer.0),
            digest: bytes(name.digest),
            length: name.length,
        }),
        Found::Contents => Outcome::Contents(v1::Contents {}),
        Found::UnderWay => Outcome::UnderWay(v1::UnderWay {}),
        Found::Absent(reason) => Outcome::Absent(v1::Absent { reason }),
    };
    v1::Found {
        outcome: Some(outcome),
    }
}

/// A service that refuses at once what it has no place for, before a byte of the message is read: a slow
/// peer must not hold the places of those that report.
#[derive(Clone, Debug)]
pub(super) struct Bounded<S> {
    inner: S,
    places: Arc<Semaphore>,
}

impl<S: NamedService> NamedService for Bounded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S, B> Service<http::Request<B>> for Bounded<S>
where
    S: Service<http::Request<B>, Response = http::Response<tonic::body::Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = tonic::codegen::BoxFuture<S::Response, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let refusal = Status::resource_exhausted("too many relay calls");
            return Box::pin(std::future::ready(Ok(refusal.into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(place);
            answer
        })
    }
}
