//! The collector: takes what agents report, keeps it, and tells people.
//!
//! ```text
//! agents ──mTLS──▶ ingest ──▶ commit ──▶ findings ──▶ store ──▶ deliver ──▶ Alertmanager
//!                    │           ▲                      │
//!                    ▼           │                      └────▶ api ──▶ people, Prometheus
//!                  nodes ────────┘ silence
//! ```
//!
//! One record's way: [`ingest`] takes the node's name from the certificate and parses at the door;
//! `commit` joins what came at the same time into one transaction; [`findings`] drops repeats, moves
//! places and joins them; only after the commit the agent is confirmed, and only then it forgets.
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
pub mod store;
pub mod telemetry;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::finding::Kind;
use holdfast_daemon::admin::{self, Admin};
use holdfast_daemon::readiness::Readiness;
use holdfast_daemon::service_manager;
use holdfast_daemon::shutdown::{Stop, Supervisor, SupervisorError};
use holdfast_daemon::tls::{self, Reloading, TlsError};
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::time::Instant;

use crate::api::Api;
use crate::commit::Committer;
use crate::config::Config;
use crate::deliver::alertmanager::Sender;
use crate::ingest::{Ingest, Listener};
use crate::nodes::{Fleet, Watch};
use crate::store::{Store, StoreError, Writer};
use crate::telemetry::{Metrics, Reload};

/// How often sizes and counts are read for the metrics.
const OBSERVE: Duration = Duration::from_secs(10);

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
        Ok(Self {
            fleet: Arc::new(load_fleet(&store, &config).await?),
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
        }));
        tasks.spawn("api", self.admin.serve(routes, tasks.stop()));
        let ingest = Ingest::new(queue.clone(), Arc::clone(&self.fleet), self.metrics.clone());
        let serving = self
            .listener
            .serve(Arc::clone(&self.tls), ingest, tasks.stop());
        tasks.spawn("ingest", serving);
        let watch = Watch::new(self.fleet, queue.clone(), self.metrics.clone());
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
