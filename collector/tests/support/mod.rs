//! A real collector on loopback with certificates of its own authority, and agents that speak to it.
//!
//! Long because an agent that says what it is told has every message of the protocol.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test file uses its own part of this, and may panic"
)]

pub mod program;

use std::collections::{BTreeMap, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_collector::config::Config;
use holdfast_collector::{Collector, ca};
use holdfast_core::container::{ContainerRef, Workload};
use holdfast_core::coverage::{self, ContainerStatus};
use holdfast_core::drift::{ChangeKind, Class};
use holdfast_core::finding::{
    Detail, FileChange, FileDrift, Finding, Fingerprint, Kind, Resolution, SCHEMA, Severity,
    Subject, Transition,
};
use holdfast_daemon::tls::{Reloading, TlsFiles};
use holdfast_protocol::v1;
use holdfast_protocol::v1::collector_client::CollectorClient;
use hyper_util::rt::TokioIo;
use jiff::{Timestamp, ToSpan as _};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// Long enough for a loaded machine; a test that holds never waits for it.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Certificates and the store's folder.
pub struct Site {
    pub folder: TempDir,
}

impl Site {
    pub fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let ca = site.ca();
        ca::init(&ca, "fleet.example", 10, Timestamp::now()).unwrap();
        let loopback = [Ipv4Addr::LOCALHOST.into()];
        ca::collector(&ca, &[], &loopback, &ca, (10, Timestamp::now())).unwrap();
        site
    }

    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("store/collector.db")
    }

    /// The certificate of a node, made when it is first asked for.
    pub fn node(&self, name: &str) -> TlsFiles {
        let ca = self.ca();
        if !ca.join(format!("{name}.pem")).exists() {
            ca::node(&ca, name, &ca, 10, Timestamp::now()).unwrap();
        }
        TlsFiles {
            certificate: ca.join(format!("{name}.pem")),
            key: ca.join(format!("{name}-key.pem")),
            ca: ca.join("ca.pem"),
        }
    }

    /// A configuration with free ports; `more` is added at the end.
    pub fn config_text(&self, more: &str) -> String {
        let (ca, store) = (self.ca(), self.store());
        format!(
            "[grpc]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n\
             [tls]\ncertificate = \"{0}/collector.pem\"\nkey = \"{0}/collector-key.pem\"\n\
             client-ca = \"{0}/ca.pem\"\n[store]\npath = \"{1}\"\n{more}",
            ca.display(),
            store.display(),
        )
    }

    pub fn config(&self, more: &str) -> Config {
        holdfast_daemon::config::parse(&self.config_text(more), Path::new("test.toml")).unwrap()
    }

    pub async fn start(&self, more: &str) -> Running {
        Running::start(self.config(more)).await
    }
}

/// A collector that runs in this process.
pub struct Running {
    pub grpc: SocketAddr,
    pub api: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Running {
    pub async fn start(config: Config) -> Self {
        let collector = Collector::start(config).await.unwrap();
        let (grpc, api) = (collector.grpc_address(), collector.api_address());
        let (stop, stopped) = oneshot::channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            collector
                .run_until(async {
                    let _gone = stopped.await.is_err();
                })
                .await
                .unwrap();
        });
        Self {
            grpc,
            api,
            stop,
            task,
        }
    }

    /// Ends it in order; fails if a task had failed.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.join_all().await;
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        get(self.api, path).await
    }

    pub async fn text(&self, path: &str) -> String {
        let answer = reqwest::get(format!("http://{}{path}", self.api)).await;
        answer.unwrap().text().await.unwrap()
    }

    /// The value of a metric with its labels, as written in the text format.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.text("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
            .parse()
            .unwrap()
    }

    pub async fn findings(&self, query: &str) -> Vec<Value> {
        let (status, page) = self.get(&format!("/api/v1/findings?{query}")).await;
        assert_eq!(status, 200, "{page}");
        page["findings"].as_array().unwrap().clone()
    }
}

