//! Keys and signature objects for tests; compiled into tests alone.

use std::collections::BTreeMap;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::classic::{SIGNATURE_ANNOTATION, SIGNATURE_LAYER};
use super::evidence::SignatureObject;
use crate::digest::Digest;

pub(crate) struct SigningKey(EcdsaKeyPair);

impl SigningKey {
    pub(crate) fn generate() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    pub(crate) fn public_der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = self.0.public_key().as_der().unwrap();
        der.as_ref().to_vec()
    }

    pub(crate) fn public_pem(&self) -> String {
        format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(self.public_der())
        )
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature = self.0.sign(&SystemRandom::new(), message).unwrap();
        signature.as_ref().to_vec()
    }

    /// A payload for `subject`, and this key's signature over it.
    pub(crate) fn entry(&self, subject: Digest) -> (Vec<u8>, String) {
        let payload = payload(subject);
        let signature = STANDARD.encode(self.sign(&payload));
        (payload, signature)
    }
}

pub(crate) fn payload(subject: Digest) -> Vec<u8> {
    json!({
        "critical": {
            "identity": {"docker-reference": "r.example/a"},
            "image": {"docker-manifest-digest": subject.to_string()},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

/// The object that lists these payloads with their signatures.
pub(crate) fn object(entries: &[(Vec<u8>, String)]) -> SignatureObject {
    let layers: Vec<Value> = entries
        .iter()
        .map(|(payload, signature)| {
            json!({
                "mediaType": SIGNATURE_LAYER,
                "digest": Digest::of(payload).to_string(),
                "size": payload.len(),
                "annotations": {SIGNATURE_ANNOTATION: signature},
            })
        })
        .collect();
    let payloads: BTreeMap<Digest, Vec<u8>> = entries
        .iter()
        .map(|(payload, _)| (Digest::of(payload), payload.clone()))
        .collect();
    SignatureObject {
        manifest: json!({"schemaVersion": 2, "layers": layers})
            .to_string()
            .into_bytes(),
        payloads,
    }
}
