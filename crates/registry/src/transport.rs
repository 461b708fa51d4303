//! One question to one host, whatever it takes to be answered: token, redirects, statuses by name.
//!
//! The registry is not trusted. Credentials, tokens, client certificates and configured headers stay with
//! the host that they are for: what leaves it by a redirect or for a token leaves without them.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::reference::Repository;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, Request, Response, StatusCode, Url};

use crate::access::{Access, Timing};
use crate::answer::{Answer, named, read};
use crate::auth::{Challenge, Keyring, MAX_TOKEN_ANSWER, Secret, Token, endpoint, form, question};
use crate::endpoint::{Endpoint, host};
use crate::error::{FetchError, RedirectError, SetupError, TokenError};
use crate::hosts::Hosts;
use crate::lane::{Lane, Lanes, Pass};

/// Redirects of one request: registries send blobs elsewhere once, storage may once more.
const MAX_REDIRECTS: usize = 5;
/// How long a password or a ready token is sent without being asked for again.
const PROOF_LIFE: Duration = Duration::from_mins(5);
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const NO_ENCODING: HeaderValue = HeaderValue::from_static("identity");

/// Everything that questions share.
#[derive(Debug)]
pub(crate) struct Transport {
    pub(crate) hosts: Arc<Hosts>,
    pub(crate) timing: Timing,
    keyring: Keyring,
    lanes: Lanes,
    /// For hosts that nobody has configured anything for.
    plain: reqwest::Client,
}

/// One question.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) repository: &'a Repository,
    pub(crate) url: Url,
    pub(crate) accept: Option<HeaderValue>,
    /// The first byte that is wanted.
    pub(crate) from: u64,
}

impl Ask<'_> {
    /// What only the registry's own host may see.
    fn own_headers(&self, proof: Option<&HeaderValue>) -> HeaderMap {
        let mut headers = self.endpoint.headers.clone();
        if let Some(proof) = proof {
            headers.insert(AUTHORIZATION, proof.clone());
        }
        headers
    }

    /// What every host may see.
    fn add_to(&self, headers: &mut HeaderMap) {
        headers.insert(ACCEPT_ENCODING, NO_ENCODING);
        if let Some(accept) = &self.accept {
            headers.insert(ACCEPT, accept.clone());
        }
        if self.from > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.from))
        {
            headers.insert(RANGE, range);
        }
    }
}

/// The head of a good answer, and its body to come.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: Response,
    pass: Pass,
    /// Only the registry's own challenge is answered.
    is_home: bool,
}

impl Reply {
    /// A body of at most `limit` bytes.
    pub(crate) async fn body(mut self, limit: usize) -> Result<Answer, FetchError> {
        let headers = self.response.headers().clone();
        match read(self.response, limit).await {
            Ok(bytes) => Ok(Answer { headers, bytes }),
            Err(error) => {
                self.pass.failed(&error);
                Err(error)
            }
        }
    }
}

impl Transport {
    pub(crate) fn new(access: Access) -> Result<Self, SetupError> {
        access.keyring.check()?;
        let hosts = Arc::new(Hosts::new(access.hosts, access.insecure)?);
        Ok(Self {
            plain: hosts.plain(),
            hosts,
            timing: access.timing,
            keyring: access.keyring,
            lanes: Lanes::new(access.pace),
        })
    }

