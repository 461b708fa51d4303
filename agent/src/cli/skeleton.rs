//! `skeleton`: makes the skeletons of a layer file or of an image's layers, for CI and for nodes that have
//! no registry. Blobs are read where they are; nothing is fetched.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::image::{
    Config, Descriptor, Document, ImageError, Index, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH, Manifest,
};
use holdfast_core::layer::skeleton::{self, Digests, Made, Unmade};
use holdfast_core::layer::{Limits, TableError};
use holdfast_daemon::capped;

use super::{Exit, complain};
use crate::files::skeletons::name;
use crate::files::tables::open_blob_file;
use crate::runtime::containerd::{Containerd, Timing};
use crate::runtime::{CallError, Runtime as _};
use crate::sources::Wanted;

/// Documents read of one image; a layout folder may hold many images.
const MAX_DOCUMENTS: usize = 4_096;

/// Most bytes of a layout's `index.json`.
const MAX_INDEX_BYTES: u64 = 64 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A layer file, an OCI layout folder, or an image's name in containerd's store
    #[arg(value_name = "BLOB|IMAGE")]
    what: String,
    /// The file to write; for an image, the folder [default: DIFF-ID.skeleton in this folder]
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Leave the files' digests out: smaller, and a proof that fails cannot say which files differ
    #[arg(long)]
    without_digests: bool,
    /// containerd's socket [default: the first of the usual ones that exists]
    #[arg(long = "containerd", value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// The image's containerd namespace
    #[arg(long, value_name = "NS", default_value = "k8s.io")]
    namespace: String,
}

