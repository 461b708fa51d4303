//! The connection: mutual TLS or nothing.

use std::sync::Arc;

use holdfast_agent::link::{AddressError, CollectorAddress, TlsSource, channel};
use holdfast_protocol::v1;
use holdfast_protocol::v1::collector_client::CollectorClient;
use holdfast_protocol::v1::collector_server::{Collector, CollectorServer};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// Confirms everything.
struct Willing;

#[tonic::async_trait]
impl Collector for Willing {
    async fn submit(&self, _: Request<v1::Batch>) -> Result<Response<v1::Confirmation>, Status> {
        Ok(Response::new(v1::Confirmation { sequence: 1 }))
    }

    async fn beat(&self, _: Request<v1::Heartbeat>) -> Result<Response<v1::BeatReply>, Status> {
        Ok(Response::new(v1::BeatReply { full_report: false }))
    }
}

/// An authority and what it has signed.
struct Authority(CertifiedIssuer<'static, KeyPair>);

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> Pair {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![certificate.der().clone()], key)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.roots()),
            Arc::clone(&provider),
        );
        let (chain, key) = self.sign(name);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// A client that trusts this authority and shows a certificate of `own`.
    fn client(&self, own: &Self) -> TlsSource {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (chain, key) = own.sign("node-7");
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        Arc::new(move || Arc::clone(&config))
    }
}

/// A collector with this configuration; gives its port.
async fn serve(config: Arc<ServerConfig>, tasks: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (accepted, incoming) = tokio::sync::mpsc::channel(1);
    tasks.spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A handshake that fails is the client's test.
            if let Ok(stream) = acceptor.accept(stream).await {
                accepted
                    .send(Ok::<_, std::io::Error>(stream))
                    .await
                    .unwrap();
            }
        }
    });
    let incoming = tokio_stream::wrappers::ReceiverStream::new(incoming);
    tasks.spawn(async move {
        let server = Server::builder().add_service(CollectorServer::new(Willing));
        server.serve_with_incoming(incoming).await.unwrap();
    });
    port
}

async fn beat(address: &CollectorAddress, tls: TlsSource) -> Result<v1::BeatReply, Status> {
    let channel = channel(address, tls).unwrap();
    let mut client = CollectorClient::new(channel);
    let reply = client.beat(v1::Heartbeat::default()).await?;
    Ok(reply.into_inner())
}

fn causes(status: &Status) -> String {
    let mut text = status.to_string();
    let mut cause = std::error::Error::source(status);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[tokio::test]
async fn both_sides_with_certificates_of_one_authority_talk() {
    let authority = Authority::new("one");
    let mut tasks = JoinSet::new();
    let port = serve(authority.server("localhost"), &mut tasks).await;
    let address = CollectorAddress::new(&format!("localhost:{port}"), None).unwrap();
    beat(&address, authority.client(&authority)).await.unwrap();
}

#[tokio::test]
async fn a_collector_with_another_name_is_refused() {
    let authority = Authority::new("one");
    let mut tasks = JoinSet::new();
    let port = serve(authority.server("elsewhere.example"), &mut tasks).await;
    let tls = authority.client(&authority);
    let address = format!("localhost:{port}");

    let wrong = CollectorAddress::new(&address, None).unwrap();
    let refused = beat(&wrong, Arc::clone(&tls)).await.unwrap_err();
    assert!(
        causes(&refused).contains("not valid for name"),
        "{}",
        causes(&refused)
    );

    let named = CollectorAddress::new(&address, Some("elsewhere.example")).unwrap();
    beat(&named, tls).await.unwrap();
}

#[tokio::test]
async fn a_collector_of_another_authority_is_refused() {
    let (ours, theirs) = (Authority::new("one"), Authority::new("other"));
    let mut tasks = JoinSet::new();
    let port = serve(theirs.server("localhost"), &mut tasks).await;
    let address = CollectorAddress::new(&format!("localhost:{port}"), None).unwrap();
    let refused = beat(&address, ours.client(&theirs)).await.unwrap_err();
    assert!(
        causes(&refused).contains("UnknownIssuer"),
        "{}",
        causes(&refused)
    );
}

#[tokio::test]
async fn an_agent_of_another_authority_gets_no_answer() {
    let (collectors, agents) = (Authority::new("one"), Authority::new("other"));
    let mut tasks = JoinSet::new();
    let port = serve(collectors.server("localhost"), &mut tasks).await;
    let address = CollectorAddress::new(&format!("localhost:{port}"), None).unwrap();
    beat(&address, collectors.client(&agents))
        .await
        .unwrap_err();
}

#[tokio::test]
async fn a_collector_without_tls_gets_a_handshake_and_nothing_else() {
    let authority = Authority::new("one");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut start = [0; 2];
        stream.read_exact(&mut start).await.unwrap();
        // A TLS record that holds a handshake message; a plain HTTP/2 client would begin with "PRI".
        assert_eq!(start, [22, 3]);
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n")
            .await
            .unwrap();
    });
    let address = CollectorAddress::new(&format!("localhost:{port}"), None).unwrap();
    beat(&address, authority.client(&authority))
        .await
        .unwrap_err();
    tasks.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_accepts_and_stays_silent_is_given_up() {
    let authority = Authority::new("one");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = CollectorAddress::new(&format!("127.0.0.1:{port}"), None).unwrap();
    let refused = beat(&address, authority.client(&authority))
        .await
        .unwrap_err();
    assert!(
        causes(&refused).contains("no connection within"),
        "{}",
        causes(&refused)
    );
    drop(listener);
}

#[test]
fn an_address_needs_a_host_and_a_port() {
    assert!(CollectorAddress::new("collector.example:7400", None).is_ok());
    assert!(CollectorAddress::new("[::1]:7400", None).is_ok());
    for wrong in [
        "collector.example",
        "collector.example:",
        "collector.example:x",
    ] {
        let refused = CollectorAddress::new(wrong, None);
        assert!(matches!(refused, Err(AddressError::NoPort)), "{wrong}");
    }
    let refused = CollectorAddress::new("not a name:1", None);
    assert!(matches!(refused, Err(AddressError::Name(_))));
}
