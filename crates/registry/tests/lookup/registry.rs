//! What an honest registry has, and each way of failing to say it.

use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast_core::digest::Digest;
use holdfast_core::trust::{
    Cause, Evidence, ImageDigests, Looked, PolicySet, Verdict, VerdictName, verify,
};
use holdfast_registry::{Client, FetchError};

use crate::forge::{Signed, SigningKey, sign_classic};
use crate::liar::{Asked, Liar, Reply, body, honest, look, plain, repository, status, with};
use crate::{subject, told};

pub(crate) fn signed(key: &SigningKey) -> Signed {
    sign_classic(subject(), "r.example/team/app", &[key]).unwrap()
}

/// A registry that lies where `lie` says so and is honest elsewhere.
async fn lying(lie: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Liar {
    let signed = signed(&SigningKey::generate().unwrap());
    Liar::start(move |asked| lie(asked).unwrap_or_else(|| honest(&signed, asked))).await
}

/// The verdict of a policy that trusts `key`.
pub(crate) fn verdict(key: &SigningKey, looked: Looked) -> Verdict {
    let pem = key.public_pem().replace('\n', "\\n");
    let policy = format!(
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: ClusterImagePolicy\nmetadata: {{name: p}}\nspec:\n  images: [{{glob: \"**\"}}]\n  authorities: [{{key: {{data: \"{pem}\"}}}}]\n"
    );
    let policies = PolicySet::load([("p.yaml", policy.as_bytes())]).unwrap();
    let mut evidence = Evidence::none();
    evidence.add(subject(), looked);
    let image = ImageDigests {
        manifest: subject(),
        index: None,
    };
    verify(&["r.example/team/app"], image, &policies, &evidence)
}

#[tokio::test]
async fn a_signed_image_is_verified_by_what_the_registry_has() {
    let key = SigningKey::generate().unwrap();
    let object = signed(&key);
    let registry = Liar::start(move |asked| honest(&object, asked)).await;

    let looked = look(&registry.host).await;

    assert_eq!(told(&looked), (1, vec![]));
    assert_eq!(verdict(&key, looked.clone()).name(), VerdictName::Verified);
    let other = SigningKey::generate().unwrap();
    assert_eq!(verdict(&other, looked).name(), VerdictName::Untrusted);
    let asked = registry.asked();
    assert_eq!(asked.len(), 2, "a manifest and one payload");
    assert_eq!(asked[0].header("accept-encoding"), Some("identity"));
    assert!(
        asked[0]
            .header("accept")
            .unwrap()
            .contains("oci.image.manifest")
    );
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[tokio::test]
async fn an_absent_tag_or_repository_is_nothing_there() {
    let key = SigningKey::generate().unwrap();
    for code in ["MANIFEST_UNKNOWN", "NAME_UNKNOWN"] {
        let json = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
        let registry = lying(move |_| {
            let mut reply = body("application/json", json.as_bytes());
            *reply.status_mut() = axum::http::StatusCode::NOT_FOUND;
            Some(reply)
        })
        .await;
        let looked = look(&registry.host).await;
        assert!(looked.is_nothing());
        assert_eq!(verdict(&key, looked).name(), VerdictName::Unsigned);
    }
}

#[tokio::test]
async fn every_other_status_is_its_own_reason_and_an_error() {
    let key = SigningKey::generate().unwrap();
    for (code, cause, requests) in [
        (401, Cause::Denied, 1),
        (403, Cause::Denied, 1),
        (429, Cause::RateLimited, 1),
        (500, Cause::ServerError, 3),
        (503, Cause::ServerError, 3),
        (204, Cause::ServerError, 1),
        (410, Cause::ServerError, 1),
    ] {
        let registry = lying(move |_| Some(status(code))).await;
        let looked = look(&registry.host).await;
        assert_eq!(told(&looked), (0, vec![cause]), "{code}");
        assert_eq!(verdict(&key, looked).name(), VerdictName::Error, "{code}");
        assert_eq!(registry.asked().len(), requests, "{code}");
    }
}

#[tokio::test]
async fn a_failure_that_passes_is_retried() {
    let failures = AtomicUsize::new(2);
    let registry = lying(move |_| {
        let is_failing = failures
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        is_failing.then(|| status(502))
    })
    .await;
    assert_eq!(told(&look(&registry.host).await), (1, vec![]));
}

#[tokio::test]
async fn a_registry_that_asks_for_a_pause_is_left_alone() {
    let registry = lying(|_| Some(with(status(429), "retry-after", "3600"))).await;
    let client = Client::new(plain(&[&registry.host])).unwrap();
    let digest = Digest::of(b"x");

    let first = client.manifest(&registry.repository(), digest).await;
    let second = client.blob(&registry.repository(), digest, 10).await;

    let pause = std::time::Duration::from_hours(1);
    assert_eq!(first, Err(FetchError::RateLimited { pause }));
    assert!(matches!(second, Err(FetchError::RateLimited { .. })));
    assert_eq!(registry.asked().len(), 1);
}

#[tokio::test]
async fn a_manifest_is_fetched_by_its_digest_and_checked() {
    let bytes = b"{\"schemaVersion\":2}".as_slice();
    let registry = lying(move |asked| {
        let manifest = body(
            "application/vnd.oci.image.index.v1+json; charset=utf-8",
            bytes,
        );
        asked.path.contains("/manifests/").then_some(manifest)
    })
    .await;
    let client = Client::new(plain(&[&registry.host])).unwrap();
    let at = registry.repository();

    let good = client.manifest(&at, Digest::of(bytes)).await.unwrap();
    let other = client.manifest(&at, Digest::of(b"other")).await;

    assert_eq!(
        (good.digest, good.bytes.as_slice()),
        (Digest::of(bytes), bytes)
    );
    assert_eq!(
        other,
        Err(FetchError::WrongDigest {
            due: Digest::of(b"other"),
            actual: Digest::of(bytes)
        })
    );
}

#[tokio::test]
async fn a_blob_that_is_absent_or_another_leaves_the_look_unfinished() {
    let key = SigningKey::generate().unwrap();
    for (reply, cause) in [
        (404, Cause::BlobMissing),
        (200, Cause::WrongDigest),
        (500, Cause::ServerError),
    ] {
        let registry = lying(move |asked| {
            let is_blob = asked.path.contains("/blobs/");
            is_blob.then(|| with(status(reply), "x-empty", "yes"))
        })
        .await;
        let looked = look(&registry.host).await;
        assert_eq!(told(&looked), (1, vec![cause]));
        assert_eq!(verdict(&key, looked).name(), VerdictName::Error);
    }
}

#[tokio::test]
async fn a_payload_that_no_statement_could_be_is_untrusted_and_not_an_error() {
    let key = SigningKey::generate().unwrap();
    let registry = lying(|asked| {
        let large = vec![b' '; (1 << 20) + 1];
        let is_blob = asked.path.contains("/blobs/");
        is_blob.then(|| body("application/octet-stream", &large))
    })
    .await;
    let looked = look(&registry.host).await;
    assert_eq!(told(&looked), (1, vec![]));
    assert_eq!(verdict(&key, looked).name(), VerdictName::Untrusted);
}

#[tokio::test]
async fn a_malformed_signature_manifest_is_untrusted_and_not_an_error() {
    let key = SigningKey::generate().unwrap();
    for (media_type, text) in [
        ("application/vnd.oci.image.manifest.v1+json", "{}"),
        ("application/vnd.oci.image.manifest.v1+json", "not json"),
        (
            "application/vnd.oci.image.index.v1+json",
            r#"{"schemaVersion":2,"manifests":[]}"#,
        ),
    ] {
        let registry = lying(move |_| Some(body(media_type, text.as_bytes()))).await;
        let looked = look(&registry.host).await;
        assert_eq!(told(&looked), (1, vec![]));
        assert_eq!(verdict(&key, looked).name(), VerdictName::Untrusted);
    }
}

#[tokio::test]
async fn one_registry_that_fails_is_not_the_others_fault() {
    let angry = lying(|_| Some(status(429))).await;
    let fine = lying(|_| None).await;
    let client = Client::new(plain(&[&angry.host, &fine.host])).unwrap();
    let tag = signed(&SigningKey::generate().unwrap()).tag;

    assert!(client.tagged(&repository(&angry.host), &tag).await.is_err());
    assert!(client.tagged(&repository(&fine.host), &tag).await.is_ok());
}
