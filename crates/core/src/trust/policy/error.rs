//! Why a policy file is refused: where, and what was expected.
//!
//! People read this at three in the morning, so it names the place in the file and never quotes the
//! file raw.

use std::fmt;

use super::{GlobError, KeyError, MAX_FILE, MAX_POLICIES};
use crate::yaml::{At, Malformed, quote};

/// A policy file that is refused; shown as `FILE:LINE:COLUMN: problem`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {problem}")]
pub struct PolicyError {
    /// The file's name as it was handed in, in the reversible form.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Larger than any policy file.
    #[error("file is larger than {MAX_FILE} bytes")]
    TooLarge,
    /// Not YAML, or not of the due types; in the reversible form, bounded.
    #[error("{0}")]
    Yaml(String),
    /// An empty file decides nothing: more likely it was cut off.
    #[error("file holds no policy; expected at least one ClusterImagePolicy")]
    NoPolicy,
    /// A field that policy-controller knows and we cannot evaluate yet.
    #[error("field {field:?} is not supported yet: {what}")]
    NotSupported {
        /// The field.
        field: String,
        /// What it would need.
        what: &'static str,
    },
    /// A field that nobody knows.
    #[error("unknown field {field:?}; expected {}", Listed(.expected))]
    UnknownField {
        /// The field, in the reversible form.
        field: String,
        /// What may stand there.
        expected: Vec<&'static str>,
    },
    /// A field that has to be there.
    #[error("missing field {0:?}")]
    MissingField(&'static str),
    /// Another API version.
    #[error(
        "apiVersion is {0:?}; expected policy.sigstore.dev/v1alpha1 or policy.sigstore.dev/v1beta1"
    )]
    ApiVersion(String),
    /// Another kind of document.
    #[error("kind is {0:?}; expected ClusterImagePolicy, others are not supported yet")]
    Kind(String),
    /// A name that findings could not carry.
    #[error("name is not 1 to 253 of A-Z, a-z, 0-9, '.', '_' and '-'")]
    Name,
    /// Findings name policies and authorities, so a name must mean one.
    #[error("the name {0:?} stands twice")]
    DuplicateName(String),
    /// More policies than a set may hold.
    #[error("more than {MAX_POLICIES} policies")]
    TooManyPolicies,
    /// A policy that would never match.
    #[error("images is empty; expected at least one glob")]
    NoImages,
    /// More entries than a list may hold.
    #[error("more than {0} entries")]
    TooManyEntries(usize),
    /// Not an image pattern.
    #[error("{0}")]
    Glob(#[from] GlobError),
    /// A policy that nobody could satisfy.
    #[error("authorities is empty; expected at least one with key or static")]
    NoAuthorities,
    /// None or two of the alternatives.
    #[error("authority needs exactly one of key and static")]
    OneRule,
    /// A key authority without its key.
    #[error("key needs data")]
    NoKeyData,
    /// Not a key that we can use.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// Another hash than SHA-256.
    #[error("hashAlgorithm is {0:?}; expected sha256, others are not supported yet")]
    HashAlgorithm(String),
    /// Neither of the two.
    #[error("action is {0:?}; expected pass or fail")]
    Action(String),
    /// A message where nothing fails.
    #[error("message belongs to the action fail")]
    PassMessage,
    /// Neither of the two.
    #[error("mode is {0:?}; expected enforce or warn")]
    Mode(String),
}

impl Problem {
    /// Names the problem of a document that is not of the due shape.
    fn of_yaml(error: &serde_saphyr::Error) -> Self {
        match Malformed::of(error) {
            Malformed::UnknownField { field, expected } => match unsupported(&field) {
                Some(what) => Self::NotSupported { field, what },
                None => Self::UnknownField { field, expected },
            },
            Malformed::MissingField(field) => Self::MissingField(field),
            Malformed::Other(message) => Self::Yaml(message),
        }
    }
}

impl At {
    pub(super) fn problem(self, file: &str, problem: Problem) -> PolicyError {
        PolicyError {
            file: quote(file),
            line: self.line,
            column: self.column,
            problem,
        }
    }
}

/// The error of a file that does not parse.
pub(super) fn of_yaml(file: &str, error: &serde_saphyr::Error) -> PolicyError {
    let error = error.without_snippet();
    At::of_error(error).problem(file, Problem::of_yaml(error))
}

/// Fields of policy-controller that come later, with what they are about.
fn unsupported(field: &str) -> Option<&'static str> {
    let what = match field {
        "keyless" => "certificate identities",
        "attestations" => "signed statements about an image",
        "source" => "signatures kept in another repository",
        "policy" => "rules in CUE or Rego",
        "match" => "selecting by Kubernetes resource",
        "secretRef" => "keys in Kubernetes Secrets; put the public key into data",
        "kms" => "keys in a key service; export the public key and put it into data",
        "ctlog" => "transparency logs",
        "rfc3161timestamp" => "timestamp authorities",
        "signatureFormat" => "a required signature layout",
        "trustRootRef" => "trust roots",
        _ => return None,
    };
    Some(what)
}

struct Listed<'a>(&'a [&'static str]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}
