//! Makes keys and cosign classic signatures for tests, as the bytes that a registry or an OCI layout
//! folder holds. It never pushes anything: whoever starts the registry does.
//!
//! The crate `holdfast-registry` includes this file in its own tests by path.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_core::digest::Digest;
use holdfast_core::trust::classic::{MANIFEST_TYPES, SIGNATURE_ANNOTATION, SIGNATURE_LAYER, tag};
use serde_json::{Value, json};

/// The crypto library has failed, for instance to get random bytes.
#[derive(Debug)]
pub struct ForgeError;

impl std::fmt::Display for ForgeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("key or signature could not be made")
    }
}

impl std::error::Error for ForgeError {}

/// An ECDSA P-256 key.
#[derive(Debug)]
pub struct SigningKey {
    pair: EcdsaKeyPair,
    public_pem: String,
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<Self, ForgeError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map_err(|_unspecified| ForgeError)?;
        let der: PublicKeyX509Der<'_> = pair
            .public_key()
            .as_der()
            .map_err(|_unspecified| ForgeError)?;
        let public_pem = format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der.as_ref())
        );
        Ok(Self { pair, public_pem })
    }

    /// The public half, as a policy's `key.data` holds it.
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    fn sign(&self, message: &[u8]) -> Result<String, ForgeError> {
        let signature = self
            .pair
            .sign(&SystemRandom::new(), message)
            .map_err(|_unspecified| ForgeError)?;
        Ok(STANDARD.encode(signature.as_ref()))
    }
}

/// What has to be put into a repository so that an image there is signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The tag of the manifest.
    pub tag: String,
    /// Media type of the manifest.
    pub media_type: &'static str,
    /// The manifest, to be put after the blobs.
    pub manifest: Vec<u8>,
    /// Config and payloads.
    pub blobs: Vec<(Digest, Vec<u8>)>,
}

/// Signs `subject`, a manifest or an index in `repository`, with each of `keys`.
pub fn sign_classic(
    subject: Digest,
    repository: &str,
    keys: &[&SigningKey],
) -> Result<Signed, ForgeError> {
    let payload = json!({
        "critical": {
            "identity": {"docker-reference": repository},
            "image": {"docker-manifest-digest": subject.to_string()},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes();
    let named = Digest::of(&payload);
    let mut layers = Vec::with_capacity(keys.len());
    for key in keys {
        layers.push(json!({
            "mediaType": SIGNATURE_LAYER,
            "digest": named.to_string(),
            "size": payload.len(),
            "annotations": {SIGNATURE_ANNOTATION: key.sign(&payload)?},
        }));
    }
    let diff_ids: Vec<Value> = layers.iter().map(|_| json!(named.to_string())).collect();
    let config = json!({
        "architecture": "", "os": "", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes();
    let [media_type, _] = MANIFEST_TYPES;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&config).to_string(),
            "size": config.len(),
        },
        "layers": layers,
    });
    Ok(Signed {
        tag: tag(subject),
        media_type,
        manifest: manifest.to_string().into_bytes(),
        blobs: vec![(Digest::of(&config), config), (named, payload)],
    })
}
