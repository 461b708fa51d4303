//! Public keys of policies: ECDSA on P-256 with SHA-256, and nothing else yet.
//!
//! A key is checked to be a point of the curve when the policy is loaded, so that a bad one is the
//! policy author's error today and not every image's tomorrow.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use rustls_pki_types::pem::{self, SectionKind};

/// Most keys in one `key.data`: each is tried on each signature.
const MAX_KEYS: usize = 16;

/// The DER of every P-256 public key in uncompressed form up to the point itself: `id-ecPublicKey`,
/// `prime256v1`, 65 bytes follow.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why a key cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or cut short.
    #[error("key is not PEM; expected -----BEGIN PUBLIC KEY-----")]
    Pem,
    /// PEM of something else: a certificate, or even a private key.
    #[error("PEM block is not a PUBLIC KEY")]
    Section,
    /// Another algorithm or curve, or a compressed point.
    #[error("key is not ECDSA on P-256; other keys are not supported yet")]
    Algorithm,
    /// Not a point of the curve.
    #[error("key is not a point of P-256")]
    Point,
    /// Too many of them.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

/// One public key.
#[derive(Clone, Debug)]
pub struct Key(ParsedPublicKey);

impl Key {
    /// Reads every key of a PEM text; there is at least one.
    pub fn parse_all(pem: &str) -> Result<Vec<Self>, KeyError> {
        let mut keys = Vec::new();
        let mut rest: &[u8] = pem.as_bytes();
        while let Some((kind, der)) = pem::from_buf(&mut rest).map_err(|_pem| KeyError::Pem)? {
            if !matches!(kind, SectionKind::PublicKey) {
                return Err(KeyError::Section);
            }
            if keys.len() == MAX_KEYS {
                return Err(KeyError::TooMany);
            }
            keys.push(Self::from_der(&der)?);
        }
        if keys.is_empty() {
            return Err(KeyError::Pem);
        }
        Ok(keys)
    }

    fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        // Compared to the byte: this is what the one supported key looks like, in DER's only form.
        let point = der.strip_prefix(&P256_PREFIX).ok_or(KeyError::Algorithm)?;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
            .map(Self)
            .map_err(|_rejected| KeyError::Point)
    }

    /// Whether `signature` (ASN.1) over `message` was made with this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.0.verify_sig(message, signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::trust::forge::SigningKey;

    fn pem(label: &str, der: &[u8]) -> String {
        format!(
            "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
            STANDARD.encode(der)
        )
    }

    #[test]
    fn a_key_verifies_what_its_other_half_signed_and_nothing_else() {
        let signer = SigningKey::generate();
        let keys = Key::parse_all(&signer.public_pem()).unwrap();
        let signature = signer.sign(b"statement");

        assert_eq!(keys.len(), 1);
        assert!(keys[0].verifies(b"statement", &signature));
        assert!(!keys[0].verifies(b"Statement", &signature));
        assert!(!keys[0].verifies(b"statement", &[]));
        let other = Key::parse_all(&SigningKey::generate().public_pem()).unwrap();
        assert!(!other[0].verifies(b"statement", &signature));
    }

    #[test]
    fn several_keys_may_stand_in_one_text() {
        let (one, two) = (SigningKey::generate(), SigningKey::generate());
        let text = format!("{}\n{}", one.public_pem(), two.public_pem());
        assert_eq!(Key::parse_all(&text).unwrap().len(), 2);
        let many = one.public_pem().repeat(MAX_KEYS + 1);
        assert_eq!(Key::parse_all(&many).unwrap_err(), KeyError::TooMany);
    }

    #[test]
    fn what_is_no_supported_key_is_refused_by_name() {
        let good = SigningKey::generate();
        let mut off_curve = good.public_der();
        *off_curve.last_mut().unwrap() ^= 1;
        let p384 = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let p384 = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
            p384.public_key(),
        )
        .unwrap();
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P384_SHA384_ASN1_SIGNING, &SystemRandom::new())
                .unwrap();
        let cut = good.public_pem().replace("-----END", "");
        for (text, due) in [
            (String::new(), KeyError::Pem),
            ("not pem".to_owned(), KeyError::Pem),
            (cut, KeyError::Pem),
            (pem("CERTIFICATE", b"x"), KeyError::Section),
            (pem("PRIVATE KEY", pkcs8.as_ref()), KeyError::Section),
            (pem("PUBLIC KEY", p384.as_ref()), KeyError::Algorithm),
            (pem("PUBLIC KEY", b""), KeyError::Algorithm),
            (pem("PUBLIC KEY", &off_curve), KeyError::Point),
            (pem("PUBLIC KEY", &P256_PREFIX), KeyError::Point),
            (
                pem("PUBLIC KEY", &[good.public_der(), vec![0]].concat()),
                KeyError::Point,
            ),
        ] {
            assert_eq!(Key::parse_all(&text).unwrap_err(), due, "{text}");
        }
    }
}
