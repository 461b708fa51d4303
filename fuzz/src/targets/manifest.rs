//! Index and manifest, and the chain from a digest to the layers: what is read is what the JSON says, and only
//! documents that name each other prove anything.

use holdfast_core::digest::Digest;
use holdfast_core::image::{
    Document, Documents, Image, ImageError, MAX_LAYERS, MAX_MANIFESTS, Refusal,
};
use serde_json::Value;

use crate::parts::{joined, parts};
use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "manifest",
    check,
    max_bytes: 4 << 10,
    seeds,
    words: &[
        "\"schemaVersion\":2",
        "\"mediaType\":",
        "\"config\":",
        "\"layers\":",
        "\"manifests\":",
        "\"fsLayers\":",
        "\"digest\":",
        "\"size\":",
        "\"annotations\":",
        "\"platform\":",
        "sha256:",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ],
    repair: as_it_is,
};

/// The config that the seeds name.
const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

fn check(input: &[u8]) {
    let [outer, inner] = parts(input);
    let read = check_document(outer);
    let indexes = if inner.is_empty() {
        vec![]
    } else {
        vec![outer.to_vec()]
    };
    let manifest = if inner.is_empty() { outer } else { inner };
    let documents = Documents {
        indexes,
        manifest: manifest.to_vec(),
        config: CONFIG.as_bytes().to_vec(),
    };
    let target = documents.target();
    assert_eq!(target, Digest::of(outer));
    let other = Digest::of(b"another");
    assert!(Image::verify(other, documents.clone()).is_err());
    match Image::verify(target, documents.clone()) {
        Ok(image) => {
            assert!(read.is_ok());
            assert_eq!(image.target(), target);
            let text = String::from_utf8_lossy(outer);
            let escapes = text.contains('\\');
            assert!(inner.is_empty() || escapes || text.contains(&Digest::of(inner).to_string()));
        }
        Err(refusal) => {
            assert!(!refusal.reason().is_empty());
            assert_eq!(Image::verify(target, documents), Err(refusal.clone()));
            assert!(!matches!(refusal, Refusal::Target { .. }));
        }
    }
}

fn check_document(bytes: &[u8]) -> Result<(), ImageError> {
    let document = match Document::parse(bytes) {
        Ok(document) => document,
        Err(error) => {
            assert!(!error.reason().is_empty());
            return Err(error);
        }
    };
    // Text that nobody reads may be broken, as in Go: then there is nothing to hold it against.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return Ok(());
    };
    assert_eq!(value["schemaVersion"], 2);
    let (key, listed) = match document {
        Document::Index(index) => ("manifests", index.manifests),
        Document::Manifest(manifest) => ("layers", manifest.layers),
    };
    assert!(
        listed.len()
            <= if key == "layers" {
                MAX_LAYERS
            } else {
                MAX_MANIFESTS
            }
    );
    let values = value[key].as_array().unwrap();
    assert_eq!(values.len(), listed.len());
    for (value, descriptor) in values.iter().zip(&listed) {
        assert_eq!(value["digest"], descriptor.digest.to_string());
        assert_eq!(value["size"], descriptor.size);
        assert_eq!(value["mediaType"], descriptor.media_type);
    }
    Ok(())
}

fn seeds() -> Vec<Vec<u8>> {
    let descriptor = |kind: &str, of: &str| {
        let digest = Digest::of(of.as_bytes());
        let size = of.len();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#
        )
    };
    let config = descriptor("config.v1+json", CONFIG);
    let layer = descriptor("layer.v1.tar+gzip", "");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{layer}],"annotations":{{"a":"b"}}}}"#
    );
    let listed = descriptor("manifest.v1+json", &manifest).replace(
        '}',
        r#","platform":{"architecture":"arm64","os":"linux","variant":"v8"}}"#,
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{listed},{layer}]}}"#);
    let both = manifest.replace(r#""layers""#, r#""manifests":[],"layers""#);
    let first = r#"{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}],"history":[]}"#;
    let mut seeds = vec![joined(&[index.as_bytes(), manifest.as_bytes()])];
    seeds.extend([manifest.as_str(), &both, first].map(|text| text.as_bytes().to_vec()));
    seeds
}
