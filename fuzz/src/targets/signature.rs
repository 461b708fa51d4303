//! What a registry gives as a signature: manifest, payload, index. None of it was signed by the policy's key,
//! so whatever it is, it verifies nothing.

use std::sync::OnceLock;

use holdfast_core::digest::Digest;
use holdfast_core::trust::classic::{MAX_SIGNATURES, layers};
use holdfast_core::trust::{
    Evidence, ImageDigests, Looked, Payload, PolicySet, SignatureObject, Verdict, verify,
};

use super::policy::{keyed, policy};
use crate::parts::{joined, parts};
use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "signature",
    check,
    max_bytes: 2 << 10,
    seeds,
    words: &[
        "\"schemaVersion\":2",
        "\"layers\":[",
        "\"manifests\":[",
        "\"mediaType\":",
        "application/vnd.dev.cosign.simplesigning.v1+json",
        "dev.cosignproject.cosign/signature",
        "\"annotations\":{",
        "\"critical\":{",
        "\"identity\":{",
        "\"docker-reference\":",
        "\"image\":{",
        "\"docker-manifest-digest\":",
        "\"type\":\"cosign container image signature\"",
        "\"optional\":",
        "sha256:",
    ],
    repair: as_it_is,
};

/// Longest text of one refusal.
const REFUSAL_CHARS: usize = 800;

fn policies() -> &'static PolicySet {
    static SET: OnceLock<PolicySet> = OnceLock::new();
    SET.get_or_init(|| PolicySet::load([("file", policy(&keyed()).as_bytes())]).unwrap())
}

fn check(input: &[u8]) {
    let [manifest, payload, index] = parts(input);
    if let Ok(listed) = layers(manifest) {
        assert!(listed.first.len() <= MAX_SIGNATURES);
    }
    let running = running();
    if let Ok(stated) = Payload::parse(payload) {
        let text = String::from_utf8_lossy(payload);
        assert!(text.contains('\\') || text.contains(&stated.subject.to_string()));
    }
    let object = SignatureObject {
        manifest: manifest.to_vec(),
        payloads: [(Digest::of(payload), payload.to_vec())].into(),
    };
    let image = ImageDigests {
        manifest: running,
        index: (!index.is_empty()).then(|| (Digest::of(index), index)),
    };
    let mut evidence = Evidence::none();
    evidence.add(running, Looked::found(object.clone()));
    evidence.add(Digest::of(index), Looked::found(object));
    let names = ["registry.example/shop/api:1"];
    let verdict = verify(&names, image, policies(), &evidence);
    assert_eq!(verify(&names, image, policies(), &evidence), verdict);
    match verdict {
        Verdict::Untrusted { refusals, .. } => {
            for refused in refusals {
                let shown = refused.refusal.to_string();
                assert!(shown.chars().count() <= REFUSAL_CHARS, "{shown}");
                assert!(!shown.chars().any(char::is_control), "{shown}");
            }
        }
        Verdict::Unsigned { .. } | Verdict::Error { .. } => {}
        other => panic!("{other:?}"),
    }
}

fn running() -> Digest {
    Digest::of(b"manifest")
}

fn seeds() -> Vec<Vec<u8>> {
    let running = running();
    let payload = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"r/a"}},"image":{{"docker-manifest-digest":"{running}"}},"type":"cosign container image signature"}},"optional":{{"a":1}}}}"#
    );
    let (digest, size) = (Digest::of(payload.as_bytes()), payload.len());
    // A signature of the right form, by nobody.
    let signature = "MEUCIQDOuzV6C1ULfvBGGh3VMkYLhVqv4zbgTZ1b1Nn1Ho/UDwIgU0ohaBIMFkIlmq7wPTHPCsEz/fFg4CXhPnYMoiO7o2E=";
    let layer = format!(
        r#"{{"mediaType":"application/vnd.dev.cosign.simplesigning.v1+json","digest":"{digest}","size":{size},"annotations":{{"dev.cosignproject.cosign/signature":"{signature}"}}}}"#
    );
    let manifest = format!(r#"{{"schemaVersion":2,"config":{{}},"layers":[{layer}]}}"#);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{running}"}}]}}"#);
    let other = payload.replace(&running.to_string(), &digest.to_string());
    [
        [manifest.as_str(), &payload, ""],
        [&manifest, &payload, &index],
        [&manifest, &other, "{}"],
        [r#"{"schemaVersion":2,"layers":[]}"#, "", ""],
        ["", "", ""],
    ]
    .map(|parts| joined(&parts.map(str::as_bytes)))
    .to_vec()
}
