//! The chain from a target digest to the layers: each document proves the next.
//!
//! An [`Image`] is made only by [`Image::verify`], so holding one is proof that all of its steps held.
//! It says nothing about signatures, and nothing about what is on a disk.

use serde::{Deserialize, Serialize};

use super::{Config, Document, ImageError, MAX_INDEX_DEPTH, Manifest};
use crate::digest::{ChainId, Digest};

/// The bytes of an image's documents, kept from first sight: containerd collects them when a tag moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Documents {
    /// Indexes from the target inwards; empty when the target is the manifest.
    pub indexes: Vec<Vec<u8>>,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// The config.
    pub config: Vec<u8>,
}

impl Documents {
    /// The digest that a name resolves to: of the outermost document.
    pub fn target(&self) -> Digest {
        Digest::of(self.indexes.first().unwrap_or(&self.manifest))
    }
}

/// An image whose documents prove each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    documents: Documents,
    target: Digest,
    manifest_digest: Digest,
    config_digest: Digest,
    manifest: Manifest,
    config: Config,
    chain: Vec<ChainId>,
}

/// Why documents do not prove each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The outermost document is not the one that was asked for.
    #[error("bytes named {named} hash to {actual}")]
    Target {
        /// What was asked for.
        named: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// An index does not list the document below it.
    #[error("index {index} does not list {below}")]
    NotListed {
        /// The index.
        index: Digest,
        /// The document that should be listed.
        below: Digest,
    },
    /// The config is not the one that the manifest names.
    #[error("manifest names config {named}, the bytes hash to {actual}")]
    Config {
        /// What the manifest names.
        named: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// Manifest and config disagree about the number of layers.
    #[error("manifest lists {layers} layers, config {diff_ids} diff IDs")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Diff IDs of the config.
        diff_ids: usize,
    },
    /// Indexes nested deeper than [`MAX_INDEX_DEPTH`].
    #[error("indexes are nested deeper than {MAX_INDEX_DEPTH}")]
    TooDeep,
    /// A document cannot be read.
    #[error(transparent)]
    Document(#[from] ImageError),
}

impl Refusal {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Target { .. } => "target-digest",
            Self::NotListed { .. } => "manifest-not-listed",
            Self::Config { .. } => "config-digest",
            Self::LayerCount { .. } => "layer-count",
            Self::TooDeep => "index-depth",
            Self::Document(error) => error.reason(),
        }
    }
}

impl Image {
    /// Checks that `documents` are the image named `target`.
    ///
    /// 1. The outermost document hashes to the target.
    /// 2. Each index lists the document below it.
    /// 3. The manifest names the config.
    /// 4. Manifest and config agree about the number of layers.
    pub fn verify(target: Digest, documents: Documents) -> Result<Self, Refusal> {
        // (1)
        let actual = documents.target();
        if actual != target {
            return Err(Refusal::Target {
                named: target,
                actual,
            });
        }
        // (2)
        let manifest_digest = Digest::of(&documents.manifest);
        verify_indexes(&documents.indexes, manifest_digest)?;
        // (3)
        let manifest = Manifest::parse(&documents.manifest)?;
        let config_digest = Digest::of(&documents.config);
        if manifest.config.digest != config_digest {
            return Err(Refusal::Config {
                named: manifest.config.digest,
                actual: config_digest,
            });
        }
        let config = Config::parse(&documents.config)?;
        // (4)
        if manifest.layers.len() != config.diff_ids.len() {
            return Err(Refusal::LayerCount {
                layers: manifest.layers.len(),
                diff_ids: config.diff_ids.len(),
            });
        }
        let chain = config.chain();
        Ok(Self {
            documents,
            target,
            manifest_digest,
            config_digest,
            manifest,
            config,
            chain,
        })
    }

    /// The digest that names resolve to.
    pub const fn target(&self) -> Digest {
        self.target
    }

