//! Why something could not be fetched, each reason by name.
//!
//! What a registry wrote is never quoted here: only its host, its status and our own words.

use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::display;
use holdfast_core::reference::Repository;
use holdfast_core::trust::{Cause, Missed};

/// Longest description of a broken connection.
const MAX_DESCRIPTION: usize = 200;

/// Why the client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No usable TLS: most likely the system has no certificates.
    #[error("HTTP client cannot be made: {0}")]
    Http(#[from] reqwest::Error),
}

/// Why an object could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke off.
    #[error("no connection: {0}")]
    Connection(String),
    /// No answer within the deadline, retries included.
    #[error("no answer in time")]
    Timeout,
    /// 401: the registry wants credentials that we do not have.
    #[error("registry wants other credentials (401)")]
    Unauthorized,
    /// 403: the registry refuses.
    #[error("registry refuses (403)")]
    Forbidden,
    /// 404: the registry has no such thing.
    #[error("not found (404)")]
    NotFound,
    /// 429, or a pause that an earlier one asked for.
    #[error("registry asks for a pause (429)")]
    RateLimited {
        /// How long it wants to be left alone, bounded. Not in the message: that goes into findings,
        /// which must not change with every second.
        pause: Duration,
    },
    /// 5xx.
    #[error("registry failed ({0})")]
    Server(u16),
    /// A status that means nothing here.
    #[error("unexpected status {0}")]
    Status(u16),
    /// The token endpoint's answer, or the challenge that names it, is not usable.
    #[error("token could not be had: {0}")]
    Token(TokenError),
    /// A redirect that may not be followed.
    #[error("redirect is not followed: {0}")]
    Redirect(RedirectError),
    /// More bytes than such an object may have.
    #[error("longer than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The bytes are not those of the digest that was asked for, or that the registry itself named.
    #[error("bytes hash to {actual}, due is {due}")]
    WrongDigest {
        /// What was asked for.
        due: Digest,
        /// What came.
        actual: Digest,
    },
    /// Not a manifest: a portal's login page, for instance.
    #[error("answer is not of a manifest's media type")]
    WrongType,
    /// A compressed answer: small on the wire, without bound in memory. It was not asked for.
    #[error("answer has a content encoding")]
    Encoded,
    /// Registry and repository do not make a URL.
    #[error("reference makes no URL")]
    Url,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The endpoint is no URL, or one that may not be asked.
    #[error("endpoint must be https")]
    Realm,
    /// The endpoint's answer.
    #[error("endpoint answers {0}")]
    Status(u16),
    /// The endpoint's answer holds no token.
    #[error("endpoint's answer holds no token")]
    Answer,
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// More than a real registry needs.
    #[error("too many")]
    TooMany,
    /// Without a target, or with one that is no URL.
    #[error("no target")]
    Target,
    /// To plain HTTP, where anybody on the way could answer.
    #[error("target is not https")]
    Insecure,
}

impl FetchError {
    /// A broken connection, with the innermost cause: the outer ones repeat the URL.
    pub(crate) fn of_connection(error: &reqwest::Error) -> Self {
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let shown = display::escape(innermost.to_string().as_bytes());
        if error.is_timeout() {
            Self::Timeout
        } else {
            Self::Connection(shown.chars().take(MAX_DESCRIPTION).collect())
        }
    }

    /// Whether the same request may do better at once. A pause that the registry asked for, and our own
    /// deadline, are not to be argued with.
    pub(crate) const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Connection(_) | Self::Server(_) | Self::Token(TokenError::Status(500..))
        )
    }

    /// Whether asking the same registry for something else makes sense.
    pub(crate) const fn ends_the_look(&self) -> bool {
        matches!(
            self,
            Self::Connection(_)
                | Self::Timeout
                | Self::Unauthorized
                | Self::Forbidden
                | Self::RateLimited { .. }
                | Self::Server(_)
                | Self::Token(_)
        )
    }

    /// The cause as evidence names it.
    const fn cause(&self) -> Cause {
        match self {
            Self::Connection(_) => Cause::Unreachable,
            Self::Timeout => Cause::Timeout,
            Self::Unauthorized | Self::Forbidden | Self::Token(TokenError::Status(401 | 403)) => {
                Cause::Denied
            }
            Self::NotFound => Cause::BlobMissing,
            Self::RateLimited { .. } => Cause::RateLimited,
            Self::Server(_)
            | Self::Status(_)
            | Self::Url
            | Self::Token(TokenError::Status(500..)) => Cause::ServerError,
            Self::Token(_) | Self::WrongType | Self::Encoded => Cause::WrongAnswer,
            Self::Redirect(_) => Cause::Redirect,
            Self::TooLarge { .. } => Cause::TooLarge,
            Self::WrongDigest { .. } => Cause::WrongDigest,
        }
    }

    /// This failure as part of the evidence about `what` in `repository`.
    pub(crate) fn missed(&self, repository: &Repository, what: &str) -> Missed {
        Missed {
            cause: self.cause(),
            message: format!("{repository}: {what}: {self}"),
        }
    }
}
