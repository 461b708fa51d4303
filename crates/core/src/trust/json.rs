//! One strict reading of JSON that a signer or a registry wrote.
//!
//! A key that stands twice is refused at every depth: two readers would take different values from it,
//! and what one of them verified is not what the other runs. It must not be used without a limit.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Longest part of a parser's message that is kept: it may quote the document.
const MAX_MESSAGE: usize = 200;

/// Why a document is refused before its meaning is looked at.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonRefusal {
    /// More bytes than a document of its kind can need.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// Not JSON.
    #[error("not JSON (line {line}, column {column})")]
    Syntax {
        /// Line of the error, from 1.
        line: usize,
        /// Column of the error.
        column: usize,
    },
    /// A key stands twice in one object.
    #[error("a key stands twice in one object (line {line}, column {column})")]
    DuplicateKey {
        /// Line of the second one, from 1.
        line: usize,
        /// Column of the second one.
        column: usize,
    },
    /// JSON, but not of the shape that is due; the message is in the reversible form, and bounded.
    #[error("not of the due shape: {0}")]
    Shape(String),
}

/// Reads one document of at most `limit` bytes.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, JsonRefusal> {
    if bytes.len() > limit {
        return Err(JsonRefusal::TooLong { limit });
    }
    serde_json::from_slice::<Unique>(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        if error.is_data() {
            JsonRefusal::DuplicateKey { line, column }
        } else {
            JsonRefusal::Syntax { line, column }
        }
    })?;
    serde_json::from_slice(bytes).map_err(|error| JsonRefusal::Shape(bounded(&error.to_string())))
}

fn bounded(message: &str) -> String {
    let shown = crate::display::escape(message.as_bytes());
    shown.chars().take(MAX_MESSAGE).collect()
}

/// Any JSON value whose objects have no key twice; nothing of it is kept.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("duplicate key"));
            }
            map.next_value::<Unique>()?;
        }
        Ok(Unique)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Unique, A::Error> {
        while sequence.next_element::<Unique>()?.is_some() {}
        Ok(Unique)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_str<E>(self, _: &str) -> Result<Unique, E> {
        Ok(Unique)
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_key_twice_is_refused_at_every_depth_and_however_it_is_written() {
        for json in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"[{"x":{"b":[],"c":0,"b":{}}}]"#,
        ] {
            let refusal = parse::<Value>(json.as_bytes(), 1000).unwrap_err();
            assert!(
                matches!(refusal, JsonRefusal::DuplicateKey { line: 1, .. }),
                "{json}"
            );
        }
        let fine = br#"{"a":{"a":[null,true,-1,1.5,"s",{"a":1}]},"b":1}"#;
        assert!(parse::<Value>(fine, 1000).is_ok());
    }

    #[test]
    fn what_is_too_long_too_deep_or_no_json_is_refused() {
        assert_eq!(
            parse::<Value>(b"[1]", 2),
            Err(JsonRefusal::TooLong { limit: 2 })
        );
        let deep = [vec![b'['; 5000], vec![b']'; 5000]].concat();
        for json in [b"".as_slice(), b"{", b"{} {}", b"\xff", &deep] {
            assert!(matches!(
                parse::<Value>(json, 20_000),
                Err(JsonRefusal::Syntax { .. })
            ));
        }
    }

    #[test]
    fn a_message_that_quotes_the_document_is_escaped_and_bounded() {
        let long = format!("{{\"a\":\"\\u001b[2K{}\"}}", "x".repeat(500));

        let refusal = parse::<std::collections::BTreeMap<String, u8>>(long.as_bytes(), 1000);

        let Err(JsonRefusal::Shape(message)) = refusal else {
            panic!("{refusal:?}");
        };
        assert!(message.contains("\\x1b[2K") || message.contains("\\u{"));
        assert_eq!(message.chars().count(), MAX_MESSAGE);
    }
}
