//! Policy files as YAML: strict, bounded, and with the place of everything that is refused. It knows the form
//! alone; what a document means is decided by who reads it.

use serde::Deserialize;
use serde_saphyr::{Error, Location, Spanned};

use crate::display;

/// Most bytes of one policy file; a policy has about one kilobyte for each authority or rule.
pub const MAX_FILE: usize = 1 << 20;

/// Longest part of a file or of a parser's message that is quoted.
const MAX_QUOTE: usize = 200;

/// Every document of a file.
///
/// Strict and bounded: no YAML 1.1 booleans, no numbers as strings, no merge of mappings, and budgets
/// that an alias bomb runs into within milliseconds.
pub(crate) fn documents<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<Vec<T>, Error> {
    let options = serde_saphyr::options! {
        strict_booleans: true,
        no_schema: true,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: 20_000,
            max_aliases: 100,
            max_depth: 32,
            max_documents: 256,
            max_reader_input_bytes: Some(MAX_FILE),
        },
    };
    serde_saphyr::from_slice_multiple_with_options(bytes, options)
}

/// What says how to read the rest of a document.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Header {
    pub(crate) api_version: Spanned<String>,
    pub(crate) kind: Spanned<String>,
}

/// Whether a document of the file says that it is of this kind. No, for a file that cannot be read: whoever
/// reads it next says why.
pub(crate) fn holds_kind(bytes: &[u8], kind: &str) -> bool {
    let headers = documents::<Header>(bytes).unwrap_or_default();
    headers.iter().any(|header| header.kind.value == kind)
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) line: u64,
    pub(crate) column: u64,
}

impl At {
    /// The start of a file, for problems of the whole.
    pub(crate) const START: Self = Self { line: 1, column: 1 };

    pub(crate) fn of<T>(spanned: &Spanned<T>) -> Self {
        Self::of_location(spanned.referenced)
    }

    pub(crate) fn of_error(error: &Error) -> Self {
        error.location().map_or(Self::START, Self::of_location)
    }

    /// Unknown locations are 0, which no editor knows.
    fn of_location(location: Location) -> Self {
        Self {
            line: location.line().max(1),
            column: location.column().max(1),
        }
    }
}

/// How a document is not of the due form.
#[derive(Debug)]
pub(crate) enum Malformed {
    /// A field that nobody asked for.
    UnknownField {
        /// In the reversible form.
        field: String,
        /// What may stand there.
        expected: Vec<&'static str>,
    },
    /// A field that has to be there.
    MissingField(&'static str),
    /// Anything else, as the parser says it; in the reversible form, bounded.
    Other(String),
}

impl Malformed {
    pub(crate) fn of(error: &Error) -> Self {
        use serde_saphyr::MessageFormatter as _;
        if let Error::SerdeUnknownField {
            field, expected, ..
        } = error
        {
            return Self::UnknownField {
                field: quote(field),
                expected: expected.clone(),
            };
        }
        if let Error::SerdeMissingField { field, .. } = error {
            return Self::MissingField(field);
        }
        Self::Other(quote(
            &serde_saphyr::UserMessageFormatter.format_message(error),
        ))
    }
}

/// A text of the file as errors show it.
pub(crate) fn quote(text: &str) -> String {
    let shown = display::escape(text.as_bytes());
    shown.chars().take(MAX_QUOTE).collect()
}
