//! Finds cosign's classic signatures in a folder of the OCI image layout (air gap).
//!
//! The folder is the administrator's, its content may be anybody's: files are opened below it without
//! following links, read within limits and hashed. A folder that is missing or broken is said to be so;
//! only one that can be read and lacks the signature means "nothing there".
//!
//! How tools name a signature in `index.json`:
//!
//! | tool | annotations of the entry |
//! |---|---|
//! | `skopeo copy`, `oras cp`, `crane` | `org.opencontainers.image.ref.name` = `sha256-….sig`, or the whole reference with that tag |
//! | containerd, nerdctl | also `io.containerd.image.name` = the whole reference |
//! | `cosign save` | `kind` = `dev.cosignproject.cosign/sigs`, and the same `ref.name` as the entry of the image |

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use holdfast_core::digest::Digest;
use holdfast_core::display;
use holdfast_core::trust::classic::{self, MAX_MANIFEST};
use holdfast_core::trust::{Cause, Looked, MAX_PAYLOAD, Missed, SignatureObject};
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use serde::Deserialize;

use crate::discover::{MAX_PAYLOADS, wanted};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const KIND: &str = "kind";
const COSIGN_SIGNATURES: &str = "dev.cosignproject.cosign/sigs";

/// Signature objects that one folder may have for one image.
const MAX_OBJECTS: usize = 16;
/// Most bytes of `index.json`: a folder may hold the images of a whole fleet.
const MAX_INDEX: usize = 64 << 20;

/// Why the folder could not be looked at.
#[derive(Debug, thiserror::Error)]
enum LayoutError {
    #[error("{name} cannot be read: {error}")]
    Read { name: String, error: io::Error },
    #[error("{name} is not a regular file")]
    NotAFile { name: String },
    #[error("{name} is longer than {limit} bytes")]
    TooLong { name: String, limit: usize },
    #[error("index.json is not an index (line {line}, column {column})")]
    Index { line: usize, column: usize },
    #[error("index.json names a signature by a digest that is not supported")]
    Digest,
    #[error("{due} hashes to {actual}")]
    WrongDigest { due: Digest, actual: Digest },
    #[error("more than {MAX_OBJECTS} signature objects")]
    TooMany,
}

impl LayoutError {
    fn cause(&self) -> Cause {
        match self {
            Self::Read { error, name } if is_blob(name) && is_absent(error) => Cause::BlobMissing,
            Self::WrongDigest { .. } => Cause::WrongDigest,
            Self::TooLong { .. } => Cause::TooLarge,
            Self::Read { .. }
            | Self::NotAFile { .. }
            | Self::Index { .. }
            | Self::Digest
            | Self::TooMany => Cause::Layout,
        }
    }
}

