//! The six verdicts about an image's signature, which must never be mixed up.
//!
//! A rate limit that reads as `unsigned` pages people for nothing; an error that reads as `verified` is
//! a breach. So each verdict has its own variant with its own evidence, and only the verifier makes
//! them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::classic::{LayerRefusal, MAX_SIGNATURES, ObjectRefusal};
use super::evidence::Cause;
use super::json::JsonRefusal;
use super::payload::PayloadRefusal;
use crate::digest::Digest;

/// The verdict's name alone, for tables, labels and documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictName {
    /// Every matching policy is satisfied by a signature.
    Verified,
    /// The policy lets it pass without a signature.
    Accepted,
    /// Looked everywhere, nothing there.
    Unsigned,
    /// Signatures exist, none satisfies.
    Untrusted,
    /// Could not look, or could not decide.
    Error,
    /// No policy names the image.
    Uncovered,
}

impl VerdictName {
    /// The name in documents and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Accepted => "accepted",
            Self::Unsigned => "unsigned",
            Self::Untrusted => "untrusted",
            Self::Error => "error",
            Self::Uncovered => "uncovered",
        }
    }
}

/// The verdict about one image, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By whom: `policy/authority`, one for each matching policy.
    Verified {
        /// The authorities that vouched, as `policy/authority`.
        authorities: Vec<String>,
    },
    /// Which rule let it pass, as `policy/authority`.
    Accepted {
        /// The rule.
        rule: String,
    },
    /// Nothing was found for these policies.
    Unsigned {
        /// The policies that ask for a signature, sorted.
        policies: Vec<String>,
        /// Every such policy is in mode `warn`.
        warn_only: bool,
    },
    /// What was found does not count, or a policy lets nothing pass.
    Untrusted {
        /// The policies that are not satisfied, sorted.
        policies: Vec<String>,
        /// Each signature with its refusal, bounded.
        refusals: Vec<Refused>,
        /// Every such policy is in mode `warn`.
        warn_only: bool,
    },
    /// Why it could not be decided.
    Error {
        /// The reason's name.
        reason: ErrorReason,
        /// The reason in full, bounded and in the reversible form.
        message: String,
    },
    /// No policy names it.
    Uncovered {
        /// Whether any policy is loaded at all: then it is worth a warning.
        any_policy: bool,
    },
}

impl Verdict {
    /// The verdict's name.
    pub const fn name(&self) -> VerdictName {
        match self {
            Self::Verified { .. } => VerdictName::Verified,
            Self::Accepted { .. } => VerdictName::Accepted,
            Self::Unsigned { .. } => VerdictName::Unsigned,
            Self::Untrusted { .. } => VerdictName::Untrusted,
            Self::Error { .. } => VerdictName::Error,
            Self::Uncovered { .. } => VerdictName::Uncovered,
        }
    }
}

/// Why there is no verdict about the image itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorReason {
    /// A place where signatures may be could not be looked at.
    Missed(Cause),
    /// Nobody has looked for signatures of one of its digests.
    NotLooked,
    /// The image has no name that could select a policy.
    NoName,
    /// The bytes of its index are not at hand, so signatures of the index cannot count.
    NoIndex,
    /// No policy could be loaded.
    Policy,
}

impl ErrorReason {
    /// The name in documents and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missed(cause) => cause.as_str(),
            Self::NotLooked => "not-looked",
            Self::NoName => "no-name",
            Self::NoIndex => "no-index",
            Self::Policy => "policy",
        }
    }
}

/// One refusal and what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The digest whose signature object it is; `None` for a refusal of the image as a whole.
    pub subject: Option<Digest>,
    /// Which signature of that object, from 0.
    pub signature: Option<usize>,
    /// Why.
    pub refusal: Refusal,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.subject, self.signature) {
            (Some(subject), Some(at)) => write!(f, "signature {at} of {subject}: ")?,
            (Some(subject), None) => write!(f, "signatures of {subject}: ")?,
            (None, _) => {}
        }
        write!(f, "{}", self.refusal)
    }
}

/// Why a signature does not count, or an image does not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The object that should list signatures is none.
    #[error("{0}")]
    Object(#[from] ObjectRefusal),
    /// A layer is no signature.
    #[error("{0}")]
    Layer(#[from] LayerRefusal),
    /// The layer's blob did not come along.
    #[error("payload {0} is not there")]
    NoPayload(Digest),
    /// The blob is not the one that the layer names.
    #[error("payload hashes to {actual}, the layer names {named}")]
    OtherPayload {
        /// The name.
        named: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// The payload is no statement about an image.
    #[error("{0}")]
    Payload(#[from] PayloadRefusal),
    /// A genuine signature of something else: a replay.
    #[error("signature is for {signed}, which is not the image that runs")]
    OtherSubject {
        /// What was signed.
        signed: Digest,
    },
    /// The annotation does not decode.
    #[error("signature is not base64")]
    Encoding,
    /// Nobody whom this policy names made it.
    #[error("no key of policy {policy} made the signature")]
    Signer {
        /// The policy.
        policy: String,
    },
    /// The policy lets nothing pass.
    #[error("policy {policy} lets no image pass{}", .message.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Static {
        /// The policy.
        policy: String,
        /// What its author says, in the reversible form.
        message: Option<String>,
    },
    /// The index cannot stand for the running manifest, so signatures of the index do not count.
    #[error("index is not readable: {0}")]
    Index(JsonRefusal),
    /// The bytes at hand are another index.
    #[error("index bytes hash to {actual}")]
    OtherIndex {
        /// What they hash to.
        actual: Digest,
    },
    /// The signed index is genuine, and the running manifest is none of its images.
    #[error("index does not list the manifest that runs")]
    NotListed,
    /// More signatures than are looked at.
    #[error("{rest} more signatures beyond the first {MAX_SIGNATURES} were not looked at")]
    Rest {
        /// How many.
        rest: usize,
    },
    /// Another place may have better ones, and could not be looked at.
    #[error("{} could not be looked at: {message}", .cause.as_str())]
    Missed {
        /// Why.
        cause: Cause,
        /// In full.
        message: String,
    },
    /// More refusals than a verdict holds.
    #[error("{0} more refusals")]
    More(usize),
}