    /// Asks with the token at hand, and once more with a new one if that is refused.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Reply, FetchError> {
        let lane = self.lanes.of(&ask.endpoint.host());
        let path = ask.repository.path();
        let mut reply = self.follow(ask, lane.token(path)).await?;
        if reply.is_home && reply.response.status() == StatusCode::UNAUTHORIZED {
            lane.forget(path);
            let challenge = reply.response.headers().clone();
            // The token may come from the same host, which has only so many places.
            drop(reply);
            let proof = self.proof(ask, &lane, &challenge).await?;
            reply = self.follow(ask, Some(proof)).await?;
        }
        let is_ranged = ask.from > 0;
        match reply.response.status().as_u16() {
            200 => Ok(reply),
            206 if is_ranged => Ok(reply),
            429 => Err(reply.pass.rate_limited(reply.response.headers())),
            status => Err(named(status)),
        }
    }

    /// Sends the question and follows redirects. `proof` stays with the registry's own host.
    async fn follow(&self, ask: &Ask<'_>, proof: Option<HeaderValue>) -> Result<Reply, FetchError> {
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_home = url.origin() == ask.url.origin();
            let mut request = Request::new(Method::GET, url.clone());
            let http = if is_home {
                *request.headers_mut() = ask.own_headers(proof.as_ref());
                &ask.endpoint.http
            } else {
                &self.plain
            };
            ask.add_to(request.headers_mut());
            let (response, pass) = self.exchange(http, request).await?;
            match self.target(&url, &response)? {
                Some(target) => url = target,
                None => {
                    return Ok(Reply {
                        response,
                        pass,
                        is_home,
                    });
                }
            }
        }
        Err(FetchError::Redirect(RedirectError::TooMany))
    }

    /// One request, one head of an answer, in the lane of its host.
    async fn exchange(
        &self,
        http: &reqwest::Client,
        request: Request,
    ) -> Result<(Response, Pass), FetchError> {
        let host = host(request.url()).ok_or(FetchError::Url)?;
        let mut pass = self.lanes.of(&host).enter().await?;
        let sent = tokio::time::timeout(self.timing.first_byte, http.execute(request)).await;
        let sent = sent
            .map_err(|_elapsed| FetchError::Timeout)
            .and_then(|sent| sent.map_err(|error| FetchError::of_connection(&error)));
        match sent {
            Ok(response) => {
                pass.answered(response.status().as_u16(), response.headers());
                Ok((response, pass))
            }
            Err(error) => {
                pass.failed(&error);
                Err(error)
            }
        }
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
            "http" => host(url).is_some_and(|host| self.hosts.may_be_insecure(&host)),
            _ => false,
        }
    }

    /// What answers the registry's challenge.
    async fn proof(
        &self,
        ask: &Ask<'_>,
        lane: &Lane,
        challenge: &HeaderMap,
    ) -> Result<HeaderValue, FetchError> {
        let path = ask.repository.path();
        let challenge = Challenge::of(challenge).ok_or(FetchError::Unauthorized)?;
        let secret = self.keyring.secret(&ask.endpoint.host(), path).await;
        let secret = secret.map_err(FetchError::Setup)?;
        let ready = |header| Token {
            header,
            life: PROOF_LIFE,
        };
        let token = match challenge {
            Challenge::Basic => secret
                .and_then(|secret| secret.basic())
                .map(ready)
                .ok_or(FetchError::Unauthorized)?,
            Challenge::Bearer { realm, service } => {
                if let Some(header) = secret.as_ref().and_then(Secret::bearer) {
                    ready(header)
                } else {
                    let realm = Realm {
                        url: &realm,
                        service: service.as_deref(),
                    };
                    self.token(ask, &realm, secret).await?
                }
            }
        };
        lane.keep(path, &token);
        Ok(token.header)
    }

    /// Asks the token endpoint. It is not followed anywhere else.
    async fn token(
        &self,
        ask: &Ask<'_>,
        realm: &Realm<'_>,
        secret: Option<Secret>,
    ) -> Result<Token, FetchError> {
        let refused = FetchError::Token(TokenError::Realm);
        let url = endpoint(realm.url).filter(|url| self.may_ask(url));
        let url = url.ok_or_else(|| refused.clone())?;
        let is_home = url.origin() == ask.url.origin();
        // A challenge that came in plain HTTP may have been written by anybody on the way: then only the
        // registry itself is given the password.
        let is_bound = ask.url.scheme() == "https" && url.scheme() == "https" || is_home;
        let secret = secret.filter(|_| is_bound);
        let request = realm
            .request(url, ask.repository.path(), secret.as_ref())
            .ok_or(refused)?;
        let http = if is_home {
            &ask.endpoint.http
        } else {
            &self.plain
        };
        let (response, pass) = self.exchange(http, request).await?;
        match response.status().as_u16() {
            200 => {}
            429 => return Err(pass.rate_limited(response.headers())),
            status => return Err(FetchError::Token(TokenError::Status(status))),
        }
        let json = read(response, MAX_TOKEN_ANSWER).await?;
        Token::parse(&json).ok_or(FetchError::Token(TokenError::Answer))
    }
}

/// Who gives tokens for a registry.
struct Realm<'a> {
    url: &'a str,
    service: Option<&'a str>,
}

impl Realm<'_> {
    /// A refresh token is posted, so that no log of URLs has it; a password is a header; a stranger asks
    /// without either.
    fn request(&self, url: Url, path: &str, secret: Option<&Secret>) -> Option<Request> {
        let mut request = if let Some(Secret::Refresh(token)) = secret {
            let mut request = Request::new(Method::POST, url);
            *request.body_mut() = Some(form(self.service, path, token)?.into());
            request.headers_mut().insert(CONTENT_TYPE, FORM);
            request
        } else {
            Request::new(Method::GET, question(self.url, self.service, path)?)
        };
        let headers = request.headers_mut();
        headers.insert(ACCEPT_ENCODING, NO_ENCODING);
        if let Some(proof) = secret.and_then(Secret::basic) {
            headers.insert(AUTHORIZATION, proof);
        }
        Some(request)
    }
}
