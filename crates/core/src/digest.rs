//! OCI digests and the three things that they name. A value that parsed is never checked again.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A supported OCI digest: `sha256:` and 64 lower-case hex digits.
///
/// Holdfast decides integrity with SHA-256 alone; `sha512:` content is refused by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is no digest that we support.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm, or none.
    #[error("digest algorithm is not sha256")]
    Algorithm,
    /// Not exactly 64 lower-case hex digits.
    #[error("digest is not 64 lower-case hex digits")]
    Encoding,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest from the raw output of a SHA-256 that the caller has run.
    pub const fn from_sha256(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// The 32 raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hex digits without the algorithm, as in the content store's file names.
    pub fn encoded(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let encoded = text.strip_prefix("sha256:").ok_or(DigestError::Algorithm)?;
        let lower_case = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if encoded.len() != 64 || !encoded.bytes().all(lower_case) {
            return Err(DigestError::Encoding);
        }
        let mut raw = [0; 32];
        hex::decode_to_slice(encoded, &mut raw).map_err(|_hex| DigestError::Encoding)?;
        Ok(Self(raw))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

digest_newtype!(
    /// Digest of one uncompressed layer tar.
    DiffId
);
digest_newtype!(
    /// Digest of a stack of layers (OCI image specification, "Layer `ChainID`").
    ChainId
);

impl ChainId {
    /// The chain of the lowest layer alone.
    pub const fn bottom(diff_id: DiffId) -> Self {
        Self(diff_id.0)
    }

    /// The chain when `diff_id` is put on top of `self`.
    #[must_use]
    pub fn push(self, diff_id: DiffId) -> Self {
        Self(Digest::of(format!("{self} {diff_id}").as_bytes()))
    }

    /// The chain IDs of a stack, lowest layer first, one for each layer.
    pub fn of_stack(diff_ids: &[DiffId]) -> Vec<Self> {
        let mut chain = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let next = chain
                .last()
                .map_or(Self::bottom(*diff_id), |below: &Self| below.push(*diff_id));
            chain.push(next);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(b"");
        assert_eq!(
            digest.to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn what_is_no_digest_is_refused_by_name() {
        let digits = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digits.parse::<Digest>(), Err(DigestError::Algorithm));
        assert_eq!(
            format!("sha512:{digits}").parse::<Digest>(),
            Err(DigestError::Algorithm)
        );
        assert_eq!(
            format!("sha256:{}", digits.to_uppercase()).parse::<Digest>(),
            Err(DigestError::Encoding)
        );
        assert_eq!(
            format!("sha256:{digits}0").parse::<Digest>(),
            Err(DigestError::Encoding)
        );
    }

    #[test]
    fn a_chain_of_one_layer_is_its_diff_id_and_grows_by_hashing() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        let chain = ChainId::of_stack(&[a, b]);
        assert_eq!(chain[0].0, a.0);
        assert_eq!(chain[1].0, Digest::of(format!("{a} {b}").as_bytes()));
        assert!(ChainId::of_stack(&[]).is_empty());
    }
}
