//! Finds cosign's classic signatures in a registry: the tag `sha256-….sig` beside the image.
//!
//! Only a 404 of that tag means "nothing there". Everything else that goes wrong is said by its name,
//! since a rate limit must never read as an unsigned image.

use std::collections::BTreeMap;

use holdfast_core::digest::Digest;
use holdfast_core::reference::Repository;
use holdfast_core::trust::classic::{self, Layer};
use holdfast_core::trust::{Looked, MAX_PAYLOAD, Missed, SignatureObject};

use crate::client::Client;
use crate::error::FetchError;

/// Bytes of all payloads of one object: it is kept in memory, and real ones have some 250 each.
pub(crate) const MAX_PAYLOADS: usize = 4 << 20;

/// Looks for the signatures of `subject` in `repository`.
pub(crate) async fn signatures(
    client: &Client,
    repository: &Repository,
    subject: Digest,
) -> Looked {
    let tag = classic::tag(subject);
    let manifest = match client.tagged(repository, &tag).await {
        Ok(manifest) => manifest,
        Err(FetchError::NotFound) => return Looked::nothing(),
        Err(error) => return Looked::could_not_look(error.missed(repository, &tag)),
    };
    let (payloads, missed) = payloads(client, repository, &manifest.bytes).await;
    let found = Looked::found(SignatureObject {
        manifest: manifest.bytes,
        payloads,
    });
    missed
        .into_iter()
        .map(Looked::could_not_look)
        .fold(found, Looked::and)
}

/// The payloads that a signature object names, as far as they can be had. What the manifest itself
/// makes impossible is left out without a word: the verifier refuses it.
async fn payloads(
    client: &Client,
    repository: &Repository,
    manifest: &[u8],
) -> (BTreeMap<Digest, Vec<u8>>, Vec<Missed>) {
    let (mut payloads, mut missed) = (BTreeMap::new(), Vec::new());
    let mut budget = MAX_PAYLOADS;
    for digest in wanted(manifest) {
        let limit = MAX_PAYLOAD.min(budget);
        match client.blob(repository, digest, limit).await {
            Ok(payload) => {
                budget = budget.saturating_sub(payload.len());
                payloads.insert(digest, payload);
            }
            // No statement is that long, whoever wrote the size into the manifest.
            Err(FetchError::TooLarge { .. }) => {}
            Err(error) => {
                missed.push(error.missed(repository, &digest.to_string()));
                if error.ends_the_look() {
                    break;
                }
            }
        }
    }
    (payloads, missed)
}

/// The payloads that a manifest names, each once, in its order.
pub(crate) fn wanted(manifest: &[u8]) -> Vec<Digest> {
    let mut wanted = Vec::new();
    for Layer { payload, .. } in classic::layers(manifest)
        .into_iter()
        .flat_map(|layers| layers.first)
        .flatten()
    {
        if !wanted.contains(&payload) {
            wanted.push(payload);
        }
    }
    wanted
}
