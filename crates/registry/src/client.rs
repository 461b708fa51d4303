//! A thin client of the distribution API: one object in, its bytes or a named reason out.
//!
//! The registry is not trusted: every answer is bounded and hashed here, never decompressed, and a
//! redirect loses every credential when it leaves the host. One deadline covers an object with its
//! token, redirects and retries, so that nobody waits for a registry longer than that.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use holdfast_core::trust::classic::MAX_MANIFEST;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};

use crate::answer::{Answer, checked, is_manifest, named_digest, read, receive, retry_after};
use crate::auth::{Challenge, Credentials, MAX_TOKEN_ANSWER, Token, question};
use crate::error::{FetchError, RedirectError, SetupError, TokenError};
use crate::lane::{Lane, Lanes};

/// Everything that may be behind a tag, as one `Accept` header.
const ACCEPT_MANIFEST: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json",
);
/// Redirects of one request: registries send blobs elsewhere once, storage may once more.
const MAX_REDIRECTS: usize = 5;
/// Attempts at one object after the first.
const MAX_RETRIES: u32 = 2;
/// The first pause between attempts; doubled after, with up to as much again at random, so that a
/// fleet does not come back all at once.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Time for a connection, handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which registries may be asked how.
#[derive(Clone, Debug)]
pub struct Access {
    /// Registries (host and port as in image references) that are spoken to in plain HTTP. What they
    /// send is still checked by digest; that a tag is absent is then anybody's word.
    pub insecure: BTreeSet<String>,
    /// Credentials by registry.
    pub credentials: BTreeMap<String, Credentials>,
    /// Time for one object, with its token, redirects and retries.
    pub deadline: Duration,
}

impl Default for Access {
    fn default() -> Self {
        Self {
            insecure: BTreeSet::new(),
            credentials: BTreeMap::new(),
            deadline: Duration::from_secs(20),
        }
    }
}

/// A manifest or an index, checked against its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What the bytes hash to.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// The client; one for the whole program.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    access: Access,
    lanes: Lanes,
}

/// One object that is asked for.
struct Request<'a> {
    repository: &'a Repository,
    url: Url,
    limit: usize,
    accept: Option<HeaderValue>,
}

