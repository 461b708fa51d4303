//! Reading what a registry answers: every status by its name, bodies within a limit and never
//! decompressed, digests compared. It asks for nothing itself.

use holdfast_core::digest::{Digest, DigestError};
use holdfast_core::trust::classic::MANIFEST_TYPES;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};

use crate::error::FetchError;

/// Media types of an index, beside those of a manifest.
const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Bytes and the headers that came with them.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

/// What a status other than a good one means.
pub(crate) const fn named(status: u16) -> FetchError {
    match status {
        401 => FetchError::Unauthorized,
        403 => FetchError::Forbidden,
        404 => FetchError::NotFound,
        500.. => FetchError::Server(status),
        status => FetchError::Status(status),
    }
}

/// Compressed bytes were not asked for: they are small on the wire, and without bound in memory.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    encodings.any(|encoding| encoding != "identity")
}

/// At most `limit` bytes of a body that is not compressed.
pub(crate) async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, FetchError> {
    if is_encoded(response.headers()) {
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

pub(crate) fn checked(actual: Digest, due: Digest) -> Result<(), FetchError> {
    if actual == due {
        Ok(())
    } else {
        Err(FetchError::WrongDigest { due, actual })
    }
}

/// Whether the answer is a manifest or an index, by its media type.
pub(crate) fn is_manifest(headers: &HeaderMap) -> bool {
    media_type(headers)
        .is_some_and(|found| is_one_of(found, MANIFEST_TYPES) || is_one_of(found, INDEX_TYPES))
}

/// Whether the answer is an index, by its media type.
pub(crate) fn is_index(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|found| is_one_of(found, INDEX_TYPES))
}

fn media_type(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim())
}

fn is_one_of(media_type: &str, known: [&str; 2]) -> bool {
    known
        .iter()
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
