//! Reading what a registry answers: every status by its name, bodies within a limit and never
//! decompressed, digests compared. It asks for nothing itself.

use std::time::Duration;

use holdfast_core::digest::{Digest, DigestError};
use holdfast_core::trust::classic::MANIFEST_TYPES;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, RETRY_AFTER};

use crate::error::FetchError;
use crate::lane::Lane;

/// Media types of an index, beside those of a manifest.
const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// Bytes and the headers that came with them.
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

/// Names each status, and reads the body of a good one.
pub(crate) async fn receive(
    response: Response,
    limit: usize,
    lane: &Lane,
) -> Result<Answer, FetchError> {
    match response.status().as_u16() {
        200 => {
            let headers = response.headers().clone();
            let bytes = read(response, limit).await?;
            Ok(Answer { headers, bytes })
        }
        401 => Err(FetchError::Unauthorized),
        403 => Err(FetchError::Forbidden),
        404 => Err(FetchError::NotFound),
        429 => Err(lane.rate_limited(retry_after(response.headers()))),
        status @ 500.. => Err(FetchError::Server(status)),
        status => Err(FetchError::Status(status)),
    }
}

/// At most `limit` bytes of a body that is not compressed.
pub(crate) async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, FetchError> {
    let encodings = response.headers().get_all(CONTENT_ENCODING);
    if encodings.iter().any(|encoding| encoding != "identity") {
        return Err(FetchError::Encoded);
    }
    let too_large = FetchError::TooLarge { limit };
    let promised = response.content_length().map(usize::try_from);
    if promised.is_some_and(|length| length.map_or(true, |length| length > limit)) {
        return Err(too_large);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| FetchError::of_connection(&error))?
    {
        if chunk.len() > limit.saturating_sub(bytes.len()) {
            return Err(too_large);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

pub(crate) fn checked(bytes: Vec<u8>, due: Digest) -> Result<Vec<u8>, FetchError> {
    let actual = Digest::of(&bytes);
    if actual == due {
        Ok(bytes)
    } else {
        Err(FetchError::WrongDigest { due, actual })
    }
}

pub(crate) fn is_manifest(headers: &HeaderMap) -> bool {
    let Some(text) = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let media_type = text.split(';').next().unwrap_or_default().trim();
    MANIFEST_TYPES
        .iter()
        .chain(&INDEX_TYPES)
        .any(|known| media_type.eq_ignore_ascii_case(known))
}

/// The digest that the registry names, if it is of an algorithm that we can check. One that does not
/// parse is none that `actual` could equal, so it is reported as the digest of nothing.
pub(crate) fn named_digest(headers: &HeaderMap, actual: Digest) -> Option<Digest> {
    let named = headers.get("docker-content-digest")?.to_str().ok()?;
    match named.parse() {
        Ok(digest) => Some(digest),
        Err(DigestError::Algorithm) => Some(actual),
        Err(DigestError::Encoding) => Some(Digest::of(b"")),
    }
}

/// Seconds alone: a date would need a clock, and every registry that limits sends seconds.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}