impl Client {
    /// A client with the system's certificates. Proxies from the environment are not used.
    pub fn new(access: Access) -> Result<Self, SetupError> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none()) // by hand: credentials must not follow
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_max_header_list_size(64 << 10)
            .build()?;
        Ok(Self {
            http,
            access,
            lanes: Lanes::default(),
        })
    }

    /// What a tag means now. Tags move: this is for finding signatures, never for telling what runs.
    pub async fn tagged(&self, repository: &Repository, tag: &str) -> Result<Manifest, FetchError> {
        let answer = self.manifest_answer(repository, tag).await?;
        let digest = Digest::of(&answer.bytes);
        // The registry's own word for it, where it gives one: a body that was cut or changed on the way
        // is told from a signature that is bad.
        if let Some(due) = named_digest(&answer.headers, digest)
            && due != digest
        {
            return Err(FetchError::WrongDigest {
                due,
                actual: digest,
            });
        }
        Ok(Manifest {
            digest,
            bytes: answer.bytes,
        })
    }

    /// The manifest or index of this digest.
    pub async fn manifest(
        &self,
        repository: &Repository,
        digest: Digest,
    ) -> Result<Manifest, FetchError> {
        let answer = self
            .manifest_answer(repository, &digest.to_string())
            .await?;
        let bytes = checked(answer.bytes, digest)?;
        Ok(Manifest { digest, bytes })
    }

    /// The blob of this digest, if it has at most `limit` bytes.
    pub async fn blob(
        &self,
        repository: &Repository,
        digest: Digest,
        limit: usize,
    ) -> Result<Vec<u8>, FetchError> {
        let request = Request {
            repository,
            url: self.url(repository, "blobs", &digest.to_string())?,
            limit,
            accept: None,
        };
        checked(self.fetch(&request).await?.bytes, digest)
    }

    async fn manifest_answer(
        &self,
        repository: &Repository,
        name: &str,
    ) -> Result<Answer, FetchError> {
        let request = Request {
            repository,
            url: self.url(repository, "manifests", name)?,
            limit: MAX_MANIFEST,
            accept: Some(ACCEPT_MANIFEST),
        };
        let answer = self.fetch(&request).await?;
        if !is_manifest(&answer.headers) {
            return Err(FetchError::WrongType);
        }
        Ok(answer)
    }

    fn url(&self, repository: &Repository, kind: &str, name: &str) -> Result<Url, FetchError> {
        let registry = repository.registry();
        let scheme = if self.access.insecure.contains(registry) {
            "http"
        } else {
            "https"
        };
        let path = repository.path();
        let url = Url::parse(&format!("{scheme}://{registry}/v2/{path}/{kind}/{name}"))
            .map_err(|_parse| FetchError::Url)?;
        // The parser must not have found anything else in it than what was put there.
        if url.path() != format!("/v2/{path}/{kind}/{name}") || url.query().is_some() {
            return Err(FetchError::Url);
        }
        Ok(url)
    }

    /// One object within the deadline, with retries.
    async fn fetch(&self, request: &Request<'_>) -> Result<Answer, FetchError> {
        tokio::time::timeout(self.access.deadline, self.attempts(request))
            .await
            .map_err(|_elapsed| FetchError::Timeout)?
    }

    async fn attempts(&self, request: &Request<'_>) -> Result<Answer, FetchError> {
        let lane = self.lanes.of(request.repository.registry());
        let mut pause = RETRY_PAUSE;
        for _ in 0..MAX_RETRIES {
            match self.attempt(request, &lane).await {
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(jittered(pause)).await;
                    pause = pause.saturating_mul(2);
                }
                answer => return answer,
            }
        }
        self.attempt(request, &lane).await
    }

    /// One attempt: with the token at hand, and once more with a new one if that is refused.
    async fn attempt(&self, request: &Request<'_>, lane: &Lane) -> Result<Answer, FetchError> {
        let _permit = lane.enter().await?;
        let path = request.repository.path();
        let response = self.send(request, lane.token(path)).await?;
        let response = match response {
            Reached::Registry(response) if response.status() == StatusCode::UNAUTHORIZED => {
                lane.forget(path);
                let proof = self.proof(request, lane, response.headers()).await?;
                self.send(request, Some(proof)).await?.into_response()
            }
            reached => reached.into_response(),
        };
        receive(response, request.limit, lane).await
    }

    /// Sends the request and follows redirects. `proof` stays with the registry's own host.
    async fn send(
        &self,
        request: &Request<'_>,
        proof: Option<HeaderValue>,
    ) -> Result<Reached, FetchError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_home = url.origin() == request.url.origin();
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            if let Some(accept) = &request.accept {
                headers.insert(ACCEPT, accept.clone());
            }
            if let Some(proof) = proof.as_ref().filter(|_| is_home) {
                headers.insert(AUTHORIZATION, proof.clone());
            }
            let response = self.get(url.clone(), headers).await?;
            match self.target(&url, &response)? {
                Some(target) => url = target,
                None if is_home => return Ok(Reached::Registry(response)),
                None => return Ok(Reached::Elsewhere(response)),
            }
        }
        Err(FetchError::Redirect(RedirectError::TooMany))
    }

    async fn get(&self, url: Url, headers: HeaderMap) -> Result<Response, FetchError> {
        self.http
            .get(url)
            .headers(headers)
            .send()
            .await
            .map_err(|error| FetchError::of_connection(&error))
    }

    /// Where a redirect leads, if the response is one.
    fn target(&self, from: &Url, response: &Response) -> Result<Option<Url>, FetchError> {
        if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let refused = |error| FetchError::Redirect(error);
        let target = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok())
            .filter(|target| target.username().is_empty() && target.password().is_none())
            .ok_or(refused(RedirectError::Target))?;
        if !self.may_ask(&target) {
            return Err(refused(RedirectError::Insecure));
        }
        Ok(Some(target))
    }

    /// HTTPS, or plain HTTP to a host that is listed for it.
    fn may_ask(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => host(url).is_some_and(|host| self.access.insecure.contains(&host)),
            _ => false,
        }
    }

    /// What answers the registry's challenge.
    async fn proof(
        &self,
        request: &Request<'_>,
        lane: &Lane,
        challenge: &HeaderMap,
    ) -> Result<HeaderValue, FetchError> {
        let credentials = self.access.credentials.get(request.repository.registry());
        match Challenge::of(challenge).ok_or(FetchError::Unauthorized)? {
            Challenge::Basic => credentials
                .and_then(Credentials::header)
                .ok_or(FetchError::Unauthorized),
            Challenge::Bearer { realm, service } => {
                let path = request.repository.path();
                let url = question(&realm, service.as_deref(), path)
                    .filter(|url| self.may_ask(url))
                    .ok_or(FetchError::Token(TokenError::Realm))?;
                // A challenge that came in plain HTTP may have been written by anybody on the way: then
                // only the registry itself is given the password.
                let is_bound = request.url.scheme() == "https" && url.scheme() == "https"
                    || url.origin() == request.url.origin();
                let credentials = credentials.filter(|_| is_bound);
                let token = self.token(url, credentials, lane).await?;
                lane.keep(path, &token);
                Ok(token.header)
            }
        }
    }

    /// Asks the token endpoint. It is not followed anywhere else.
    async fn token(
        &self,
        url: Url,
        credentials: Option<&Credentials>,
        lane: &Lane,
    ) -> Result<Token, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(proof) = credentials.and_then(Credentials::header) {
            headers.insert(AUTHORIZATION, proof);
        }
        let response = self.get(url, headers).await?;
        match response.status().as_u16() {
            200 => {}
            429 => return Err(lane.rate_limited(retry_after(response.headers()))),
            status => return Err(FetchError::Token(TokenError::Status(status))),
        }
        let json = read(response, MAX_TOKEN_ANSWER).await?;
        Token::parse(&json).ok_or(FetchError::Token(TokenError::Answer))
    }
}

/// Whose answer it is: only the registry's own challenge is answered.
enum Reached {
    Registry(Response),
    Elsewhere(Response),
}

impl Reached {
    fn into_response(self) -> Response {
        match self {
            Self::Registry(response) | Self::Elsewhere(response) => response,
        }
    }
}

/// Host and port as image references write them.
fn host(url: &Url) -> Option<String> {
    let host = url.host_str()?;
    Some(match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    })
}

/// Between `pause` and twice that.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let share = u32::try_from(random % 1000).unwrap_or_default();
    pause.saturating_add(pause.saturating_mul(share) / 1000)
}
