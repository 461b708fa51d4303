//! Index, manifest and config of images, kept from first sight: containerd collects them as garbage when
//! the name moves on, while the container still runs. They prove themselves by their digests.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;
use holdfast_core::image::{Documents, Image, MAX_DOCUMENT_BYTES};
use holdfast_daemon::capped;

use super::atomic::write_beside;

/// The folder of documents, one file a digest.
#[derive(Debug)]
pub struct Keep {
    folder: PathBuf,
}

impl Keep {
    /// The documents below `state`.
    pub fn new(state: &Path) -> io::Result<Self> {
        let folder = state.join("documents");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// The digests under which an image's documents are kept: indexes from the target inwards, manifest,
    /// config.
    pub fn names(image: &Image) -> Vec<Digest> {
        let Documents { indexes, .. } = image.documents();
        let indexes = indexes.iter().map(|index| Digest::of(index));
        indexes
            .chain([image.manifest_digest(), image.config_digest()])
            .collect()
    }

    /// Keeps an image's documents. A disk that is full costs us the memory of them, not the look.
    pub fn put(&self, image: &Image) {
        let Documents {
            indexes,
            manifest,
            config,
        } = image.documents();
        for bytes in indexes.iter().chain([manifest, config]) {
            let path = self.path(Digest::of(bytes));
            // One that was damaged meanwhile is written again while its bytes are at hand.
            if capped::read_file(&path, MAX_DOCUMENT_BYTES).is_ok_and(|kept| kept == *bytes) {
                continue;
            }
            if let Err(error) = write_beside(&path, |out| out.write_all(bytes)) {
                tracing::warn!(%error, "Image documents could not be kept.");
            }
        }
    }

    /// The image of these documents; `None` when one is missing or is not what it was.
    pub fn image(&self, names: &[Digest]) -> Option<Image> {
        let (target, [.., manifest, config]) = (names.first()?, names) else {
            return None;
        };
        let indexes = names.get(..names.len().checked_sub(2)?)?;
        let read =
            |digest: &Digest| capped::read_file(&self.path(*digest), MAX_DOCUMENT_BYTES).ok();
        let documents = Documents {
            indexes: indexes.iter().map(read).collect::<Option<_>>()?,
            manifest: read(manifest)?,
            config: read(config)?,
        };
        Image::verify(*target, documents).ok()
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.encoded())
    }
}
