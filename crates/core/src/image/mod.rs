//! What an image says about itself: index, manifest, config, and the digests that chain them.
//!
//! Everything here is read from bytes that an image's author wrote. A document is bounded before it is
//! parsed, a field that decides is parsed strictly (a key given twice is refused), one that we do not
//! know is ignored. Docker's schema 2 documents are read like OCI's; their fields are the same.

mod config;
mod documents;
mod manifest;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;

pub use config::{Config, RunConfig};
pub use documents::{Documents, Image, Refusal};
pub use manifest::{Document, Index, Manifest, Platform};

/// Largest index, manifest or config that is read: registries refuse manifests above 4 MiB, and a config
/// with a long history stays far below this.
pub const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// How deep indexes may be nested. Two are common; deeper ones serve nobody but an attacker.
pub const MAX_INDEX_DEPTH: usize = 4;
/// Manifests in one index: some forty platforms with their attestations fit thrice.
pub const MAX_MANIFESTS: usize = 256;
/// Layers of one image. The kernel stops overlay at 500; snapshotters that flatten go further.
pub const MAX_LAYERS: usize = 1_000;

/// Why bytes are not the document that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Larger than [`MAX_DOCUMENT_BYTES`].
    #[error("document is larger than {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    /// No JSON, a key given twice, or a field of another type: also a negative size or a digest that is
    /// not SHA-256.
    #[error("malformed at line {line}, column {column}")]
    Malformed {
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// Not schema version 2: schema 1 is signed and digested in other ways.
    #[error("schemaVersion is not 2")]
    SchemaVersion,
    /// Both an index and a manifest, so that two readers would see two images.
    #[error("document is both an index and a manifest")]
    Ambiguous,
    /// Neither an index nor a manifest.
    #[error("document is neither an index nor a manifest")]
    Neither,
    /// `mediaType` says that it is something else.
    #[error("mediaType says that it is something else")]
    MediaType,
    /// More than [`MAX_MANIFESTS`].
    #[error("index lists more than {MAX_MANIFESTS} manifests")]
    TooManyManifests,
    /// More than [`MAX_LAYERS`].
    #[error("more than {MAX_LAYERS} layers")]
    TooManyLayers,
    /// `rootfs.type` is not `layers`.
    #[error("rootfs is not made of layers")]
    RootFs,
}

impl ImageError {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge => "document-too-large",
            Self::Malformed { .. } | Self::Neither => "document-malformed",
            Self::SchemaVersion => "schema-version",
            Self::Ambiguous => "document-ambiguous",
            Self::MediaType => "media-type",
            Self::TooManyManifests => "too-many-manifests",
            Self::TooManyLayers => "too-many-layers",
            Self::RootFs => "rootfs-type",
        }
    }
}

/// What an image part is, by its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MediaKind {
    /// OCI image index or Docker manifest list.
    Index,
    /// OCI image manifest or Docker manifest, schema 2.
    Manifest,
    /// Image config.
    Config,
    /// A layer tar, compressed or not.
    Layer,
    /// Anything else: attestations, signatures, artifacts.
    Other,
}

impl MediaKind {
    /// The kind that a media type names.
    pub fn of(media_type: &str) -> Self {
        match media_type {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Self::Index,
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Self::Manifest,
            "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json" => Self::Config,
            layer
                if layer.starts_with("application/vnd.oci.image.layer.")
                    || layer.starts_with("application/vnd.docker.image.rootfs.") =>
            {
                Self::Layer
            }
            _ => Self::Other,
        }
    }
}

/// A pointer to a part: media type, digest, size.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type, as written.
    pub media_type: String,
    /// Digest of the part's bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Annotations, as written; whoever made the document chose them.
    #[serde(default)]
    pub annotations: Option<BTreeMap<String, String>>,
    /// The platform, in an index.
    #[serde(default)]
    pub platform: Option<Platform>,
}

impl Descriptor {
    /// What the media type says it is.
    pub fn kind(&self) -> MediaKind {
        MediaKind::of(&self.media_type)
    }
}

/// Parses a bounded document.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ImageError> {
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_DOCUMENT_BYTES) {
        return Err(ImageError::TooLarge);
    }
    serde_json::from_slice(bytes).map_err(|error| ImageError::Malformed {
        line: error.line(),
        column: error.column(),
    })
}