/// Why there is no skeleton.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}: {1}")]
    File(PathBuf, #[source] io::Error),
    #[error("{0}: {1}")]
    Layer(PathBuf, #[source] TableError),
    #[error("{0}: {1}")]
    Unmade(PathBuf, #[source] Unmade),
    #[error("{0}: {1}")]
    Document(PathBuf, #[source] ImageError),
    #[error("{0} does not hash to its name")]
    Altered(PathBuf),
    #[error("more than {MAX_DOCUMENTS} documents")]
    TooManyDocuments,
    #[error("no containerd socket found; name one with --containerd SOCKET")]
    NoSocket,
    #[error("containerd: {0}")]
    Runtime(#[source] CallError),
    #[error("containerd does not say where its content store is")]
    NoStore,
    #[error("no image {0:?} in namespace {1:?}")]
    NoImage(String, String),
    #[error("no layers in {0}")]
    NoLayers(String),
}

pub(super) fn run(arguments: &Arguments) -> Exit {
    match make(arguments) {
        Ok(()) => Exit::Clean,
        Err(failure) => {
            complain(&failure);
            match failure {
                Failure::NoSocket | Failure::Runtime(_) | Failure::NoStore => Exit::Runtime,
                _ => Exit::Failure,
            }
        }
    }
}

fn make(arguments: &Arguments) -> Result<(), Failure> {
    let digests = if arguments.without_digests {
        Digests::LeftOut
    } else {
        Digests::Carried
    };
    let path = Path::new(&arguments.what);
    if path.is_file() {
        return make_one(path, arguments.out.as_deref(), digests);
    }
    let layers = if path.is_dir() {
        in_layout(path)?
    } else {
        in_containerd(arguments)?
    };
    if layers.is_empty() {
        return Err(Failure::NoLayers(arguments.what.clone()));
    }
    let out = arguments.out.clone().unwrap_or_default();
    for (diff_id, (blob, file)) in layers {
        make_named(&file, (blob, diff_id), &out.join(name(diff_id)), digests)?;
    }
    Ok(())
}

/// A layer file, whatever its name.
fn make_one(blob: &Path, out: Option<&Path>, digests: Digests) -> Result<(), Failure> {
    let limits = Limits::default();
    let failed = |error| Failure::File(blob.to_owned(), error);
    let file = capped::open_file(blob).map_err(failed)?;
    let named = skeleton::digests_of_blob(file, &limits)
        .map_err(|error| Failure::Layer(blob.to_owned(), error))?;
    let own = PathBuf::from(name(named.1));
    make_named(blob, named, out.unwrap_or(&own), digests)
}

fn make_named(
    file: &Path,
    (blob, diff_id): (Digest, DiffId),
    out: &Path,
    digests: Digests,
) -> Result<(), Failure> {
    let open = || open_blob_file(file)?.ok_or_else(|| io::ErrorKind::NotFound.into());
    let Made { table, skeleton } = skeleton::make(open, blob, diff_id, &Limits::default(), digests)
        .map_err(|error| Failure::Layer(file.to_owned(), error))?;
    let skeleton = skeleton.map_err(|error| Failure::Unmade(file.to_owned(), error))?;
    let failed = |error| Failure::File(out.to_owned(), error);
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    fs::write(out, skeleton.encoded()).map_err(failed)?;
    writeln!(
        io::stdout().lock(),
        "{diff_id}  entries={} bytes={} without_digests={}  {}",
        table.entries(),
        skeleton.encoded().len(),
        skeleton.bytes_without_digests(),
        out.display()
    )
    .map_err(failed)
}

/// Blobs and files of layers, by diff ID.
type Layers = BTreeMap<DiffId, (Digest, PathBuf)>;

fn in_layout(folder: &Path) -> Result<Layers, Failure> {
    let path = folder.join("index.json");
    let bytes = capped::read_file(&path, MAX_INDEX_BYTES)
        .map_err(|error| Failure::File(path.clone(), error))?;
    let index = Index::parse(&bytes).map_err(|error| Failure::Document(path, error))?;
    let targets = index.manifests.iter().map(|manifest| manifest.digest);
    layers_below(&folder.join("blobs/sha256"), targets.collect())
}

fn in_containerd(arguments: &Arguments) -> Result<Layers, Failure> {
    let sockets: Vec<PathBuf> = arguments.socket.iter().cloned().collect();
    let sockets = Wanted::new(&sockets, PathBuf::from("/")).new_ones();
    let socket = sockets.into_iter().next().ok_or(Failure::NoSocket)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::File(socket.clone(), error))?;
    let (images, roots) = runtime
        .block_on(async {
            let containerd = Containerd::new(socket, Timing::default());
            let images = containerd.images(&arguments.namespace).await?;
            Ok((images, containerd.roots().await?))
        })
        .map_err(Failure::Runtime)?;
    let image = images.iter().find(|image| image.name == arguments.what);
    let target = image
        .map(|image| image.target)
        .ok_or_else(|| Failure::NoImage(arguments.what.clone(), arguments.namespace.clone()))?;
    let content = roots.content.ok_or(Failure::NoStore)?;
    layers_below(&content.join("blobs/sha256"), vec![target])
}

/// The layers of all images below some targets whose manifests and configs are there.
fn layers_below(blobs: &Path, targets: Vec<Digest>) -> Result<Layers, Failure> {
    let mut ahead: Vec<(Digest, usize)> = targets.into_iter().map(|target| (target, 0)).collect();
    let mut layers = Layers::new();
    let mut read = 0;
    while let Some((digest, depth)) = ahead.pop() {
        read += 1;
        if read > MAX_DOCUMENTS {
            return Err(Failure::TooManyDocuments);
        }
        // Of an index, usually one platform's manifest is there.
        let Some(bytes) = document(blobs, digest)? else {
            continue;
        };
        let failed = |error| Failure::Document(blobs.join(digest.encoded()), error);
        match Document::parse(&bytes).map_err(failed)? {
            Document::Index(_) if depth >= MAX_INDEX_DEPTH => {}
            Document::Index(Index { manifests }) => {
                let below = |manifest: &Descriptor| (manifest.digest, depth + 1);
                ahead.extend(manifests.iter().map(below));
            }
            Document::Manifest(manifest) => layers_of(blobs, &manifest, &mut layers)?,
        }
    }
    Ok(layers)
}

fn layers_of(blobs: &Path, manifest: &Manifest, layers: &mut Layers) -> Result<(), Failure> {
    let Some(bytes) = document(blobs, manifest.config.digest)? else {
        return Ok(());
    };
    let path = blobs.join(manifest.config.digest.encoded());
    // What is no image (a signature, an attestation) has no config of this kind, and no files.
    let Ok(config) = Config::parse(&bytes) else {
        tracing::debug!(config = %path.display(), "No image config.");
        return Ok(());
    };
    for (diff_id, layer) in config.diff_ids.iter().zip(&manifest.layers) {
        let file = blobs.join(layer.digest.encoded());
        layers.insert(*diff_id, (layer.digest, file));
    }
    Ok(())
}

/// A document that hashes to its name; `None` when it is not there.
fn document(blobs: &Path, digest: Digest) -> Result<Option<Vec<u8>>, Failure> {
    let path = blobs.join(digest.encoded());
    let failed = |error| Failure::File(path.clone(), error);
    let Some(file) = open_blob_file(&path).map_err(failed)? else {
        return Ok(None);
    };
    let bytes = capped::read(file, MAX_DOCUMENT_BYTES).map_err(failed)?;
    if Digest::of(&bytes) == digest {
        Ok(Some(bytes))
    } else {
        Err(Failure::Altered(path))
    }
}
