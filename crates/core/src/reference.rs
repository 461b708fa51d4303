//! Image references: parsed once at the door, trusted afterwards.
//!
//! A reference is a name that somebody chose: it selects policies and repositories to look into. It
//! must never stand for what runs; only a digest does.
//!
//! Names are qualified as policy-controller's own library does it, because policies are written against
//! that form: `busybox` is `index.docker.io/library/busybox:latest`, and a digest displaces the tag.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry of a name that names none.
const DOCKER_HUB: &str = "index.docker.io";
/// The namespace of Docker Hub's official images.
const DOCKER_HUB_OFFICIAL: &str = "library/";
/// The tag of a name that has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";

/// Longest host name (RFC 1035) with a port.
const MAX_REGISTRY: usize = 253 + 6;
/// Longest repository path; the distribution specification's limit for host and path together.
const MAX_PATH: usize = 255;
/// Longest tag of the distribution specification.
const MAX_TAG: usize = 128;

/// Why a text is no image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// The registry's host or port.
    #[error("registry is not a host name with an optional port")]
    Registry,
    /// The path below the registry.
    #[error("repository is not 1 to 255 of a-z, 0-9, '_', '-', '.', '/' without empty parts")]
    Repository,
    /// The text after the colon.
    #[error("tag is not 1 to 128 of A-Z, a-z, 0-9, '_', '-', '.'")]
    Tag,
    /// The text after the at sign.
    #[error("digest is not supported: {0}")]
    Digest(#[from] DigestError),
}

/// Where an image lives: a registry and a path in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    registry: String,
    path: String,
}

impl Repository {
    /// Host and optional port.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path in the registry, without a leading slash.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// As people and containerd write it: `docker.io/library/nginx`.
    pub fn familiar(&self) -> String {
        let registry = if self.registry == DOCKER_HUB {
            "docker.io"
        } else {
            &self.registry
        };
        format!("{registry}/{}", self.path)
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (registry, path) = match text.split_once('/') {
            Some((first, rest)) if names_a_registry(first) => (first, rest),
            _ => (DOCKER_HUB, text),
        };
        let registry = if registry == "docker.io" {
            DOCKER_HUB
        } else {
            registry
        };
        if !is_registry(registry) {
            return Err(ReferenceError::Registry);
        }
        if !is_path(path) {
            return Err(ReferenceError::Repository);
        }
        let is_official = registry == DOCKER_HUB && !path.contains('/');
        let namespace = if is_official { DOCKER_HUB_OFFICIAL } else { "" };
        Ok(Self {
            registry: registry.to_owned(),
            path: format!("{namespace}{path}"),
        })
    }
}

/// An image reference; its text is the fully qualified form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: Repository,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Where the image lives.
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The tag, when the text had one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when the text had one.
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse()?)),
            None => (text, None),
        };
        let (repository, tag) = match name.rsplit_once(':') {
            // A colon before the last slash belongs to the registry's port.
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Tag);
        }
        Ok(Self {
            repository: repository.parse()?,
            tag: tag.map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "{}@{digest}", self.repository),
            (None, Some(tag)) => write!(f, "{}:{tag}", self.repository),
            (None, None) => write!(f, "{}:{DEFAULT_TAG}", self.repository),
        }
    }
}

/// Whether the first part of a name is a host rather than a Docker Hub user.
fn names_a_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// A host becomes part of a URL: nothing in it may start a user, a path or a query there.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_host = match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_name),
    };
    let is_port = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    text.len() <= MAX_REGISTRY && is_host && is_port
}

/// Empty, `.` and `..` parts are refused: the path becomes part of a URL.
fn is_path(text: &str) -> bool {
    let is_allowed =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'/');
    text.len() <= MAX_PATH
        && text.bytes().all(is_allowed)
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn is_tag(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (1..=MAX_TAG).contains(&text.len()) && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qualified(text: &str) -> String {
        text.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn names_are_qualified_as_policies_expect_them() {
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for (text, due) in [
            ("busybox", "index.docker.io/library/busybox:latest"),
            ("busybox:1", "index.docker.io/library/busybox:1"),
            (
                "docker.io/busybox",
                "index.docker.io/library/busybox:latest",
            ),
            ("docker.io/library/a:1", "index.docker.io/library/a:1"),
            ("user/app", "index.docker.io/user/app:latest"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("r.example:5000/a/b:v1", "r.example:5000/a/b:v1"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
        ] {
            assert_eq!(qualified(text), due, "{text}");
        }
        assert_eq!(
            qualified(&format!("r.example/a:1@sha256:{hex}")),
            format!("r.example/a@sha256:{hex}")
        );
    }

    #[test]
    fn a_text_that_would_change_the_url_is_no_reference() {
        for (text, due) in [
            ("", ReferenceError::Repository),
            ("r.example/", ReferenceError::Repository),
            ("r.example/a//b", ReferenceError::Repository),
            ("r.example/../b", ReferenceError::Repository),
            ("r.example/A", ReferenceError::Repository),
            ("r.example/a b", ReferenceError::Repository),
            ("r.example/a?x", ReferenceError::Repository),
            ("r.example/a\n", ReferenceError::Repository),
            ("user:pw.x/a", ReferenceError::Registry),
            ("r.example:99999/a", ReferenceError::Registry),
            ("r.example#x/a", ReferenceError::Registry),
            ("[::g]:1/a", ReferenceError::Registry),
            ("r.example/a:", ReferenceError::Tag),
            ("r.example/a:b%2f", ReferenceError::Tag),
            ("r.example/a@md5:00", DigestError::Algorithm.into()),
            ("r.example/a@sha256:00", DigestError::Encoding.into()),
        ] {
            assert_eq!(text.parse::<Reference>(), Err(due), "{text}");
        }
    }

    #[test]
    fn the_parts_of_a_reference_are_as_written() {
        let reference: Reference = "r.example/a/b:v1".parse().unwrap();
        assert_eq!(reference.repository().registry(), "r.example");
        assert_eq!(reference.repository().path(), "a/b");
        assert_eq!(reference.tag(), Some("v1"));
        assert_eq!(reference.digest(), None);
    }
}
