//! Which images a chain ID can belong to: resolves image targets through the content store.
//!
//! It reads names only to learn targets. Every byte comes from a store that a root user of the host can
//! write to, so a document counts only if it hashes to its name; a blob that does not is reported, and
//! is nobody's candidate.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_core::digest::{ChainId, Digest};
use holdfast_core::image::{
    Config, Document, Documents, Image, ImageError, MAX_DOCUMENT_BYTES, MAX_INDEX_DEPTH, Refusal,
};

use super::{CallError, Runtime};

/// Documents read for one target: every manifest of a full index, its config, and as much again.
const MAX_DOCUMENTS: usize = 1_024;
/// Targets remembered; all are forgotten when more come, which costs one round of reading.
const MAX_TARGETS: usize = 4_096;

/// One image below a target, as digests: what is needed to find it again by its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Indexes from the target inwards.
    pub indexes: Vec<Digest>,
    /// The manifest.
    pub manifest: Digest,
    /// The config.
    pub config: Digest,
    /// The chain of all layers; `None` for an image without layers.
    pub chain: Option<ChainId>,
}

impl Summary {
    /// What names resolve to.
    pub fn target(&self) -> Digest {
        self.indexes.first().copied().unwrap_or(self.manifest)
    }
}

/// Which document of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Index or manifest: before it is read, nobody knows.
    Manifest,
    /// Config.
    Config,
}

impl Part {
    /// The name in findings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
        }
    }
}

/// What stood in the way of resolving a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Not in the store. Usual for the other platforms of an index.
    Absent,
    /// A blob that does not hash to its name.
    Altered {
        /// Which document.
        part: Part,
        /// Its name.
        digest: Digest,
        /// What it hashes to.
        actual: Digest,
    },
    /// Bytes that are what their name says and still no document that we read.
    Refused(Refusal),
}

/// What a target resolves to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolution {
    /// Images whose documents are all there.
    pub summaries: Vec<Summary>,
    /// What stood in the way of others.
    pub problems: Vec<Problem>,
}

type Resolutions = BTreeMap<(String, Digest), Arc<Resolution>>;

/// Targets already resolved, by namespace: content is visible by namespace.
#[derive(Debug, Default)]
pub struct Resolver {
    cache: Mutex<Resolutions>,
}

/// Whether what was resolved before counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Content has its digest for a name: what was resolved stays so.
    Cached,
    /// Content can have come since, or can have been altered.
    Again,
}

impl Resolver {
    /// The images below a target.
    pub async fn resolve<R: Runtime>(
        &self,
        runtime: &R,
        namespace: &str,
        target: Digest,
        freshness: Freshness,
    ) -> Result<Arc<Resolution>, CallError> {
        let key = (namespace.to_owned(), target);
        if freshness == Freshness::Cached
            && let Some(known) = self.lock().get(&key)
        {
            return Ok(Arc::clone(known));
        }
        let resolution = Arc::new(walk(runtime, namespace, target).await?);
        let mut cache = self.lock();
        if cache.len() >= MAX_TARGETS {
            cache.clear();
        }
        cache.insert(key, Arc::clone(&resolution));
        Ok(resolution)
    }

    fn lock(&self) -> MutexGuard<'_, Resolutions> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the documents of a summary anew, and proves them.
pub async fn load<R: Runtime>(
    runtime: &R,
    namespace: &str,
    summary: &Summary,
) -> Result<Result<Image, Problem>, CallError> {
    let mut indexes = Vec::with_capacity(summary.indexes.len());
    for digest in &summary.indexes {
        match read(runtime, namespace, *digest, Part::Manifest).await? {
            Ok(bytes) => indexes.push(bytes),
            Err(problem) => return Ok(Err(problem)),
        }
    }
    let manifest = match read(runtime, namespace, summary.manifest, Part::Manifest).await? {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Err(problem)),
    };
    let config = match read(runtime, namespace, summary.config, Part::Config).await? {
        Ok(bytes) => bytes,
        Err(problem) => return Ok(Err(problem)),
    };
    let documents = Documents {
        indexes,
        manifest,
        config,
    };
    Ok(Image::verify(summary.target(), documents).map_err(Problem::Refused))
}