    /// Digest of the outermost index, where there is one.
    pub fn index_digest(&self) -> Option<Digest> {
        (!self.documents.indexes.is_empty()).then_some(self.target)
    }

    /// Digest of the manifest.
    pub const fn manifest_digest(&self) -> Digest {
        self.manifest_digest
    }

    /// Digest of the config: the image ID.
    pub const fn config_digest(&self) -> Digest {
        self.config_digest
    }

    /// The manifest.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The config.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The chain IDs, lowest layer first.
    pub fn chain(&self) -> &[ChainId] {
        &self.chain
    }

    /// The bytes, to be kept.
    pub const fn documents(&self) -> &Documents {
        &self.documents
    }
}

fn verify_indexes(indexes: &[Vec<u8>], manifest: Digest) -> Result<(), Refusal> {
    if indexes.len() > MAX_INDEX_DEPTH {
        return Err(Refusal::TooDeep);
    }
    let mut below = manifest;
    for bytes in indexes.iter().rev() {
        let digest = Digest::of(bytes);
        let index = match Document::parse(bytes)? {
            Document::Index(index) => index,
            Document::Manifest(_) => return Err(Refusal::Document(ImageError::MediaType)),
        };
        if !index.manifests.iter().any(|entry| entry.digest == below) {
            return Err(Refusal::NotListed {
                index: digest,
                below,
            });
        }
        below = digest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(bytes: &[u8]) -> String {
        let (digest, size) = (Digest::of(bytes), bytes.len());
        format!(r#"{{"mediaType":"x","digest":"{digest}","size":{size}}}"#)
    }

    fn documents() -> Documents {
        let diff_id = Digest::of(b"tar");
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            descriptor(&config),
            descriptor(b"gz")
        )
        .into_bytes();
        let inner = index(&manifest);
        Documents {
            indexes: vec![index(&inner), inner],
            manifest,
            config,
        }
    }

    fn index(below: &[u8]) -> Vec<u8> {
        format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            descriptor(below)
        )
        .into_bytes()
    }

    #[test]
    fn documents_that_prove_each_other_are_an_image() {
        let documents = documents();
        let image = Image::verify(documents.target(), documents.clone()).unwrap();

        assert_eq!(image.index_digest(), Some(documents.target()));
        assert_eq!(image.manifest_digest(), Digest::of(&documents.manifest));
        assert_eq!(image.config_digest(), Digest::of(&documents.config));
        assert_eq!(image.chain(), [ChainId(Digest::of(b"tar"))]);
    }

    #[test]
    fn a_changed_byte_anywhere_breaks_the_chain() {
        let good = documents();
        let target = good.target();
        let change = |edit: fn(&mut Documents)| {
            let mut bad = good.clone();
            edit(&mut bad);
            Image::verify(target, bad).unwrap_err()
        };

        assert!(matches!(
            change(|d| d.indexes[0].push(b' ')),
            Refusal::Target { .. }
        ));
        assert!(matches!(
            change(|d| d.indexes[1].push(b' ')),
            Refusal::NotListed { .. }
        ));
        assert!(matches!(
            change(|d| d.manifest.push(b' ')),
            Refusal::NotListed { .. }
        ));
        assert!(matches!(
            change(|d| d.config.push(b' ')),
            Refusal::Config { .. }
        ));
    }

    #[test]
    fn layers_without_diff_ids_and_deep_indexes_are_refused() {
        let mut short = documents();
        short.indexes.clear();
        short.manifest = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
            descriptor(&short.config)
        )
        .into_bytes();
        assert_eq!(
            Image::verify(short.target(), short),
            Err(Refusal::LayerCount {
                layers: 0,
                diff_ids: 1
            })
        );
        let mut deep = documents();
        while deep.indexes.len() <= MAX_INDEX_DEPTH {
            deep.indexes.insert(0, index(&deep.indexes[0]));
        }
        assert_eq!(Image::verify(deep.target(), deep), Err(Refusal::TooDeep));
    }
}
