//! Why something could not be fetched, each reason by name.
//!
//! What a registry wrote is never quoted here: only its host, its status and our own words.

use std::io;
use std::path::PathBuf;
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
    /// A file that says how registries are asked cannot be used.
    #[error(transparent)]
    Fault(#[from] SetupFault),
}

/// What is wrong with a file that says how registries are asked. Of the file's content nothing is
/// quoted: it holds passwords.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupFault {
    /// It cannot be read.
    #[error("{0}: {1}")]
    Unreadable(PathBuf, io::ErrorKind),
    /// It is longer than such a file can be.
    #[error("{0} is longer than {1} bytes")]
    TooLong(PathBuf, u64),
    /// It is not of its format.
    #[error("{file}:{line}:{column}: {what}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
        /// What is wrong there.
        what: Wrong,
    },
    /// A certificate or key that it names cannot be used.
    #[error("{0}: not a PEM certificate or key that can be used")]
    Pem(PathBuf),
    /// A host is to be asked without authenticating it, and that was not allowed here.
    #[error("{file}: {host} is not authenticated, and is not listed in insecure-registries")]
    Insecure {
        /// The file that wants it.
        file: PathBuf,
        /// The host.
        host: String,
    },
    /// A credential helper gives no credentials.
    #[error("credential helper {name:?}: {error}")]
    Helper {
        /// Its name, as the file has it.
        name: String,
        /// Why.
        error: ProgramError,
    },
}

/// What is wrong at one place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Not TOML or JSON, or a value of another type than is due.
    #[error("not of the due form")]
    Form,
    /// A text that should be a URL with a host.
    #[error("not a URL of a registry")]
    Url,
    /// Neither pull, resolve, referrers nor push.
    #[error("unknown capability")]
    Capability,
    /// A header that HTTP does not have.
    #[error("not an HTTP header")]
    Header,
    /// A length of time that cannot be read.
    #[error("not a length of time")]
    Duration,
    /// More hosts than anybody asks one after the other.
    #[error("too many hosts")]
    Hosts,
    /// Credentials that are not `user:password` in base64.
    #[error("auth is not base64 of user:password")]
    Auth,
    /// A name that would lead out of the folders for helpers.
    #[error("not the name of a credential helper")]
    Helper,
}

/// Why a credential helper gives no credentials. What it wrote is never shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// None of the folders has it.
    #[error("not found in credential-helpers")]
    Absent,
    /// It cannot be started, or talked to.
    #[error("cannot be run: {0}")]
    Run(io::ErrorKind),
    /// It did not end in time, and was ended.
    #[error("no answer in time")]
    Timeout,
    /// It failed.
    #[error("failed")]
    Failed,
    /// It wrote more than credentials can have.
    #[error("answer is too long")]
    TooLong,
    /// It wrote something else than credentials.
    #[error("answer holds no credentials")]
    Answer,
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
    /// More or fewer bytes than the manifest says.
    #[error("has {actual} bytes, due are {due}")]
    WrongLength {
        /// What the manifest says.
        due: u64,
        /// What came, or was announced.
        actual: u64,
    },
    /// Asked for the rest of a blob, the registry sent something else.
    #[error("answer is not the range that was asked for")]
    WrongRange,
    /// A list has more pages, and they cannot be had.
    #[error("next page of the list: {0}")]
    Page(PageError),
    /// The host failed so often that it is left alone for a while.
    #[error("host is left alone after failures, the last: {after}")]
    LeftAlone {
        /// The last failure.
        after: Box<Self>,
    },
    /// So many of our own requests to this host wait that this one would not be sent in time.
    #[error("too many requests to this host are waiting")]
    Busy,
    /// At a mirror, which the origin did not make up for.
    #[error("mirror {host}: {error}")]
    Mirror {
        /// Its host.
        host: String,
        /// What happened there.
        error: Box<Self>,
    },
    /// The node's own files do not let us ask.
    #[error("{0}")]
    Setup(SetupFault),
    /// No host may be asked for this: `hosts.toml` gives none the capability.
    #[error("hosts.toml allows no host to be asked for this")]
    NoHost,
    /// The bytes that may be fetched in an hour are used up.
    #[error("the bytes that may be fetched in an hour are used up")]
    OverAllowance,
    /// Our own disk.
    #[error("cannot be kept: {0}")]
    Disk(io::ErrorKind),
}

/// Why a list ends before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The `Link` header cannot be read.
    #[error("malformed Link")]
    Malformed,
    /// The registry does not have it, though it has named it.
    #[error("not found (404)")]
    Missing,
    /// It leads to another host.
    #[error("on another host")]
    OtherHost,
    /// It leads back.
    #[error("seen before")]
    Again,
    /// More pages than are read.
    #[error("too many")]
    TooMany,
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
                | Self::LeftAlone { .. }
                | Self::Busy
                | Self::Setup(_)
                | Self::NoHost
        )
    }

    /// Whether it speaks against the host: a registry that answers, whatever it says, is there.
    pub(crate) const fn is_failure_of_host(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Timeout | Self::Server(_))
    }

    /// The cause as evidence names it.
    fn cause(&self) -> Cause {
        match self {
            Self::LeftAlone { after: error } | Self::Mirror { error, .. } => error.cause(),
            Self::Connection(_) => Cause::Unreachable,
            Self::Timeout | Self::Busy => Cause::Timeout,
            Self::Unauthorized | Self::Forbidden | Self::Token(TokenError::Status(401 | 403)) => {
                Cause::Denied
            }
            Self::NotFound => Cause::BlobMissing,
            Self::RateLimited { .. } => Cause::RateLimited,
            Self::Server(_)
            | Self::Status(_)
            | Self::Url
            | Self::Token(TokenError::Status(500..)) => Cause::ServerError,
            Self::Token(_) | Self::WrongType | Self::Encoded | Self::WrongRange | Self::Page(_) => {
                Cause::WrongAnswer
            }
            Self::Redirect(_) => Cause::Redirect,
            Self::TooLarge { .. } => Cause::TooLarge,
            Self::WrongDigest { .. } | Self::WrongLength { .. } => Cause::WrongDigest,
            Self::Setup(_) | Self::NoHost | Self::OverAllowance | Self::Disk(_) => Cause::Setup,
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
