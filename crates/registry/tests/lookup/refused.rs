//! Answers that are refused for their form: size, type, encoding, digest, redirects, silence.

use holdfast_core::trust::Cause;
use tokio::io::AsyncWriteExt;

use crate::forge::SigningKey;
use crate::liar::{
    Liar, Reply, body, honest, look, look_briefly, look_with, plain, raw, recorded, status, with,
};
use crate::registry::signed;
use crate::told;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Why nothing could be learnt from a registry that always gives this answer.
async fn cause_of(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Vec<Cause> {
    let registry = Liar::start(move |_| reply()).await;
    let (found, causes) = told(&look(&registry.host).await);
    assert_eq!(found, 0);
    causes
}

#[tokio::test]
async fn a_page_that_is_no_manifest_is_not_taken_for_one() {
    assert_eq!(
        cause_of(|| body("text/html", b"<html>please log in</html>")).await,
        [Cause::WrongAnswer]
    );
    assert_eq!(cause_of(|| status(200)).await, [Cause::WrongAnswer]);
}

#[tokio::test]
async fn a_compressed_answer_is_refused_unopened() {
    for encoding in ["gzip", "zstd", "identity, gzip"] {
        let causes = cause_of(move || {
            with(
                body(MANIFEST, &vec![0; 1 << 20]),
                "content-encoding",
                encoding,
            )
        })
        .await;
        assert_eq!(causes, [Cause::WrongAnswer], "{encoding}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_the_registry_names_is_refused() {
    let zero = format!("sha256:{}", "0".repeat(64));
    for named in [zero, "sha256:short".to_owned()] {
        let causes = cause_of(move || with(body(MANIFEST, b"{}"), "docker-content-digest", &named));
        assert_eq!(causes.await, [Cause::WrongDigest]);
    }
}

#[tokio::test]
async fn a_huge_manifest_is_refused_by_its_length() {
    let causes = cause_of(|| body(MANIFEST, &vec![b' '; (4 << 20) + 1])).await;
    assert_eq!(causes, [Cause::TooLarge]);
}

#[tokio::test]
async fn an_endless_manifest_is_refused_at_the_limit() {
    let (host, _serving) = raw(|mut stream, _| async move {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {MANIFEST}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
        let mut next = head.as_bytes();
        while stream.write_all(next).await.is_ok() {
            next = chunk.as_bytes();
        }
    })
    .await;
    assert_eq!(told(&look(&host).await), (0, vec![Cause::TooLarge]));
}

#[tokio::test]
async fn a_body_that_ends_early_is_a_broken_connection() {
    let (host, _serving) = recorded(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/vnd.oci.image.manifest.v1+json\r\ncontent-length: 100\r\n\r\n{",
    )
    .await;
    assert_eq!(told(&look(&host).await), (0, vec![Cause::Unreachable]));
}

#[tokio::test]
async fn what_is_no_http_is_a_broken_connection() {
    let (host, _serving) = recorded(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    assert_eq!(told(&look(&host).await), (0, vec![Cause::Unreachable]));
}

#[tokio::test]
async fn a_registry_that_never_answers_runs_into_the_deadline() {
    let (host, _serving) = raw(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    assert_eq!(told(&look_briefly(&host).await), (0, vec![Cause::Timeout]));
}

#[tokio::test]
async fn a_body_that_never_ends_runs_into_the_deadline() {
    let (host, _serving) = raw(|mut stream, _| async move {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {MANIFEST}\r\ncontent-length: 1000\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    assert_eq!(told(&look_briefly(&host).await), (0, vec![Cause::Timeout]));
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let closed = Liar::start(|_| status(200)).await.host;
    assert_eq!(told(&look(&closed).await), (0, vec![Cause::Unreachable]));
}

#[tokio::test]
async fn a_registry_is_spoken_to_in_tls_unless_it_is_listed() {
    let (first, mut firsts) = tokio::sync::mpsc::channel(8);
    let (host, _serving) = raw(move |_, head| {
        let first = first.clone();
        async move { first.send(head[0]).await.unwrap() }
    })
    .await;

    let looked = look_with(plain(&[]), &host).await;

    assert_eq!(told(&looked), (0, vec![Cause::Unreachable]));
    let tls_handshake = 22;
    assert_eq!(firsts.recv().await, Some(tls_handshake));
}

#[tokio::test]
async fn a_redirect_is_followed_and_the_bytes_are_checked_as_ever() {
    let key = SigningKey::generate().unwrap();
    let object = signed(&key);
    let storage = Liar::start(move |asked| honest(&object, asked)).await;
    let elsewhere = format!("http://{}", storage.host);
    let registry = Liar::start(move |asked| {
        with(
            status(307),
            "location",
            &format!("{elsewhere}{}", asked.path),
        )
    })
    .await;
    let access = plain(&[&registry.host, &storage.host]);
    let looked = look_with(access, &registry.host).await;
    assert_eq!(told(&looked), (1, vec![]));

    let unlisted = look(&registry.host).await;
    assert_eq!(told(&unlisted), (0, vec![Cause::Redirect]), "to plain HTTP");
}

#[tokio::test]
async fn a_redirect_that_leads_nowhere_is_refused() {
    for location in [
        "/again",
        "ftp://r.example/",
        "http://u:p@r.example/",
        "//[",
        "",
    ] {
        let causes = cause_of(move || match location {
            "" => status(302),
            location => with(status(302), "location", location),
        })
        .await;
        assert_eq!(causes, [Cause::Redirect], "{location}");
    }
}

/// A server whose headers never end: one after the other, or one without an end.
async fn endless_headers(piece: &'static str) -> (String, tokio::task::JoinSet<()>) {
    raw(move |mut stream, _| async move {
        let pieces = piece.repeat(1000);
        let mut next: &[u8] = b"HTTP/1.1 404 Not Found\r\nx-first: 1\r\nx-long: ";
        while stream.write_all(next).await.is_ok() {
            next = pieces.as_bytes();
        }
    })
    .await
}

#[tokio::test]
async fn headers_without_end_end() {
    for piece in ["x-many: 1\r\n", "x"] {
        let (host, _serving) = endless_headers(piece).await;
        let looked = look(&host).await;
        assert_eq!(told(&looked), (0, vec![Cause::Unreachable]), "{piece}");
    }
}