pub async fn get(api: SocketAddr, path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("http://{api}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Waits until something holds; polling is the only way to see another process change.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, wait).await;
    seen.unwrap_or_else(|_| panic!("never: {what}"))
}

/// An agent's connection, with the certificate in `files`.
pub async fn connect(
    address: SocketAddr,
    files: TlsFiles,
) -> Result<CollectorClient<Channel>, tonic::transport::Error> {
    let (tls, _watch) = Reloading::client(files).unwrap();
    connect_with(address, tls.current()).await
}

pub async fn connect_with(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<CollectorClient<Channel>, tonic::transport::Error> {
    Ok(CollectorClient::new(dial(address, tls).await?))
}

/// An agent's connection, for any of the services.
pub async fn connect_channel(
    address: SocketAddr,
    files: TlsFiles,
) -> Result<Channel, tonic::transport::Error> {
    let (tls, _watch) = Reloading::client(files).unwrap();
    dial(address, tls.current()).await
}

async fn dial(
    address: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<Channel, tonic::transport::Error> {
    let dial = move |_uri| {
        let tls = Arc::clone(&tls);
        async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::from(address.ip());
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    };
    Endpoint::from_static("https://collector")
        .connect_with_connector(tower::service_fn(dial))
        .await
}

/// A document as an agent of `node` makes it.
pub fn finding(node: &str, container: &str, path: &str) -> Finding {
    let workload = Workload::of_image("default", "registry.example/shop/api");
    let subject = Subject::path(path.as_bytes());
    let now = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
    Finding {
        schema: SCHEMA.into(),
        fingerprint: Fingerprint::new(Kind::FileDrift, &workload, &subject),
        transition: Transition::Opened,
        reason: None,
        severity: Severity::Warning,
        title: format!(
            "New program /{path} in default:registry.example/shop/api, not in the image"
        ),
        node: node.into(),
        container: Some(container_ref(container)),
        workload,
        subject,
        image: None,
        basis: None,
        detail: Detail::FileDrift(FileDrift {
            changes: vec![FileChange {
                path: format!("/{path}"),
                change: ChangeKind::Added,
                class: Class::Program,
                severity: Severity::Warning,
                expected: None,
                actual: None,
                note: None,
                policy: None,
            }],
            changes_total: 1,
        }),
        actor: None,
        first_seen: now,
        last_seen: now,
        observed_at: now,
    }
}

pub fn resolved(finding: Finding) -> Finding {
    Finding {
        transition: Transition::Resolved,
        reason: Some(Resolution::Gone),
        ..finding
    }
}

pub fn container_ref(id: &str) -> ContainerRef {
    ContainerRef {
        id: id.into(),
        namespace: "default".into(),
        name: id.into(),
        pod: None,
    }
}

pub fn container_status(node: &str, id: &str) -> ContainerStatus {
    ContainerStatus {
        schema: coverage::SCHEMA.into(),
        node: node.into(),
        container: container_ref(id),
        workload: Workload::of_image("default", "registry.example/shop/api"),
        image: None,
        signature: None,
        checks: vec![],
        running: true,
        observed_at: Timestamp::now(),
    }
}

pub fn finding_record(sequence: u64, finding: &Finding) -> v1::Record {
    let json = serde_json::to_vec(finding).unwrap();
    record(sequence, v1::record::Body::Finding(json))
}

pub fn container_record(sequence: u64, status: &ContainerStatus) -> v1::Record {
    let json = serde_json::to_vec(status).unwrap();
    record(sequence, v1::record::Body::Container(json))
}

/// A full report with these findings' places and containers.
pub fn full_record(sequence: u64, open: &[&Finding], containers: &[&str]) -> v1::Record {
    let id = |container: &ContainerRef| v1::ContainerId {
        namespace: container.namespace.clone(),
        id: container.id.clone(),
    };
    let mut places: BTreeMap<(String, String), Vec<u8>> = BTreeMap::new();
    for finding in open {
        let key = finding.container.as_ref().unwrap().key();
        let fingerprints = places.entry((key.namespace, key.id)).or_default();
        fingerprints.extend_from_slice(finding.fingerprint.as_bytes());
    }
    for name in containers {
        let key = container_ref(name).key();
        places.entry((key.namespace, key.id)).or_default();
    }
    let open = |((namespace, id), fingerprints)| v1::OpenContainer {
        container: Some(v1::ContainerId { namespace, id }),
        fingerprints,
    };
    let census = v1::Census {
        running: containers
            .iter()
            .map(|name| id(&container_ref(name)))
            .collect(),
        known: Vec::new(),
    };
    let full = v1::FullReport {
        open: places.into_iter().map(open).collect(),
        census: Some(census),
    };
    record(sequence, v1::record::Body::Full(full))
}

pub fn record(sequence: u64, body: v1::record::Body) -> v1::Record {
    v1::Record {
        sequence,
        body: Some(body),
    }
}

pub fn batch(epoch: u64, records: Vec<v1::Record>) -> v1::Batch {
    v1::Batch { epoch, records }
}

pub fn beat(epoch: u64) -> v1::Heartbeat {
    v1::Heartbeat {
        epoch,
        version: "0.1.0".into(),
        containers: 3,
        ..v1::Heartbeat::default()
    }
}

/// Submits and gives the confirmed sequence.
pub async fn submit(client: &mut CollectorClient<Channel>, batch: v1::Batch) -> u64 {
    client.submit(batch).await.unwrap().into_inner().sequence
}

/// How often each transition is in a finding's history.
pub fn transitions(whole: &Value) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for step in whole["transitions"].as_array().unwrap() {
        *counts
            .entry(step["transition"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    counts
}

/// A certificate that ended an hour ago.
pub fn expired(site: &Site) -> TlsFiles {
    let long_ago = Timestamp::now() - 49.hours();
    ca::node(&site.ca(), "late", &site.ca(), 1, long_ago).unwrap();
    site.node("late")
}