/// Documents of an image that we keep ourselves, as far as the store still has them: those that were altered
/// there.
pub async fn altered<R: Runtime>(
    runtime: &R,
    namespace: &str,
    image: &Image,
) -> Result<Vec<Problem>, CallError> {
    let documents = image.documents();
    let manifests = documents.indexes.iter().chain([&documents.manifest]);
    let manifests = manifests.map(|bytes| (Digest::of(bytes), Part::Manifest));
    let mut altered = Vec::new();
    for (digest, part) in manifests.chain([(image.config_digest(), Part::Config)]) {
        let read = read(runtime, namespace, digest, part).await?;
        altered.extend(
            read.err()
                .filter(|why| matches!(why, Problem::Altered { .. })),
        );
    }
    Ok(altered)
}

async fn walk<R: Runtime>(
    runtime: &R,
    namespace: &str,
    target: Digest,
) -> Result<Resolution, CallError> {
    let mut resolution = Resolution::default();
    let mut seen = HashSet::from([target]);
    let mut left = vec![(target, Vec::new())];
    let mut read_documents = 0_usize;
    while let Some((digest, indexes)) = left.pop() {
        read_documents = read_documents.saturating_add(2);
        if read_documents > MAX_DOCUMENTS || left.len() > MAX_DOCUMENTS {
            resolution.problems.push(Problem::Refused(Refusal::TooDeep));
            break;
        }
        if indexes.len() > MAX_INDEX_DEPTH {
            resolution.problems.push(Problem::Refused(Refusal::TooDeep));
            continue;
        }
        match document(runtime, namespace, digest).await? {
            Ok(Document::Index(index)) => {
                let below = [indexes, vec![digest]].concat();
                let unseen = index.manifests.iter().map(|entry| entry.digest);
                left.extend(
                    unseen
                        .filter(|digest| seen.insert(*digest))
                        .map(|d| (d, below.clone())),
                );
            }
            Ok(Document::Manifest(manifest)) => {
                match config(runtime, namespace, manifest.config.digest).await? {
                    Ok(config) => resolution.summaries.push(Summary {
                        indexes,
                        manifest: digest,
                        config: manifest.config.digest,
                        chain: config.chain().last().copied(),
                    }),
                    Err(problem) => resolution.problems.push(problem),
                }
            }
            Err(problem) => resolution.problems.push(problem),
        }
    }
    Ok(resolution)
}

async fn document<R: Runtime>(
    runtime: &R,
    namespace: &str,
    digest: Digest,
) -> Result<Result<Document, Problem>, CallError> {
    let bytes = read(runtime, namespace, digest, Part::Manifest).await?;
    Ok(bytes.and_then(|bytes| Document::parse(&bytes).map_err(refused)))
}

/// A config by its digest.
pub async fn config<R: Runtime>(
    runtime: &R,
    namespace: &str,
    digest: Digest,
) -> Result<Result<Config, Problem>, CallError> {
    let bytes = read(runtime, namespace, digest, Part::Config).await?;
    Ok(bytes.and_then(|bytes| Config::parse(&bytes).map_err(refused)))
}

fn refused(error: ImageError) -> Problem {
    Problem::Refused(Refusal::Document(error))
}

async fn read<R: Runtime>(
    runtime: &R,
    namespace: &str,
    digest: Digest,
    part: Part,
) -> Result<Result<Vec<u8>, Problem>, CallError> {
    let bytes = match runtime
        .read_blob(namespace, digest, MAX_DOCUMENT_BYTES)
        .await
    {
        Ok(bytes) => bytes,
        Err(CallError::NotFound) => return Ok(Err(Problem::Absent)),
        Err(CallError::TooLarge { .. }) => return Ok(Err(refused(ImageError::TooLarge))),
        Err(error) => return Err(error),
    };
    let actual = Digest::of(&bytes);
    if actual != digest {
        return Ok(Err(Problem::Altered {
            part,
            digest,
            actual,
        }));
    }
    Ok(Ok(bytes))
}

#[cfg(test)]
mod tests;
