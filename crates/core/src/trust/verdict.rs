//! The six verdicts about an image's signature, which must never be mixed up.
//!
//! A rate limit that reads as `unsigned` pages people for nothing; an error that reads as `verified` is
//! a breach. So each verdict has its own variant with its own evidence, and only the verifier makes
//! them.

use serde::{Deserialize, Serialize};

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
        /// The policies that ask for a signature.
        policies: Vec<String>,
        /// Every such policy is in mode `warn`.
        warn_only: bool,
    },
    /// What was found does not count.
    Untrusted {
        /// The policies that are not satisfied.
        policies: Vec<String>,
        /// Each signature with its refusal, bounded.
        refusals: Vec<String>,
        /// Every such policy is in mode `warn`.
        warn_only: bool,
    },
    /// Why it could not be decided.
    Error {
        /// The reason's name: `registry-unreachable`, `rate-limited`, `policy`, …
        reason: String,
        /// The reason in full.
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
