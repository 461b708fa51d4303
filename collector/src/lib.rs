//! The collector: takes what agents report, keeps it, and tells people.
//!
//! ```text
//! agents ──mTLS──▶ ingest ──▶ commit ──▶ findings ──▶ store ──▶ deliver ──▶ Alertmanager
//!                    │           ▲                      │
//!                    ▼           │                      └────▶ api ──▶ people, Prometheus
//!                  nodes ────────┘ silence, disagreement
//! ```
//!
//! One record's way: [`ingest`] takes the node's name from the certificate and parses at the door;
//! `commit` joins what came at the same time into one transaction; [`findings`] drops repeats, moves
//! places and joins them; only after the commit the agent is confirmed, and only then it forgets.
//!
//! Beside that, over the same connections, `relay` hands on what stands in for layer blobs.
//!
//! This file joins the parts and decides nothing.

pub mod api;
pub mod ca;
pub mod commit;
pub mod config;
pub mod deliver;
pub mod findings;
pub mod ingest;
pub mod nodes;
pub mod relay;
pub mod store;
pub mod telemetry;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::finding::{Detail, Finding, Kind};
use holdfast_daemon::admin::{self, Admin};
use holdfast_daemon::readiness::Readiness;
use holdfast_daemon::service_manager;
use holdfast_daemon::shutdown::{Stop, Supervisor, SupervisorError};
use holdfast_daemon::tls::{self, Reloading, TlsError};
use holdfast_registry::{Allowance, Client, Reading, SetupError};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::api::Api;
use crate::commit::Committer;
use crate::config::Config;
use crate::deliver::alertmanager::Sender;
use crate::ingest::{Ingest, Listener};
use crate::nodes::{Fleet, Tables, Watch};
use crate::relay::{Origin, OriginTask, Relay};
use crate::store::{FindingFilter, Store, StoreError, Writer};
use crate::telemetry::{Metrics, Reload};

/// How often sizes and counts are read for the metrics.
const OBSERVE: Duration = Duration::from_secs(10);

/// Disagreements that are taken up after a restart; with more, something else is wrong.
const MAX_DISAGREEMENTS: i64 = 1000;

