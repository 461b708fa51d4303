//! The policies in force and where signatures are looked for.
//!
//! Policies are files of the node, trusted as the node is. They are read again every few seconds; a set that
//! is refused is logged and the last good one stays. Deciding is `core`'s work.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::drift::policy::{DriftPolicies, DriftPolicyError, is_drift_policy};
use holdfast_core::trust::policy::{MAX_FILE, PolicyError};
use holdfast_core::trust::{Evidence, PolicySet};
use holdfast_daemon::address::HostPort;
use holdfast_daemon::capped;
use holdfast_registry::{Cached, Client, Layout, Registries, SetupError, Sources, collect};

use crate::config;

/// How often the files are read again: cheap, and no watch of a file survives an atomic rename.
pub const RELOAD: Duration = Duration::from_secs(5);

/// Files in a policy folder; more is a mistake.
const MAX_FILES: usize = 1000;

/// Why policies are not in force.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read.
    #[error("{0}: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
    /// Too many files.
    #[error("{0} holds more than {MAX_FILES} policy files")]
    TooMany(PathBuf),
    /// Somebody has named a folder that holds none.
    #[error(
        "{0}: holds no policy; expected ClusterImagePolicy or DriftPolicy documents, in a folder as *.yaml \
         or *.yml"
    )]
    HoldsNone(PathBuf),
    /// A policy is refused, with file, line and column.
    #[error(transparent)]
    Refused(#[from] PolicyError),
    /// A drift policy is refused, likewise.
    #[error(transparent)]
    DriftRefused(#[from] DriftPolicyError),
    /// A source of signatures cannot be used.
    #[error("signatures: {0}")]
    Source(#[from] SetupError),
}

/// What a policy path means that is not there, or holds no policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nobody has made the folder, or put a policy there: there are none.
    HoldsNone,
    /// Somebody has named it: a mistake.
    IsRefused,
}

/// A set of policies, numbered: another number means another set.
#[derive(Debug)]
pub struct Policies {
    /// Whose signatures count.
    pub set: PolicySet,
    /// What containers may change.
    pub drift: DriftPolicies,
    /// Counts up with each change.
    pub generation: u64,
    /// The digest of all files and their names.
    digest: Digest,
}

/// The policies, and the places where signatures are found.
#[derive(Debug)]
pub struct Trust {
    paths: Vec<PathBuf>,
    policies: Mutex<Arc<Policies>>,
    /// The digest of what was refused last.
    refused: Mutex<Option<Digest>>,
    sources: Cached<Sources>,
}

/// The program's one client of registries; a broken file about them is an error at the start.
pub fn client(config: &config::Config) -> Result<Client, TrustError> {
    client_of(&config.registry, &config.trust.insecure_registries)
}

/// A client that is told how to ask and by whom it need not be shown a certificate.
pub fn client_of(registries: &Registries, insecure: &[HostPort]) -> Result<Client, TrustError> {
    let insecure: Vec<String> = insecure.iter().map(HostPort::to_string).collect();
    Ok(Client::new(registries.access(&insecure))?)
}

impl Trust {
    /// Reads the policies; a refused one is an error at the start, where a person is looking.
    pub fn load(config: &config::Trust, client: &Client) -> Result<Self, TrustError> {
        let paths = vec![config.policy_directory.clone()];
        Self::of(
            paths,
            &config.layouts,
            config.registry.then(|| client.clone()),
            Missing::HoldsNone,
        )
    }

    /// The policies of `paths`, files or folders. `client`: asks registries, if they may be asked.
    /// `missing`: what a path means that is not there.
    pub fn of(
        paths: Vec<PathBuf>,
        layouts: &[PathBuf],
        client: Option<Client>,
        missing: Missing,
    ) -> Result<Self, TrustError> {
        let files = read_files(&paths, missing)?;
        let policies = parse(&files, 1)?;
        let sources = Cached::new(Sources::new(
            layouts.iter().cloned().map(Layout::new).collect(),
            client,
        ));
        Ok(Self {
            paths,
            policies: Mutex::new(Arc::new(policies)),
            refused: Mutex::new(None),
            sources,
        })
    }

    /// The same without a word about signatures, so that nobody asks a registry for any.
    #[must_use]
    pub fn about_drift_alone(self) -> Self {
        let policies = self.policies();
        let drift = Policies {
            set: PolicySet::default(),
            drift: policies.drift.clone(),
            ..*policies
        };
        Self {
            policies: Mutex::new(Arc::new(drift)),
            ..self
        }
    }

    /// The policies in force.
    pub fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known about the subjects, where images of these names live.
    pub async fn evidence(&self, names: &[String], subjects: &[Digest]) -> Evidence {
        collect(&self.sources, names, subjects).await
    }

    /// Reads the files again. True when another set is in force. What is refused is logged once, not every
    /// few seconds.
    pub fn reload(&self) -> bool {
        let before = self.policies();
        let read =
            read_files(&self.paths, Missing::HoldsNone).map(|files| (digest_of(&files), files));
        let (digest, files) = match read {
            Ok(read) => read,
            Err(error) => {
                self.refuse(Digest::of(error.to_string().as_bytes()), &error);
                return false;
            }
        };
        if digest == before.digest {
            self.accept();
            return false;
        }
        match parse(&files, before.generation + 1) {
            Ok(policies) => {
                let (signatures, drift) = (policies.set.len(), policies.drift.len());
                tracing::info!(signatures, drift, "Policies were read anew.");
                *self.policies.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(policies);
                self.accept();
                true
            }
            Err(error) => {
                self.refuse(digest, &error);
                false
            }
        }
    }

    /// Whether the files as they are now are refused.
    pub fn is_refused(&self) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some()
    }

    fn accept(&self) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn refuse(&self, digest: Digest, error: &TrustError) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if *refused != Some(digest) {
            tracing::error!(%error, "Policies are refused; the last good ones stay in force.");
            *refused = Some(digest);
        }
    }
}

