//! Why a file of drift policies is refused: where, and what was expected. It names the place and never quotes
//! the file raw.

use super::{MAX_POLICIES, PatternError};
use crate::trust::policy::GlobError;
use crate::yaml::{At, MAX_FILE, Malformed, quote};

/// A file that is refused; shown as `FILE:LINE:COLUMN: problem`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {problem}")]
pub struct DriftPolicyError {
    /// The file's name as it was handed in, in the reversible form.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What is wrong there.
    pub problem: Problem,
}

impl DriftPolicyError {
    pub(super) fn new(file: &str, at: At, problem: Problem) -> Self {
        Self {
            file: quote(file),
            line: at.line,
            column: at.column,
            problem,
        }
    }

    /// The error of a file that does not parse.
    pub(super) fn of_yaml(file: &str, error: &serde_saphyr::Error) -> Self {
        let error = error.without_snippet();
        Self::new(file, At::of_error(error), Problem::of(Malformed::of(error)))
    }
}

/// What is wrong with a drift policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Larger than any policy file.
    #[error("file is larger than {MAX_FILE} bytes")]
    TooLarge,
    /// Not YAML, or not of the due types; in the reversible form, bounded.
    #[error("{0}")]
    Yaml(String),
    /// A field that nobody knows.
    #[error("unknown field {field:?}; expected {}", .expected.join(", "))]
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
    #[error("apiVersion is {0:?}; expected holdfast.dev/v1alpha1")]
    ApiVersion(String),
    /// Another kind in the same file.
    #[error(
        "kind is {0:?}; expected DriftPolicy, as another document of this file has it: other kinds need a \
         file of their own"
    )]
    Kind(String),
    /// A name that findings could not carry.
    #[error("name is not 1 to 253 of A-Z, a-z, 0-9, '.', '_' and '-'")]
    Name,
    /// Findings name policies, rules and exceptions, so a name must mean one.
    #[error("the name {0:?} stands twice")]
    DuplicateName(String),
    /// More policies than a set may hold.
    #[error("more than {MAX_POLICIES} policies")]
    TooManyPolicies,
    /// A policy that decides nothing: more likely it was cut off.
    #[error(
        "spec decides nothing; expected at least one of volatile, classes, rules and exceptions"
    )]
    DecidesNothing,
    /// A list that could never match.
    #[error("list is empty; expected at least one entry")]
    Empty,
    /// More entries than a list may hold.
    #[error("more than {0} entries")]
    TooManyEntries(usize),
    /// Not an image pattern.
    #[error("{0}")]
    Glob(#[from] GlobError),
    /// Not a pattern for paths or pod namespaces.
    #[error("{0}")]
    Pattern(#[from] PatternError),
    /// None of the words that may stand there.
    #[error("{found:?} is no {what}; expected {expected}")]
    Word {
        /// What is asked for.
        what: &'static str,
        /// What stands there, in the reversible form.
        found: String,
        /// What may.
        expected: &'static str,
    },
    /// Nobody would know later why.
    #[error("reason is empty; expected a sentence that says why")]
    NoReason,
}

impl Problem {
    fn of(malformed: Malformed) -> Self {
        match malformed {
            Malformed::UnknownField { field, expected } => Self::UnknownField { field, expected },
            Malformed::MissingField(field) => Self::MissingField(field),
            Malformed::Other(message) => Self::Yaml(message),
        }
    }

    /// A text that is not what is asked for.
    pub(super) fn word(what: &'static str, found: &str, expected: &'static str) -> Self {
        Self::Word {
            what,
            found: quote(found),
            expected,
        }
    }
}
