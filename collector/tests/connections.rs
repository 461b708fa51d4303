//! Who may speak to the collector, over real TLS: certificates, handshakes, limits.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;

use holdfast_daemon::tls::TlsFiles;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use support::{Site, batch, beat, connect, connect_with, eventually, expired};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

#[tokio::test]
async fn certificates_of_others_expired_ones_and_none_at_all_are_refused() {
    let (site, stranger) = (Site::new(), Site::new());
    let running = site.start("").await;

    let foreign = TlsFiles {
        ca: site.ca().join("ca.pem"), // it believes us, we do not believe it
        ..stranger.node("n-1")
    };
    assert!(speaks(running.grpc, foreign).await.is_err());
    assert!(speaks(running.grpc, expired(&site)).await.is_err());
    let as_client = TlsFiles {
        certificate: site.ca().join("collector.pem"),
        key: site.ca().join("collector-key.pem"),
        ca: site.ca().join("ca.pem"),
    };
    assert!(
        speaks(running.grpc, as_client).await.is_err(),
        "a server is no client"
    );

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(site.ca().join("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut nobody = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    nobody.alpn_protocols = vec![b"h2".to_vec()];
    let spoken = match connect_with(running.grpc, Arc::new(nobody)).await {
        Ok(mut agent) => agent.beat(beat(7)).await.is_ok(),
        Err(_) => false,
    };
    assert!(!spoken);

    let mut plain = tokio::net::TcpStream::connect(running.grpc).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _was_reset = plain.read_to_end(&mut answer).await.is_err();
    assert!(
        !answer.windows(4).any(|window| window == b"HTTP"),
        "{answer:?}"
    );

    assert!(
        speaks(running.grpc, site.node("n-1")).await.is_ok(),
        "the good one still does"
    );
    let failed = running
        .metric("holdfast_collector_handshakes_total{outcome=\"failed\"}")
        .await;
    assert!(failed >= 5, "{failed}");
    assert_eq!(
        running.get("/api/v1/nodes").await.1["nodes"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    running.stop().await;
}

/// With TLS 1.3 a client learns only with its first call that its certificate was refused.
async fn speaks(address: std::net::SocketAddr, files: TlsFiles) -> Result<(), ()> {
    let mut agent = connect(address, files).await.map_err(drop)?;
    agent.beat(beat(7)).await.map(drop).map_err(drop)
}

#[tokio::test]
async fn a_certificate_that_names_no_node_is_denied() {
    let site = Site::new();
    let running = site.start("").await;
    // A name with a space passes no authority of ours, so this one is made by hand.
    let files = site.node("n-1");
    let ca_key = rcgen::KeyPair::from_pem(&read(&site.ca().join("ca-key.pem"))).unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.distinguished_name = rcgen::DistinguishedName::new();
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "Holdfast CA of fleet.example");
    let mut params = rcgen::CertificateParams::default();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params
        .signed_by(&key, &rcgen::Issuer::new(ca, ca_key))
        .unwrap();
    std::fs::write(&files.certificate, certificate.pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();

    let mut agent = connect(running.grpc, files).await.unwrap();

    let denied = agent.beat(beat(7)).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let denied = agent.submit(batch(7, vec![])).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    running.stop().await;
}

fn read(path: &std::path::Path) -> String {
    String::from_utf8(holdfast_daemon::capped::read_file(path, 1 << 20).unwrap()).unwrap()
}

#[tokio::test]
async fn a_node_has_at_most_four_connections() {
    let site = Site::new();
    let running = site.start("").await;
    let mut held = Vec::new();
    for _connection in 0..4 {
        let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
        agent.beat(beat(7)).await.unwrap();
        held.push(agent);
    }
    assert!(speaks(running.grpc, site.node("n-1")).await.is_err());
    assert!(speaks(running.grpc, site.node("n-2")).await.is_ok());

    held.clear();
    eventually("a place is free", async || {
        speaks(running.grpc, site.node("n-1")).await.ok()
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn a_replaced_authority_counts_from_the_next_connection_on() {
    let (site, next) = (Site::new(), Site::new());
    let running = site.start("").await;
    let mut before = connect(running.grpc, site.node("n-1")).await.unwrap();
    before.beat(beat(7)).await.unwrap();
    assert!(speaks(running.grpc, next.node("n-1")).await.is_err());

    for name in ["ca.pem", "collector.pem", "collector-key.pem"] {
        let staged = site.ca().join("staged");
        std::fs::copy(next.ca().join(name), &staged).unwrap();
        std::fs::rename(&staged, site.ca().join(name)).unwrap();
    }

    eventually("the new authority counts", async || {
        speaks(running.grpc, next.node("n-1")).await.ok()
    })
    .await;
    let old = TlsFiles {
        ca: next.ca().join("ca.pem"), // it believes us, we do not believe it any more
        ..site.node("n-1")
    };
    assert!(speaks(running.grpc, old).await.is_err());
    before.beat(beat(7)).await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_peer_that_does_not_finish_its_handshake_is_let_go() {
    let site = Site::new();
    let running = site.start("").await;
    let mut idle = tokio::net::TcpStream::connect(running.grpc).await.unwrap();

    let mut nothing = Vec::new();
    let closed = tokio::time::timeout(support::PATIENCE, idle.read_to_end(&mut nothing)).await;

    assert!(closed.is_ok(), "it is still open");
    let timed_out = "holdfast_collector_handshakes_total{outcome=\"timed_out\"}";
    assert_eq!(running.metric(timed_out).await, 1);
    running.stop().await;
}
