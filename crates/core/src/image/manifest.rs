//! Index and manifest: which parts an image is made of.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Descriptor, ImageError, MAX_LAYERS, MAX_MANIFESTS, MediaKind, parse};

/// The platform of a manifest in an index.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// `v7`, …
    #[serde(default)]
    pub variant: Option<String>,
}

/// An image index: one manifest for each platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The manifests and nested indexes, as listed.
    pub manifests: Vec<Descriptor>,
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What an image reference resolves to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One of several platforms.
    Index(Index),
    /// One image.
    Manifest(Manifest),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    /// Schema 1's layers: a document that has them as well is read differently by an old client.
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads an index or a manifest. Which of the two it is comes from its content, because media types
    /// beside it can disagree; a document that can be read as both is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let raw: Raw = parse(bytes)?;
        if raw.schema_version != 2 {
            return Err(ImageError::SchemaVersion);
        }
        let stated = raw.media_type.as_deref().map(MediaKind::of);
        let is_manifest = raw.config.is_some() || raw.layers.is_some();
        if raw.fs_layers.is_some() || (is_manifest && raw.manifests.is_some()) {
            return Err(ImageError::Ambiguous);
        }
        if let Some(manifests) = raw.manifests {
            if stated.is_some_and(|kind| kind != MediaKind::Index) {
                return Err(ImageError::MediaType);
            }
            if manifests.len() > MAX_MANIFESTS {
                return Err(ImageError::TooManyManifests);
            }
            return Ok(Self::Index(Index { manifests }));
        }
        if stated.is_some_and(|kind| kind != MediaKind::Manifest) {
            return Err(ImageError::MediaType);
        }
        let (Some(config), Some(layers)) = (raw.config, raw.layers) else {
            return Err(ImageError::Neither);
        };
        if layers.len() > MAX_LAYERS {
            return Err(ImageError::TooManyLayers);
        }
        Ok(Self::Manifest(Manifest { config, layers }))
    }
}

impl Index {
    /// Reads an index.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        match Document::parse(bytes)? {
            Document::Index(index) => Ok(index),
            Document::Manifest(_) => Err(ImageError::MediaType),
        }
    }
}

impl Manifest {
    /// Reads a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        match Document::parse(bytes)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ImageError::MediaType),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;

    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

    fn descriptor(size: &str) -> String {
        let digest = Digest::of(b"");
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":{size},"x":1}}"#
        )
    }

    fn manifest(media_type: &str, layers: usize) -> String {
        let one = descriptor("1");
        let layers = vec![one.clone(); layers].join(",");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{one},"layers":[{layers}],"annotations":{{}}}}"#
        )
    }

    fn refusal(text: &str) -> ImageError {
        Document::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn oci_and_docker_documents_are_read() {
        let docker = "application/vnd.docker.distribution.manifest.v2+json";
        for media_type in [OCI, docker] {
            let parsed = Manifest::parse(manifest(media_type, 2).as_bytes()).unwrap();
            assert_eq!(parsed.layers.len(), 2);
            assert_eq!(parsed.config.kind(), MediaKind::Config);
        }
        let index = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[{}]}}"#,
            descriptor("0")
        );
        assert_eq!(Index::parse(index.as_bytes()).unwrap().manifests.len(), 1);
        assert_eq!(
            Manifest::parse(index.as_bytes()),
            Err(ImageError::MediaType)
        );
    }

    #[test]
    fn documents_that_two_readers_could_read_differently_are_refused() {
        let one = descriptor("1");
        let both = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[],"manifests":[]}}"#);
        assert_eq!(refusal(&both), ImageError::Ambiguous);
        let old = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[],"fsLayers":[]}}"#);
        assert_eq!(refusal(&old), ImageError::Ambiguous);
        let twice = manifest(OCI, 1).replace(r#""layers""#, r#""layers":[],"layers""#);
        assert!(matches!(refusal(&twice), ImageError::Malformed { .. }));
        let lying = manifest("application/vnd.oci.image.index.v1+json", 1);
        assert_eq!(refusal(&lying), ImageError::MediaType);
    }

    #[test]
    fn hostile_values_are_refused_by_name() {
        assert_eq!(refusal(r#"{"schemaVersion":1}"#), ImageError::SchemaVersion);
        assert_eq!(refusal(r#"{"schemaVersion":2}"#), ImageError::Neither);
        assert_eq!(
            refusal(&manifest(OCI, MAX_LAYERS + 1)),
            ImageError::TooManyLayers
        );
        let crowd = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            vec![descriptor("1"); MAX_MANIFESTS + 1].join(",")
        );
        assert_eq!(refusal(&crowd), ImageError::TooManyManifests);
        for size in ["-1", "1e3", "18446744073709551616", "\"1\""] {
            let text = manifest(OCI, 1).replace(r#""size":1"#, &format!(r#""size":{size}"#));
            assert!(
                matches!(refusal(&text), ImageError::Malformed { .. }),
                "{size}"
            );
        }
        let deep = format!(r#"{{"schemaVersion":2,"x":{}"#, "[".repeat(100_000));
        assert!(matches!(refusal(&deep), ImageError::Malformed { .. }));
        let large = vec![b' '; (8 << 20) + 1];
        assert_eq!(Document::parse(&large), Err(ImageError::TooLarge));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            prop_assert!(Document::parse(&bytes).is_err());
        }

        #[test]
        fn a_damaged_manifest_is_refused_or_read(at in 0_usize..400, byte: u8) {
            let mut text = manifest(OCI, 1).into_bytes();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            prop_assert!(Document::parse(&text).is_err() || Manifest::parse(&text).is_ok() || Index::parse(&text).is_ok());
        }
    }
}