fn is_blob(name: &str) -> bool {
    name.starts_with("blobs/")
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// One layout folder.
#[derive(Clone, Debug)]
pub struct Layout {
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Entry {
    fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether a tool named this entry by `tag`, alone or behind a repository.
    fn is_tagged(&self, tag: &str) -> bool {
        [REF_NAME, CONTAINERD_NAME]
            .iter()
            .filter_map(|name| self.annotation(name))
            .any(|name| {
                name.strip_suffix(tag)
                    .is_some_and(|before| before.is_empty() || before.ends_with(':'))
            })
    }
}

impl Layout {
    /// The layout in `folder`.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Looks for the signatures of `subject`. Blocks on the disk.
    pub fn signatures(&self, subject: Digest) -> Looked {
        let entries = self.open().and_then(|folder| {
            let index = read(&folder, "index.json", MAX_INDEX)?;
            entries(&index, subject).map(|entries| (folder, entries))
        });
        let (folder, entries) = match entries {
            Ok(entries) => entries,
            Err(error) => return self.could_not_look(&error),
        };
        let mut looked = Looked::nothing();
        for digest in entries {
            looked = looked.and(match blob(&folder, digest, MAX_MANIFEST) {
                Ok(manifest) => self.object(&folder, manifest),
                Err(error) => self.could_not_look(&error),
            });
        }
        looked
    }

    fn object(&self, folder: &File, manifest: Vec<u8>) -> Looked {
        let mut payloads = BTreeMap::new();
        let mut missed = Looked::nothing();
        let mut budget = MAX_PAYLOADS;
        for digest in wanted(&manifest) {
            match blob(folder, digest, MAX_PAYLOAD.min(budget)) {
                Ok(payload) => {
                    budget = budget.saturating_sub(payload.len());
                    payloads.insert(digest, payload);
                }
                // No statement is that long; the verifier refuses the signature.
                Err(LayoutError::TooLong { .. }) => {}
                Err(error) => missed = missed.and(self.could_not_look(&error)),
            }
        }
        Looked::found(SignatureObject { manifest, payloads }).and(missed)
    }

    fn open(&self) -> Result<File, LayoutError> {
        // A FIFO in the folder's place would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = open(&self.folder, flags, Mode::empty());
        opened.map(File::from).map_err(|errno| LayoutError::Read {
            name: "folder".to_owned(),
            error: errno.into(),
        })
    }

    fn could_not_look(&self, error: &LayoutError) -> Looked {
        let folder = display::escape(self.folder.as_os_str().as_encoded_bytes());
        Looked::could_not_look(Missed {
            cause: error.cause(),
            message: format!("{folder}: {error}"),
        })
    }
}

/// The signature objects of `subject` that an index names.
fn entries(index: &[u8], subject: Digest) -> Result<Vec<Digest>, LayoutError> {
    let index: Index = serde_json::from_slice(index).map_err(|error| LayoutError::Index {
        line: error.line(),
        column: error.column(),
    })?;
    let tag = classic::tag(subject);
    let image = subject.to_string();
    // What `cosign save` calls the image, it calls its signatures too.
    let image_names: Vec<Option<&str>> = index
        .manifests
        .iter()
        .filter(|entry| entry.digest == image && entry.annotation(KIND).is_some())
        .map(|entry| entry.annotation(REF_NAME))
        .collect();
    let is_saved = |entry: &Entry| {
        entry.annotation(KIND) == Some(COSIGN_SIGNATURES)
            && image_names.contains(&entry.annotation(REF_NAME))
    };
    let mut found = Vec::new();
    for entry in index
        .manifests
        .iter()
        .filter(|entry| entry.is_tagged(&tag) || is_saved(entry))
    {
        let Ok(digest) = entry.digest.parse::<Digest>() else {
            // It is there, and it is not one that can be read: not "nothing".
            return Err(LayoutError::Digest);
        };
        if !found.contains(&digest) {
            found.push(digest);
        }
    }
    if found.len() > MAX_OBJECTS {
        return Err(LayoutError::TooMany);
    }
    Ok(found)
}

/// A blob, checked against its digest.
fn blob(folder: &File, due: Digest, limit: usize) -> Result<Vec<u8>, LayoutError> {
    let bytes = read(folder, &format!("blobs/sha256/{}", due.encoded()), limit)?;
    let actual = Digest::of(&bytes);
    if actual == due {
        Ok(bytes)
    } else {
        Err(LayoutError::WrongDigest { due, actual })
    }
}

/// A regular file below the folder, without following links: a link planted in a copied folder would
/// have us read, and hold open, any file of the host.
fn read(folder: &File, name: &str, limit: usize) -> Result<Vec<u8>, LayoutError> {
    let unreadable = |error: io::Error| LayoutError::Read {
        name: name.to_owned(),
        error,
    };
    let opened = openat2(
        folder,
        name,
        // A FIFO would wait for its writer.
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    );
    let file = File::from(opened.map_err(|errno| unreadable(errno.into()))?);
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(LayoutError::NotAFile {
            name: name.to_owned(),
        });
    }
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(most)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > limit {
        return Err(LayoutError::TooLong {
            name: name.to_owned(),
            limit,
        });
    }
    Ok(bytes)
}
