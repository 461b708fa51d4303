//! One question to the collector, and what it gives: taken piece by piece, each as long as it has to be,
//! and kept only when it is what was named.

use std::io::{self, Write as _};
use std::sync::Arc;

use holdfast_core::digest::Digest;
use holdfast_core::display;
use holdfast_core::layer::skeleton::Skeleton;
use holdfast_protocol::v1::found::Outcome;
use holdfast_protocol::v1::part::Of;
use holdfast_protocol::{
    MAX_CONTENTS, MAX_FAILED, MAX_PIECE_BYTES, MAX_REPOSITORIES, MAX_SKELETON_BYTES, v1,
};

use super::client::{CallError, Client};
use crate::files::asks::{Ask, Need, NotRelayed};
use crate::files::fetch::Remote;
use crate::files::tables::Tables;
use crate::telemetry::{Metrics, Relayed};

/// A reason that the collector gives, in findings.
const MAX_REASON_CHARS: usize = 200;

/// What became of a question.
#[derive(Debug)]
pub(super) enum Answered {
    /// What came is where proofs look for it.
    Kept,
    /// The collector is fetching it.
    UnderWay,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Error {
    /// The collector does not answer.
    Call(CallError),
    /// It answers, and what it gives is nothing.
    Content(NotRelayed),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl<E: Into<NotRelayed>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Content(error.into())
    }
}

/// Asks once.
pub(super) async fn ask(
    client: &Client,
    tables: &Arc<Tables>,
    metrics: &Metrics,
    ask: &Ask,
) -> Result<Answered, Error> {
    let found = client.seek(sought(ask)).await?;
    match (found.outcome, &ask.need) {
        (Some(Outcome::UnderWay(_)), _) => Ok(Answered::UnderWay),
        (Some(Outcome::Absent(absent)), _) => {
            let shown = display::escape(absent.reason.as_bytes());
            let reason = shown.chars().take(MAX_REASON_CHARS).collect();
            Err(NotRelayed::Absent(reason).into())
        }
        (Some(Outcome::Skeleton(name)), Need::Skeleton { failed }) => {
            take_skeleton(client, tables, &ask.layer, failed, &name).await?;
            metrics.relayed(Relayed::SkeletonTaken);
            Ok(Answered::Kept)
        }
        (Some(Outcome::Contents(_)), Need::Contents { contents, .. }) => {
            for (digest, size) in contents {
                take_content(client, tables, *digest, *size).await?;
                metrics.relayed(Relayed::ContentTaken);
            }
            Ok(Answered::Kept)
        }
        (Some(Outcome::Skeleton(_) | Outcome::Contents(_)) | None, _) => {
            Err(NotRelayed::Other.into())
        }
    }
}

fn sought(ask: &Ask) -> v1::Sought {
    let (failed, contents) = match &ask.need {
        Need::Skeleton { failed } => (failed.clone(), Vec::new()),
        Need::Contents { skeleton, contents } => (vec![*skeleton], contents.clone()),
    };
    let failed = failed.iter().take(MAX_FAILED);
    let contents = contents.iter().take(MAX_CONTENTS);
    let Remote {
        diff_id,
        blob,
        repositories,
    } = &ask.layer;
    v1::Sought {
        layer: Some(v1::Layer {
            diff_id: bytes(diff_id.0),
            blob: bytes(blob.digest),
            size: blob.size,
            repositories: repositories
                .iter()
                .take(MAX_REPOSITORIES)
                .map(ToString::to_string)
                .collect(),
        }),
        failed: failed.map(|digest| bytes(*digest)).collect(),
        contents: contents
            .map(|(digest, size)| v1::Content {
                digest: bytes(*digest),
                size: *size,
            })
            .collect(),
    }
}

/// 1. It is none of those that failed here, and not longer than any.
/// 2. It comes whole, and is a skeleton of this layer and the one that was named.
async fn take_skeleton(
    client: &Client,
    tables: &Arc<Tables>,
    layer: &Remote,
    failed: &[Digest],
    name: &v1::SkeletonName,
) -> Result<(), Error> {
    // (1)
    let digest = digest(&name.digest).ok_or(NotRelayed::Other)?;
    if failed.contains(&digest) || name.length > MAX_SKELETON_BYTES {
        return Err(NotRelayed::Other.into());
    }
    // (2)
    let mut encoded = Vec::new();
    let of = Of::Skeleton(bytes(digest));
    take(client, of, name.length, |piece| {
        encoded.extend_from_slice(piece);
        Ok(())
    })
    .await?;
    let (tables, diff_id) = (Arc::clone(tables), layer.diff_id);
    blocking(move || {
        let skeleton = Skeleton::decode(encoded)?;
        if skeleton.digest() != digest || skeleton.diff_id() != diff_id {
            return Err(NotRelayed::Other);
        }
        Ok(tables.skeletons().put_relayed(&skeleton)?)
    })
    .await
}

async fn take_content(
    client: &Client,
    tables: &Arc<Tables>,
    digest: Digest,
    size: u64,
) -> Result<(), Error> {
    let mut coming = tables.skeletons().coming_content()?;
    take(client, Of::Content(bytes(digest)), size, |piece| {
        coming.write_all(piece)
    })
    .await?;
    let tables = Arc::clone(tables);
    blocking(move || {
        if tables.skeletons().put_content(coming, digest)? {
            Ok(())
        } else {
            Err(NotRelayed::Other)
        }
    })
    .await
}

/// Takes `length` bytes, in pieces that are as long as they can be: with shorter ones it would never end.
async fn take(
    client: &Client,
    of: Of,
    length: u64,
    mut keep: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Error> {
    let mut offset = 0_u64;
    while offset < length {
        let part = v1::Part {
            of: Some(of.clone()),
            offset,
        };
        let piece = client.take(part).await?.content;
        let rest = length.saturating_sub(offset);
        let due = usize::try_from(rest).unwrap_or(usize::MAX);
        if piece.len() != due.min(MAX_PIECE_BYTES) {
            return Err(NotRelayed::Other.into());
        }
        keep(&piece)?;
        offset = offset.saturating_add(u64::try_from(piece.len()).map_err(io::Error::other)?);
    }
    Ok(())
}

/// Hashes and waits for the disk on a thread for that.
async fn blocking(
    work: impl FnOnce() -> Result<(), NotRelayed> + Send + 'static,
) -> Result<(), Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(io::Error::other)?.map_err(Error::Content)
}

fn bytes(digest: Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

fn digest(bytes: &[u8]) -> Option<Digest> {
    Some(Digest::from_sha256(bytes.try_into().ok()?))
}