type File = (String, Vec<u8>);

/// Each file holds policies of one kind.
fn parse(files: &[File], generation: u64) -> Result<Policies, TrustError> {
    let named = files
        .iter()
        .map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let (drift, signatures): (Vec<_>, Vec<_>) =
        named.partition(|(_, bytes)| is_drift_policy(bytes));
    Ok(Policies {
        set: PolicySet::load(signatures)?,
        drift: DriftPolicies::load(drift)?,
        generation,
        digest: digest_of(files),
    })
}

/// The drift policies of one file or folder; whatever else is there has to be sound too.
pub fn drift_policies(path: &Path, missing: Missing) -> Result<DriftPolicies, TrustError> {
    let files = read_files(&[path.to_owned()], missing)?;
    Ok(parse(&files, 1)?.drift)
}

fn digest_of(files: &[File]) -> Digest {
    let mut all = Vec::new();
    for (name, bytes) in files {
        all.extend_from_slice(Digest::of(name.as_bytes()).as_bytes());
        all.extend_from_slice(Digest::of(bytes).as_bytes());
    }
    Digest::of(&all)
}

/// The files of all paths, each folder in the order of its names.
fn read_files(paths: &[PathBuf], missing: Missing) -> Result<Vec<File>, TrustError> {
    let mut files = Vec::new();
    for path in paths {
        let unreadable = |error| TrustError::Unreadable(path.clone(), error);
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let found = policy_files(path)?;
                // A check against policies that are not there would pass what nobody vouched for.
                if found.is_empty() && missing == Missing::IsRefused {
                    return Err(TrustError::HoldsNone(path.clone()));
                }
                for file in found {
                    files.push(read_file(&file)?);
                }
            }
            Ok(_) => files.push(read_file(path)?),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && missing == Missing::HoldsNone => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    Ok(files)
}

fn policy_files(folder: &Path) -> Result<Vec<PathBuf>, TrustError> {
    let unreadable = |error| TrustError::Unreadable(folder.to_owned(), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_policy = path
            .extension()
            .is_some_and(|suffix| suffix == "yaml" || suffix == "yml");
        // `..data` and its like are how a ConfigMap is swapped; the files beside them are links into it.
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_policy && !is_hidden {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            return Err(TrustError::TooMany(folder.to_owned()));
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<File, TrustError> {
    let limit = u64::try_from(MAX_FILE).unwrap_or(u64::MAX);
    let bytes = capped::read_file(path, limit)
        .map_err(|error| TrustError::Unreadable(path.to_owned(), error))?;
    Ok((path.display().to_string(), bytes))
}
