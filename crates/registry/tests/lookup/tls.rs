//! Registries with certificates of their own: whose they are is checked, unless two files say otherwise.

use std::sync::Arc;

use holdfast_registry::{Access, Client, FetchError, SetupFault};
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::liar::{plain, repository};
use crate::write_hosts;

/// A registry in TLS that answers everything with 404, its host and port, and its certificate in PEM.
async fn registry() -> (String, String, JoinSet<()>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not believe the certificate hangs up.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = [0; 4096];
            let _asked = stream.read(&mut head).await;
            let answer =
                b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _sent = stream.write_all(answer).await;
            let _closed = stream.shutdown().await;
        }
    });
    (host, made.cert.pem(), serving)
}

/// What the registry answers through this `hosts.toml`, beside which `ca.pem` lies.
async fn answer(host: &str, pem: &str, text: &str, insecure: &[&str]) -> FetchError {
    let certs = TempDir::new().unwrap();
    let text = format!("server = \"https://{host}\"\n{text}");
    write_hosts(certs.path(), host, &text);
    std::fs::write(certs.path().join(host).join("ca.pem"), pem).unwrap();
    let access = Access {
        hosts: vec![certs.path().to_owned()],
        ..plain(insecure)
    };
    let client = Client::new(access).unwrap();
    client.tagged(&repository(host), "1").await.unwrap_err()
}

#[tokio::test]
async fn a_certificate_counts_only_where_hosts_toml_names_its_authority() {
    let (host, pem, _serving) = registry().await;
    let named = answer(&host, &pem, "ca = \"ca.pem\"", &[]).await;
    assert_eq!(named, FetchError::NotFound);
    let unnamed = answer(&host, &pem, "", &[]).await;
    assert!(matches!(unnamed, FetchError::Connection(_)), "{unnamed}");
    let (_, other, _serving) = registry().await;
    let others = answer(&host, &other, "ca = \"ca.pem\"", &[]).await;
    assert!(matches!(others, FetchError::Connection(_)), "{others}");
}

#[tokio::test]
async fn skip_verify_needs_our_own_consent() {
    let (host, pem, _serving) = registry().await;
    let alone = answer(&host, &pem, "skip_verify = true", &[]).await;
    assert!(matches!(
        alone,
        FetchError::Setup(SetupFault::Insecure { .. })
    ));
    let listed = answer(&host, &pem, "skip_verify = true", &[&host]).await;
    assert_eq!(listed, FetchError::NotFound);
    let unsaid = answer(&host, &pem, "", &[&host]).await;
    assert!(matches!(unsaid, FetchError::Connection(_)), "{unsaid}");
}
