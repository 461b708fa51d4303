//! What was found, and what could not be looked at, when somebody looked for signatures.
//!
//! Evidence is bytes, not opinions: it may come from a registry, a folder or the collector, and is
//! verified again whenever a policy changes. "Nothing there" and "could not look" are told apart here,
//! once, so that nobody downstream can mistake one for the other.

use std::collections::BTreeMap;

use crate::digest::Digest;

/// The signatures of one subject as one place keeps them: cosign's classic layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureObject {
    /// The manifest that lists them.
    pub manifest: Vec<u8>,
    /// The payloads, under the digests that the manifest gives them.
    pub payloads: BTreeMap<Digest, Vec<u8>>,
}

/// Why a place could not be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// No connection, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// The registry wants other credentials than we have (401, 403).
    Denied,
    /// The registry asks for a pause (429).
    RateLimited,
    /// The registry failed (5xx), or answered with a status that means nothing here.
    ServerError,
    /// A manifest is there, a blob that it names is not.
    BlobMissing,
    /// What came does not hash to what was asked for.
    WrongDigest,
    /// What came is no manifest or blob: a portal's page, a compressed answer, a broken token.
    WrongAnswer,
    /// More bytes than such an object may have.
    TooLarge,
    /// A redirect that may not be followed.
    Redirect,
    /// The layout folder is missing, broken or not readable.
    Layout,
    /// No place to look at is known or allowed.
    NoSource,
    /// What the node's own files say about the registry cannot be used: `hosts.toml`, credentials.
    Setup,
}

impl Cause {
    /// The name in documents and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "registry-unreachable",
            Self::Timeout => "registry-timeout",
            Self::Denied => "registry-denied",
            Self::RateLimited => "rate-limited",
            Self::ServerError => "registry-error",
            Self::BlobMissing => "blob-missing",
            Self::WrongDigest => "wrong-digest",
            Self::WrongAnswer => "wrong-answer",
            Self::TooLarge => "too-large",
            Self::Redirect => "redirect",
            Self::Layout => "layout",
            Self::NoSource => "no-source",
            Self::Setup => "registry-setup",
        }
    }
}

/// A place that could not be looked at, or not to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// Why.
    pub cause: Cause,
    /// Which place, and the cause in full; already in the reversible form.
    pub message: String,
}

/// The outcome of looking for the signatures of one subject, in one place or in several.
///
/// There is no default: an empty outcome means "unsigned", so somebody must say that he has looked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Looked {
    objects: Vec<SignatureObject>,
    missed: Vec<Missed>,
}

impl Looked {
    /// Looked, and nothing is there.
    pub const fn nothing() -> Self {
        Self {
            objects: Vec::new(),
            missed: Vec::new(),
        }
    }

    /// Looked, and this is there.
    pub fn found(object: SignatureObject) -> Self {
        Self {
            objects: vec![object],
            missed: Vec::new(),
        }
    }

    /// Could not look.
    pub fn could_not_look(missed: Missed) -> Self {
        Self {
            objects: Vec::new(),
            missed: vec![missed],
        }
    }

    /// Both places together: what either found, and what either missed.
    pub fn and(mut self, other: Self) -> Self {
        for object in other.objects {
            if !self.objects.contains(&object) {
                self.objects.push(object);
            }
        }
        for missed in other.missed {
            if !self.missed.contains(&missed) {
                self.missed.push(missed);
            }
        }
        self
    }

    /// What was found.
    pub fn objects(&self) -> &[SignatureObject] {
        &self.objects
    }

    /// What could not be looked at.
    pub fn missed(&self) -> &[Missed] {
        &self.missed
    }

    /// Whether every place was looked at and nothing is there.
    pub fn is_nothing(&self) -> bool {
        self.objects.is_empty() && self.missed.is_empty()
    }
}

/// What was found for each digest of an image. A digest without an entry was not looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    looked: BTreeMap<Digest, Looked>,
}

impl Evidence {
    /// Nobody has looked yet.
    pub const fn none() -> Self {
        Self {
            looked: BTreeMap::new(),
        }
    }

    /// Adds what a place had about `subject`.
    pub fn add(&mut self, subject: Digest, looked: Looked) {
        let together = match self.looked.remove(&subject) {
            Some(before) => before.and(looked),
            None => looked,
        };
        self.looked.insert(subject, together);
    }

    /// What is known about `subject`; `None` when nobody has looked.
    pub fn about(&self, subject: Digest) -> Option<&Looked> {
        self.looked.get(&subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missed(cause: Cause) -> Missed {
        Missed {
            cause,
            message: String::new(),
        }
    }

    #[test]
    fn what_one_place_missed_stays_missed_whatever_another_had() {
        let looked = Looked::nothing().and(Looked::could_not_look(missed(Cause::Timeout)));
        assert!(!looked.is_nothing());
        let object = SignatureObject {
            manifest: vec![1],
            payloads: BTreeMap::new(),
        };
        let both = looked
            .and(Looked::found(object.clone()))
            .and(Looked::found(object));
        assert_eq!((both.objects().len(), both.missed().len()), (1, 1));
        assert!(Looked::nothing().and(Looked::nothing()).is_nothing());
    }

    #[test]
    fn a_digest_that_nobody_looked_for_is_not_nothing() {
        let mut evidence = Evidence::none();
        evidence.add(Digest::of(b"a"), Looked::nothing());
        assert_eq!(evidence.about(Digest::of(b"a")), Some(&Looked::nothing()));
        assert_eq!(evidence.about(Digest::of(b"b")), None);
    }
}
