//! A thin client of the distribution API: one object in, its bytes or a named reason out.
//!
//! Every answer is bounded and hashed here, and never decompressed. Mirrors are asked first and the
//! registry last; what one of them lacks or breaks the next may have. Only when every host that may be
//! asked says 404 is something not there.

use std::sync::Arc;

use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use holdfast_core::trust::classic::MAX_MANIFEST;
use reqwest::header::HeaderValue;

use crate::access::Access;
use crate::answer::{Answer, checked, is_manifest, named_digest};
use crate::endpoint::{Endpoint, Need, Object};
use crate::error::{FetchError, SetupError};
use crate::flight::Flights;
use crate::retry::Retry;
use crate::transport::{Ask, Transport};

/// Everything that may be behind a tag, as one `Accept` header.
pub(crate) const ACCEPT_MANIFEST: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json",
);
/// Layers that are fetched at once: they take minutes, and must not take every place.
const DOWNLOADS: usize = 2;

/// A manifest or an index, checked against its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What the bytes hash to.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The client; one for the whole program. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) transport: Arc<Transport>,
    pub(crate) downloads: Arc<tokio::sync::Semaphore>,
    flights: Arc<Flights<Result<Answer, FetchError>>>,
}

/// One object that is asked for, and what its bytes must be.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    object: Object<'a>,
    need: Need,
    limit: usize,
    form: Form,
}

#[derive(Clone, Copy, Debug)]
enum Form {
    /// A manifest or index, whatever it hashes to.
    AnyManifest,
    /// The manifest or index of this digest.
    Manifest(Digest),
    /// The blob of this digest.
    Blob(Digest),
}

impl Client {
    /// A client with the system's certificates. Proxies from the environment are not used.
    pub fn new(access: Access) -> Result<Self, SetupError> {
        Ok(Self {
            transport: Arc::new(Transport::new(access)?),
            downloads: Arc::new(tokio::sync::Semaphore::new(DOWNLOADS)),
            flights: Arc::default(),
        })
    }

    /// What a tag means now. Tags move: this is for finding signatures, never for telling what runs.
    pub async fn tagged(&self, repository: &Repository, tag: &str) -> Result<Manifest, FetchError> {
        let wanted = Wanted {
            object: object(repository, "manifests", tag),
            need: Need::Word,
            limit: MAX_MANIFEST,
            form: Form::AnyManifest,
        };
        let bytes = self.fetch(wanted).await?.bytes;
        Ok(Manifest {
            digest: Digest::of(&bytes),
            bytes,
        })
    }

    /// The manifest or index of this digest.
    pub async fn manifest(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Manifest, FetchError> {
        let name = digest.to_string();
        let wanted = Wanted {
            object: object(repository, "manifests", &name),
            need: Need::Content,
            limit: MAX_MANIFEST,
            form: Form::Manifest(digest),
        };
        let bytes = self.fetch(wanted).await?.bytes;
        Ok(Manifest { digest, bytes })
    }

    /// The blob of this digest, if it has at most `limit` bytes.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: Digest,
        limit: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let name = digest.to_string();
        let wanted = Wanted {
            object: object(repository, "blobs", &name),
            need: Need::Content,
            limit,
            form: Form::Blob(digest),
        };
        Ok(self.fetch(wanted).await?.bytes)
    }

    /// One fetch for everybody who wants the same now.
    async fn fetch(&self, wanted: Wanted<'_>) -> Result<Answer, FetchError> {
        let Object {
            repository,
            kind,
            name,
        } = wanted.object;
        let key = format!("{repository} {kind} {name} {}", wanted.limit);
        // Boxed: it is large, and most who wait only wait.
        let fly = Box::pin(self.anywhere(wanted));
        self.flights.join(key, fly).await
    }

    async fn anywhere(&self, wanted: Wanted<'_>) -> Result<Answer, FetchError> {
        let registry = wanted.object.repository.registry();
        let mut tried = Tried::default();
        for endpoint in self.transport.hosts.of(registry).await?.iter() {
            if !endpoint.capabilities.allow(wanted.need) {
                continue;
            }
            match self.at(endpoint, wanted).await {
                Ok(answer) => return Ok(answer),
                Err(error) => tried.note(endpoint, error),
            }
        }
        Err(tried.into_error())
    }

    /// The object at one host, within the deadline, with retries.
    async fn at(&self, endpoint: &Endpoint, wanted: Wanted<'_>) -> Result<Answer, FetchError> {
        let is_blob = matches!(wanted.form, Form::Blob(_));
        let ask = Ask {
            endpoint,
            repository: wanted.object.repository,
            url: endpoint.url(&wanted.object)?,
            accept: (!is_blob).then_some(ACCEPT_MANIFEST),
            from: 0,
        };
        let answer = self.answer(&ask, wanted.limit).await?;
        wanted.form.check(answer)
    }

    /// A bounded answer within the deadline, with retries.
    pub(crate) async fn answer(&self, ask: &Ask<'_>, limit: usize) -> Result<Answer, FetchError> {
        if let Some(fault) = &ask.endpoint.fault {
            return Err(FetchError::Setup(fault.clone()));
        }
        tokio::time::timeout(self.transport.timing.object, self.attempts(ask, limit))
            .await
            .map_err(|_elapsed| FetchError::Timeout)?
    }

    async fn attempts(&self, ask: &Ask<'_>, limit: usize) -> Result<Answer, FetchError> {
        let mut retry = Retry::new();
        loop {
            let answer = match self.transport.ask(ask).await {
                Ok(reply) => reply.body(limit).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(error) if retry.again(&error).await => {}
                answer => return answer,
            }
        }
    }
}

pub(crate) const fn object<'a>(
    repository: &'a Repository,
    kind: &'static str,
    name: &'a str,
) -> Object<'a> {
    Object {
        repository,
        kind,
        name,
    }
}

impl Form {
    fn check(self, answer: Answer) -> Result<Answer, FetchError> {
        if !matches!(self, Self::Blob(_)) && !is_manifest(&answer.headers) {
            return Err(FetchError::WrongType);
        }
        let actual = Digest::of(&answer.bytes);
        let due = match self {
            Self::Manifest(due) | Self::Blob(due) => due,
            // The registry's own word for it, where it gives one: a body that was cut or changed on the
            // way is told from a signature that is bad.
            Self::AnyManifest => named_digest(&answer.headers, actual).unwrap_or(actual),
        };
        checked(actual, due)?;
        Ok(answer)
    }
}

/// What hosts answered that did not have it.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    /// The first that was not a plain "not here".
    failure: Option<FetchError>,
    is_absent: bool,
}

impl Tried {
    pub(crate) fn note(&mut self, endpoint: &Endpoint, error: FetchError) {
        if error == FetchError::NotFound {
            self.is_absent = true;
        } else {
            self.failure.get_or_insert_with(|| endpoint.blame(error));
        }
    }

    /// A host that could not be asked may have it: only 404 from all of them means that it is not there.
    pub(crate) fn into_error(self) -> FetchError {
        match self.failure {
            Some(failure) => failure,
            None if self.is_absent => FetchError::NotFound,
            None => FetchError::NoHost,
        }
    }
}
