//! The payload of a cosign classic signature ("simple signing"): the statement that a key signs.
//!
//! It says which manifest is meant, and nothing here decides whether to believe it. `critical` is read
//! to the letter, since it holds what a reader has to understand; `optional` is ignored.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::json::{self, JsonRefusal};
use crate::digest::{Digest, DigestError};

/// Most bytes of a payload; real ones have some 250, `optional` may hold a signer's notes.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// The one type of this format; `OpenPGP` simple signing says `atomic container signature` instead.
const TYPE: &str = "cosign container image signature";

/// Why a payload is no statement about an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadRefusal {
    /// Not JSON of the due shape.
    #[error("payload: {0}")]
    Json(#[from] JsonRefusal),
    /// A statement of another kind, such as an attestation or another tool's signature.
    #[error("payload is of another type than a cosign signature")]
    Type,
    /// The signed digest is not one that we support.
    #[error("payload's {0}")]
    Digest(#[from] DigestError),
}

/// What the signer stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The manifest or index that the signature is about.
    pub subject: Digest,
}

impl Payload {
    /// Reads the exact bytes that were signed.
    pub fn parse(bytes: &[u8]) -> Result<Self, PayloadRefusal> {
        let document: Document = json::parse(bytes, MAX_PAYLOAD)?;
        if document.critical.kind != TYPE {
            return Err(PayloadRefusal::Type);
        }
        Ok(Self {
            subject: document.critical.image.digest.parse()?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    critical: Critical,
    #[serde(default, rename = "optional")]
    _optional: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "identity")]
    _identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

/// The name under which it was signed. cosign does not check it and neither do we: an image may be
/// copied. A policy that binds the repository comes with its own field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(rename = "docker-reference")]
    _reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn payload(digest: &str, kind: &str, optional: &str) -> String {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"r/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":{optional}}}"#
        )
    }

    #[test]
    fn a_payload_names_its_subject_whatever_is_optional() {
        for optional in ["null", "{}", r#"{"creator":"x","timestamp":1}"#] {
            let payload = Payload::parse(payload(DIGEST, TYPE, optional).as_bytes()).unwrap();
            assert_eq!(payload.subject, Digest::of(b""));
        }
        let without = payload(DIGEST, TYPE, "null").replace(r#","optional":null"#, "");
        assert!(Payload::parse(without.as_bytes()).is_ok());
    }

    #[test]
    fn a_statement_of_another_kind_is_refused() {
        for kind in [
            "atomic container signature",
            "",
            "Cosign container image signature",
        ] {
            assert_eq!(
                Payload::parse(payload(DIGEST, kind, "null").as_bytes()),
                Err(PayloadRefusal::Type)
            );
        }
    }

    #[test]
    fn a_digest_of_another_form_is_refused() {
        for digest in ["", "sha512:00", "sha256:00", &DIGEST.to_uppercase()] {
            assert!(matches!(
                Payload::parse(payload(digest, TYPE, "null").as_bytes()),
                Err(PayloadRefusal::Digest(_))
            ));
        }
    }

    #[test]
    fn doubled_missing_and_unknown_keys_are_refused() {
        let good = payload(DIGEST, TYPE, "null");
        let doubled = good.replacen(
            r#""docker-manifest-digest":"#,
            r#""docker-manifest-digest":"x","docker-manifest-digest":"#,
            1,
        );
        assert!(matches!(
            Payload::parse(doubled.as_bytes()),
            Err(PayloadRefusal::Json(JsonRefusal::DuplicateKey { .. }))
        ));
        for (from, to) in [
            (r#""identity":{"docker-reference":"r/a"},"#, ""),
            (r#""type""#, r#""Type""#),
            (r#""image""#, r#""more":1,"image""#),
            (r#""optional""#, r#""other""#),
        ] {
            let changed = good.replacen(from, to, 1);
            assert_ne!(changed, good);
            assert!(matches!(
                Payload::parse(changed.as_bytes()),
                Err(PayloadRefusal::Json(JsonRefusal::Shape(_)))
            ));
        }
        let long = payload(DIGEST, TYPE, &format!("\"{}\"", "x".repeat(MAX_PAYLOAD)));
        assert!(matches!(
            Payload::parse(long.as_bytes()),
            Err(PayloadRefusal::Json(JsonRefusal::TooLong { .. }))
        ));
    }
}