/// Why the collector did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates are not usable.
    #[error("{key}: {source}")]
    Tls {
        /// The key of the configuration that is to blame.
        key: &'static str,
        /// What is wrong.
        source: TlsError,
    },
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address for agents could not be bound.
    #[error("grpc: {0}")]
    Grpc(#[from] ingest::BindError),
    /// The address for people could not be bound.
    #[error("api: {0}")]
    Api(#[from] admin::BindError),
    /// The HTTP client could not be made.
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// Registries cannot be asked.
    #[error("registry: {0}")]
    Registry(#[from] SetupError),
    /// The folder of relayed files cannot be used.
    #[error("{}: {source}", path.display())]
    Relay {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A collector that has started.
#[derive(Debug)]
pub struct Collector {
    supervisor: Supervisor,
    store: Store,
    grpc: SocketAddr,
    api: SocketAddr,
}

impl Collector {
    /// Opens the store, binds the addresses and starts every task.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let collector = Parts::open(config).await?.spawn();
        let (grpc, api) = (collector.grpc, collector.api);
        tracing::info!(%grpc, %api, "Collector started.");
        service_manager::ready(&format!("agents at {grpc}, API at {api}"));
        Ok(collector)
    }

    /// Where agents report.
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where people and Prometheus ask.
    pub const fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// Runs until a signal, or until a task ends.
    pub async fn run(self) -> Result<(), SupervisorError> {
        let ended = self.supervisor.run().await;
        self.store.close().await;
        ended
    }

    /// Runs until `asked` is done, or until a task ends.
    pub async fn run_until(self, asked: impl Future<Output = ()>) -> Result<(), SupervisorError> {
        let ended = self.supervisor.run_until(asked).await;
        self.store.close().await;
        ended
    }
}

/// Everything that can fail has been opened; nothing runs yet.
struct Parts {
    config: Config,
    metrics: Metrics,
    registry: Registry,
    tls: Arc<Reloading<ServerConfig>>,
    tls_watch: tls::Watch<ServerConfig>,
    store: Store,
    writer: Writer,
    fleet: Arc<Fleet>,
    tables: Arc<Tables>,
    relay: Relay,
    origin: Option<OriginTask>,
    senders: Vec<Sender>,
    listener: Listener,
    admin: Admin,
}

impl Parts {
    async fn open(config: Config) -> Result<Self, StartError> {
        let (metrics, registry) = Metrics::new();
        let tls = Reloading::server(config.tls.files()).map_err(|source| StartError::Tls {
            key: config.tls.blamed(&source),
            source,
        });
        let (tls, tls_watch) = tls?;
        let opened = Store::open(&config.store.path).await?;
        if let Some(set_aside) = &opened.set_aside {
            tracing::error!(path = %set_aside.display(), "Damaged store was set aside.");
            metrics.store_set_aside.inc();
        }
        let store = opened.store;
        let (relay, origin) = open_relay(&config, &metrics)?;
        Ok(Self {
            fleet: Arc::new(load_fleet(&store, &config).await?),
            tables: Arc::new(load_tables(&store).await?),
            relay,
            origin,
            senders: Sender::all(&config.alertmanager, &store, &metrics)?,
            listener: Listener::bind(config.grpc.listen.address()).await?,
            admin: Admin::bind(config.api.listen.address()).await?,
            config,
            metrics,
            registry,
            tls,
            tls_watch,
            store,
            writer: opened.writer,
        })
    }

    fn spawn(self) -> Collector {
        let mut tasks = Supervisor::new();
        let (grpc, api) = (self.listener.address(), self.admin.address());
        let readiness = Readiness::new(&[commit::CONDITION]);
        let (committer, queue, commits) =
            Committer::new(self.writer, self.metrics.clone(), readiness.clone());
        tasks.spawn("commit", committer.run(tasks.stop()));
        tasks.spawn("tls", self.tls_watch.run(tasks.stop()));
        for sender in self.senders {
            tasks.spawn("alertmanager", sender.run(commits.clone(), tasks.stop()));
        }
        let routes = admin::router(self.registry, readiness).merge(api::router(Api {
            store: self.store.clone(),
            fleet: Arc::clone(&self.fleet),
            relay: self.relay.clone(),
        }));
        tasks.spawn("api", self.admin.serve(routes, tasks.stop()));
        let nodes = (Arc::clone(&self.fleet), Arc::clone(&self.tables));
        let ingest = Ingest::new(
            queue.clone(),
            nodes,
            self.relay.clone(),
            self.metrics.clone(),
        );
        if let Some(origin) = self.origin {
            tasks.spawn("origin", origin.run(self.relay, tasks.stop()));
        }
        let serving = self
            .listener
            .serve(Arc::clone(&self.tls), ingest, tasks.stop());
        tasks.spawn("ingest", serving);
        let watch = Watch::new(self.fleet, self.tables, queue.clone(), self.metrics.clone());
        tasks.spawn("nodes", watch.run(tasks.stop()));
        tasks.spawn(
            "sweep",
            commit::sweep(queue, self.config.store.kept(), tasks.stop()),
        );
        tasks.spawn(
            "observe",
            observe(self.store.clone(), self.tls, self.metrics, tasks.stop()),
        );
        Collector {
            supervisor: tasks,
            store: self.store,
            grpc,
            api,
        }
    }
}

async fn load_fleet(store: &Store, config: &Config) -> Result<Fleet, StoreError> {
    Ok(Fleet::new(
        store.nodes().await?,
        store.epochs().await?,
        &store.silent_nodes(Kind::AgentSilent.as_str()).await?,
        config.nodes.silent_after(),
        Instant::now(),
    ))
}

/// Relayed files are kept beside the store; layers are read from registries where that is configured.
fn open_relay(
    config: &Config,
    metrics: &Metrics,
) -> Result<(Relay, Option<OriginTask>), StartError> {
    let allowed = config.registry.allowed();
    let (origin, task) = if allowed.is_empty() {
        (None, None)
    } else {
        let client = Client::new(config.registry.access())?;
        let allowance = Allowance::new(config.registry.bytes_per_hour);
        let reading = Reading::new(client, allowance, Handle::current());
        let (origin, task) = Origin::new(reading, allowed);
        (Some(origin), Some(task))
    };
    let path = config.store.path.with_file_name("relay");
    match Relay::open(&path, origin, metrics.clone()) {
        Ok(relay) => Ok((relay, task)),
        Err(source) => Err(StartError::Relay { path, source }),
    }
}

/// What nodes said of tables where they disagreed: the others say it again within the hour.
async fn load_tables(store: &Store) -> Result<Tables, StoreError> {
    let tables = Tables::default();
    let filter = FindingFilter {
        is_open: Some(true),
        kinds: vec![Kind::AgentAltered.as_str().to_owned()],
        limit: MAX_DISAGREEMENTS,
        ..FindingFilter::default()
    };
    for view in store.findings(&filter).await? {
        let fingerprint = view.finding.fingerprint;
        for place in store.places(fingerprint, MAX_DISAGREEMENTS).await? {
            let document = store.document(&place).await?.unwrap_or_default();
            if place.resolved.is_none()
                && let Ok(finding) = Finding::parse(document.as_bytes())
                && let Detail::AgentAltered(altered) = &finding.detail
            {
                tables.was_open(&finding.node, altered, Instant::now());
            }
        }
    }
    Ok(tables)
}

/// Reads what no event tells.
async fn observe(
    store: Store,
    tls: Arc<Reloading<ServerConfig>>,
    metrics: Metrics,
    mut stop: Stop,
) -> Result<(), Infallible> {
    let mut tick = tokio::time::interval(OBSERVE);
    loop {
        tokio::select! {
            biased;
            _ = stop.changed() => return Ok(()),
            _ = tick.tick() => {}
        }
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.store_bytes.set(gauge(store.bytes()));
        let reloads = tls.reloads();
        metrics.reloads(Reload::Succeeded, gauge(reloads.succeeded()));
        metrics.reloads(Reload::Failed, gauge(reloads.failed()));
        metrics.certificate_expiry.set(gauge(reloads.not_after()));
        // The writer says when the store is ill; a reader that fails leaves the last counts.
        if let Ok(counts) = store.open_counts().await {
            metrics.set_open_findings(&counts);
        }
    }
}
