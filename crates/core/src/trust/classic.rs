//! The signature object of cosign's classic layout: an image manifest whose every layer is one
//! signature. The payload is the layer's blob, the signature over it stands in an annotation.
//!
//! Everything here is written by whoever may push to the repository: it is read, never believed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::json::{self, JsonRefusal};
use super::payload::MAX_PAYLOAD;
use crate::digest::{Digest, DigestError};

/// Media type of a layer that is one signature.
pub const SIGNATURE_LAYER: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation that holds the signature, in base64.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The media types of an image manifest.
pub const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Most bytes of any manifest or index: the distribution specification's own limit.
pub const MAX_MANIFEST: usize = 4 << 20;
/// Most signatures that are looked at for one object: memory and time must not follow what a
/// registry lists. The rest is counted.
pub const MAX_SIGNATURES: usize = 100;
/// Longest annotation; an ECDSA P-256 signature has 96 base64 characters.
pub const MAX_SIGNATURE_TEXT: usize = 4096;

/// The tag under which the signatures of `subject` are pushed, in the image's own repository.
pub fn tag(subject: Digest) -> String {
    format!("sha256-{}.sig", subject.encoded())
}

/// Why the manifest of a signature object cannot be used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectRefusal {
    /// Not JSON of the due shape.
    #[error("signature manifest: {0}")]
    Json(#[from] JsonRefusal),
    /// An index, an artifact or another document under the signature's tag.
    #[error("signature manifest is of another media type than an image manifest")]
    MediaType,
}

/// Why one layer is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerRefusal {
    /// Another kind of layer.
    #[error("layer is of another media type than a cosign signature")]
    MediaType,
    /// Its blob cannot be named.
    #[error("layer's {0}")]
    Digest(#[from] DigestError),
    /// Its blob is far longer than a statement, so nobody fetches it.
    #[error("layer's payload is longer than {MAX_PAYLOAD} bytes")]
    LongPayload,
    /// The annotation is missing.
    #[error("layer has no signature annotation")]
    NoSignature,
    /// The annotation is far longer than a signature.
    #[error("layer's signature annotation is longer than {MAX_SIGNATURE_TEXT} bytes")]
    LongSignature,
}

/// One signature as its manifest lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The blob that holds the payload.
    pub payload: Digest,
    /// The signature over the payload, in base64 as it was written.
    pub signature: String,
}

/// The layers of a signature object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// The first [`MAX_SIGNATURES`], in the manifest's order.
    pub first: Vec<Result<Layer, LayerRefusal>>,
    /// How many follow that nobody looks at.
    pub rest: usize,
}

/// Reads the manifest of a signature object.
pub fn layers(manifest: &[u8]) -> Result<Layers, ObjectRefusal> {
    let manifest: Manifest = json::parse(manifest, MAX_MANIFEST)?;
    let is_image = manifest
        .media_type
        .as_deref()
        .is_none_or(|media_type| MANIFEST_TYPES.contains(&media_type));
    // A document with `manifests` is an index, whatever it calls itself.
    if !is_image || manifest.schema_version != 2 || manifest.manifests.is_some() {
        return Err(ObjectRefusal::MediaType);
    }
    let total = manifest.layers.len();
    let first: Vec<_> = manifest
        .layers
        .into_iter()
        .take(MAX_SIGNATURES)
        .map(Descriptor::into_layer)
        .collect();
    let rest = total.saturating_sub(first.len());
    Ok(Layers { first, rest })
}

/// Whether `index` is an index that lists `manifest` among its own.
pub(crate) fn lists(index: &[u8], manifest: Digest) -> Result<bool, JsonRefusal> {
    let index: Index = json::parse(index, MAX_MANIFEST)?;
    let wanted = manifest.to_string();
    Ok(index.manifests.iter().any(|listed| listed.digest == wanted))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: Option<String>,
    layers: Vec<Descriptor>,
    manifests: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    fn into_layer(self) -> Result<Layer, LayerRefusal> {
        if self.media_type != SIGNATURE_LAYER {
            return Err(LayerRefusal::MediaType);
        }
        if usize::try_from(self.size).map_or(true, |size| size > MAX_PAYLOAD) {
            return Err(LayerRefusal::LongPayload);
        }
        let signature = self
            .annotations
            .and_then(|mut annotations| annotations.remove(SIGNATURE_ANNOTATION))
            .ok_or(LayerRefusal::NoSignature)?;
        if signature.len() > MAX_SIGNATURE_TEXT {
            return Err(LayerRefusal::LongSignature);
        }
        Ok(Layer {
            payload: self.digest.parse()?,
            signature,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn layer(media_type: &str, digest: &str, annotations: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1,"annotations":{annotations}}}"#
        )
    }

    fn manifest(layers: &[String]) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{}},"layers":[{}]}}"#,
            layers.join(",")
        )
    }

    #[test]
    fn each_layer_is_judged_alone() {
        let signed = format!(r#"{{"{SIGNATURE_ANNOTATION}":"c2ln","x":"y"}}"#);
        let long = format!(r#"{{"{SIGNATURE_ANNOTATION}":"{}"}}"#, "A".repeat(4097));
        let document = manifest(&[
            layer(SIGNATURE_LAYER, D, &signed),
            layer("application/vnd.dsse.envelope.v1+json", D, &signed),
            layer(SIGNATURE_LAYER, "sha256:00", &signed),
            layer(SIGNATURE_LAYER, D, &signed).replace(":1,", ":1048577,"),
            layer(SIGNATURE_LAYER, D, "{}"),
            layer(SIGNATURE_LAYER, D, "null"),
            layer(SIGNATURE_LAYER, D, &long),
        ]);

        let layers = layers(document.as_bytes()).unwrap();

        assert_eq!(layers.rest, 0);
        assert_eq!(
            layers.first,
            [
                Ok(Layer {
                    payload: Digest::of(b""),
                    signature: "c2ln".to_owned()
                }),
                Err(LayerRefusal::MediaType),
                Err(LayerRefusal::Digest(DigestError::Encoding)),
                Err(LayerRefusal::LongPayload),
                Err(LayerRefusal::NoSignature),
                Err(LayerRefusal::NoSignature),
                Err(LayerRefusal::LongSignature),
            ]
        );
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let one = layer(SIGNATURE_LAYER, D, "{}");
        let document = manifest(&vec![one; MAX_SIGNATURES + 7]);

        let layers = layers(document.as_bytes()).unwrap();

        assert_eq!((layers.first.len(), layers.rest), (MAX_SIGNATURES, 7));
    }

    #[test]
    fn another_document_under_the_tag_is_refused() {
        for document in [
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","layers":[]}"#,
            r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#,
            r#"{"schemaVersion":1,"layers":[]}"#,
        ] {
            assert_eq!(
                layers(document.as_bytes()),
                Err(ObjectRefusal::MediaType),
                "{document}"
            );
        }
        for document in [
            "",
            "<html>",
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"layers":[1]}"#,
        ] {
            assert!(
                matches!(layers(document.as_bytes()), Err(ObjectRefusal::Json(_))),
                "{document}"
            );
        }
    }

    #[test]
    fn an_index_lists_only_what_it_names() {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{D}"}}]}}"#);
        assert_eq!(lists(index.as_bytes(), Digest::of(b"")), Ok(true));
        assert_eq!(lists(index.as_bytes(), Digest::of(b"x")), Ok(false));
        assert!(lists(b"{}", Digest::of(b"")).is_err());
    }
}
