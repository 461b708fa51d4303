//! The agent: is what runs on this node, byte for byte, what was signed?
//!
//! ```text
//!  containerd events ─┐
//!  list of tasks ─────┼─▶ reconcile ──▶ inspect one container ──▶ ledger ─┬─▶ sink   ─▶ JSON lines
//!  timer ─────────────┘   (main loop)    identify, digests,     (places    └─▶ uplink ─▶ collector
//!                                        signature, files,       + spool)
//!                                        layers
//! ```
//! One event's way: `runtime/events.rs` → `reconcile.rs` → `inspect.rs` → `report/ledger.rs` → `report/uplink.rs`.
//! One check's way: `inspect.rs` names the five steps; files are compared in `inspect/content.rs` with the trees of
//! `files/tables.rs` by the scans of `files/upper.rs` and `files/lower.rs`; what a difference means is decided in `core`.
//!
//! Four invariants:
//! 1. A check that could not be done is a finding, never silence and never a pass.
//! 2. After any gap in events everything is listed again; events only make it faster.
//! 3. Nothing that a container can influence is read without a limit, followed out of its root, or logged
//!    without a rate limit.
//! 4. A finding is forgotten only when the collector has confirmed it, or when a counter says that it was dropped.
//!
//! Long because this is the one place that joins the parts, each in a function of its own.

pub mod cli;
pub mod config;
pub mod files;
pub mod inspect;
pub mod link;
pub mod local;
pub mod node;
pub mod publish;
pub mod reconcile;
pub mod relay;
pub mod report;
pub mod runtime;
pub mod sources;
pub mod state;
pub mod telemetry;
pub mod trust;
pub mod worker;

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_core::container::ContainerKey;
use holdfast_core::layer::FileTable;
use holdfast_daemon::address::PeerName;
use holdfast_daemon::admin::{self, Admin};
use holdfast_daemon::readiness::Readiness;
use holdfast_daemon::shutdown::{Stop, Supervisor, SupervisorError, stopped};
use holdfast_daemon::tls::Reloading;
use holdfast_registry::{Allowance, Client};
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use crate::config::Config;
use crate::files::budget::Limits;
use crate::files::fetch::Fetcher;
use crate::files::fetches::Fetches;
use crate::files::history::History;
use crate::files::keep::Keep;
use crate::files::last_run::{self, Run};
use crate::files::pressure;
use crate::files::reading::Source;
use crate::files::tables::{Counts, Tables};
use crate::inspect::scrub::{Scrub, Scrubbed, Settings};
use crate::inspect::{Content, Lowers, Shared};
use crate::link::{AddressError, CollectorAddress, TlsSource};
use crate::node::NodeError;
use crate::publish::{FindingsFile, Publisher, Reporting};
use crate::reconcile::{Parts, Reconcile};
use crate::relay::Relay;
use crate::report::{
    Bounds, Consumers, Ledger, LedgerError, Pace, Sink, Uplink, UplinkState, Vitals,
};
use crate::runtime::containerd::Timing;
use crate::sources::{EVENT_QUEUE, Sources, Wanted};
use crate::telemetry::Metrics;
use crate::trust::{Trust, TrustError};
use crate::worker::Workers;

/// Layers that wait for the scrub, and what it has said; more wait where they are.
const LAYER_QUEUE: usize = 256;

/// How long the ledger may take to write its last commit and close.
const CLOSING: Duration = Duration::from_secs(10);

/// Why the agent does not start, or has ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A policy is refused.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The node has no name, or another one than its certificate.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The collector cannot be dialled.
    #[error("report.collector.address: {0}")]
    Collector(#[from] AddressError),
    /// The state folder cannot be used.
    #[error("state folder {0}: {1}")]
    State(PathBuf, #[source] std::io::Error),
    /// The ledger cannot be used.
    #[error("ledger: {0}")]
    Ledger(#[from] LedgerError),
    /// The admin endpoint cannot be bound.
    #[error("admin endpoint: {0}")]
    Admin(#[from] admin::BindError),
    /// A task has ended.
    #[error(transparent)]
    Task(#[from] SupervisorError),
}

/// Watches this node until stopped.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let node = node::name(&config)?;
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let [containerd, inventory] = reconcile::CONDITIONS;
    let [ledger, sink] = publish::CONDITIONS;
    let readiness = Readiness::new(&[containerd, inventory, ledger, sink]);
    let mut supervisor = Supervisor::new();
    let admin = Admin::bind(config.admin.listen.address()).await?;
    tracing::info!(address = %admin.address(), node = %node, "Agent starts.");

    let client = trust::client(&config)?;
    let tables = Arc::new(tables(&config, &metrics)?);
    let (shared, this_run) = shared(&config, node, metrics.clone(), (&client, &tables))?;
    let shared = Arc::new(shared);
    if config.content.registry {
        start_fetching(&config, &shared, client, &mut supervisor);
    }
    let (ledger, writer) = open_ledger(&config)?;
    let (reporting, channel) = start_reporting(&config, &ledger, &metrics, &mut supervisor)?;
    if let Some(channel) = channel {
        let (relay, asks) = Relay::new(channel, tables, metrics, relay::Pace::default());
        shared.content.ask_with(asks);
        supervisor.spawn("relay", relay.run(supervisor.stop()));
    }
    let known = ledger.known().await.unwrap_or_else(|error| {
        // A full disk, say. What was known counts as first sight; what runs is watched all the same.
        tracing::error!(%error, "What was known of the containers cannot be read.");
        Vec::new()
    });
    let remembered = known
        .into_iter()
        .filter_map(|known| Some((known.about.container.key(), known.identity?)));
    let watching = Watching {
        ledger: ledger.clone(),
        readiness: readiness.clone(),
        remembered: remembered.collect(),
    };
    start_watching(&config, &shared, watching, &mut supervisor);

    let stop = supervisor.stop();
    supervisor.spawn("policies", Arc::clone(&shared).watch_policies(stop.clone()));
    let publisher = Publisher {
        ledger: ledger.clone(),
        shared: Arc::clone(&shared),
        readiness: readiness.clone(),
        reporting,
    };
    supervisor.spawn("vitals", publisher.run(stop.clone()));
    supervisor.spawn(
        "admin",
        admin.serve(admin::router(registry, readiness), stop),
    );
    drop(ledger);
    let ended = supervisor.run().await;
    close(writer).await;
    ended?;
    // Only now: a node that goes down before was not stopped in order.
    write_stop(&this_run);
    Ok(())
}

fn write_stop(this_run: &Run) {
    if let Err(error) = this_run.stop() {
        tracing::warn!(%error, "The orderly stop could not be written down.");
    }
}

/// The writer ends when the last handle is gone; then the file is closed cleanly. A disk that hangs holds
/// it: the file survives that as it survives a crash.
async fn close(writer: JoinHandle<()>) {
    let joined = tokio::task::spawn_blocking(move || writer.join());
    if tokio::time::timeout(CLOSING, joined).await.is_err() {
        tracing::error!("The ledger did not close in time.");
    }
}

/// Places and spool, with the thread that writes them.
fn open_ledger(config: &Config) -> Result<(Ledger, JoinHandle<()>), LedgerError> {
    let consumers = Consumers {
        collector: config.report.collector.is_some(),
        sink: config.report.file.is_some(),
    };
    let bounds = Bounds {
        spool_bytes: config.report.spool_bytes.get(),
    };
    let (ledger, opened) = Ledger::open(&config.state.directory, bounds, consumers)?;
    if let Some(damaged) = &opened.set_aside {
        tracing::error!(file = %damaged.display(), "The ledger was damaged and is set aside.");
    }
    Ok((ledger, opened.writer))
}

/// What the looks need, whoever asks for them.
fn shared(
    config: &Config,
    node: String,
    metrics: Metrics,
    (client, tables): (&Client, &Arc<Tables>),
) -> Result<(Shared, Run), AgentError> {
    let state = &config.state.directory;
    let failed = |error| AgentError::State(state.clone(), error);
    let this_run = begin(state);
    let lowers = Arc::new(Lowers::new(History::open(state, &this_run)));
    let workers = Workers::new(metrics.stuck_workers.clone());
    let shared = Shared {
        node,
        content: Arc::new(Content::new(Arc::clone(tables), workers.clone(), lowers)),
        workers,
        keep: Keep::new(state).map_err(failed)?,
        trust: Trust::load(&config.trust, client)?,
        metrics,
        expected_namespaces: config.containerd.expected_namespaces.clone(),
        deadline: config.scan.look_deadline.get(),
    };
    Ok((shared, this_run))
}

/// From now on the agent counts as running, unless that cannot be written: a full disk must not stop it.
fn begin(state: &Path) -> Run {
    let boot_id = last_run::boot_id();
    Run::begin(state, &boot_id).unwrap_or_else(|error| {
        tracing::warn!(%error, "The start could not be written down.");
        Run::look(state, &boot_id)
    })
}

/// What layers are compared with, in the agent's own folder.
fn tables(config: &Config, metrics: &Metrics) -> Result<Tables, AgentError> {
    let state = &config.state.directory;
    let tables = make_private(state).and_then(|()| Tables::new(state, None));
    let tables = tables.map_err(|error| AgentError::State(state.clone(), error))?;
    let counts = Counts {
        built: metrics.tables_built.clone(),
        damaged: metrics.tables_damaged.clone(),
        forgotten: metrics.tables_forgotten.clone(),
        bytes: metrics.table_bytes.clone(),
    };
    Ok(tables
        .with_skeletons(config.state.skeletons.as_deref())
        .within(config.state.table_bytes.get(), counts))
}

fn make_private(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

/// Layers whose blobs are not on the node come from their registries.
fn start_fetching(
    config: &Config,
    shared: &Arc<Shared>,
    client: Client,
    supervisor: &mut Supervisor,
) {
    let allowance = Allowance::new(config.content.registry_bytes_per_hour);
    let fetcher = Fetcher::new(client, allowance, Handle::current());
    let content = Arc::clone(&shared.content);
    let keep = Arc::new(move |table: &FileTable| content.keep_fetched(table));
    let (list, worker) = Fetches::new(fetcher, keep);
    shared.content.fetch_with(list);
    supervisor.spawn("fetches", worker.run(supervisor.stop()));
}

/// Sink and uplink. Gives what both say of themselves, where the uplink's vital signs are put, and the
/// connection to the collector.
fn start_reporting(
    config: &Config,
    ledger: &Ledger,
    metrics: &Metrics,
    supervisor: &mut Supervisor,
) -> Result<(Reporting, Option<Channel>), AgentError> {
    let stop = supervisor.stop();
    let file = config.report.file.as_ref().map(|path| {
        let (sink, state) = Sink::new(ledger.clone(), path.clone());
        supervisor.spawn("sink", sink.run(stop.clone()));
        FindingsFile {
            path: path.clone(),
            state,
        }
    });
    let (vitals, seen) = watch::channel(Vitals::default());
    let mut connection = None;
    if let Some(collector) = &config.report.collector {
        let server_name = collector.server_name.as_ref().map(PeerName::as_str);
        let address = CollectorAddress::new(collector.address.as_str(), server_name)?;
        let files = node::tls_files(collector);
        let (tls, watch) = Reloading::client(files.clone())
            .map_err(|source| NodeError::of_files(&files, source))?;
        supervisor.spawn("certificates", watch.run(stop.clone()));
        let source: TlsSource = Arc::new(move || tls.current());
        let channel = link::channel(&address, source)?;
        connection = Some(channel.clone());
        let pace = Pace {
            heartbeat: config.report.heartbeat.get(),
            ..Pace::default()
        };
        let (uplink, state) = Uplink::new(ledger.clone(), channel, seen, pace, now);
        supervisor.spawn("uplink", uplink.run(stop.clone()));
        supervisor.spawn(
            "uplink-metrics",
            publish_uplink(state, metrics.clone(), stop),
        );
    }
    Ok((Reporting { file, vitals }, connection))
}

/// What the main loop needs besides configuration and looks.
struct Watching {
    ledger: Ledger,
    readiness: Readiness,
    remembered: HashMap<ContainerKey, Vec<u8>>,
}

/// The runtimes' event streams and the main loop.
fn start_watching(
    config: &Config,
    shared: &Arc<Shared>,
    watching: Watching,
    supervisor: &mut Supervisor,
) {
    let timing = Timing {
        deadline: config.containerd.call_deadline.get(),
        ..Timing::default()
    };
    let (events_in, events) = mpsc::channel(EVENT_QUEUE);
    let (runtimes_in, runtimes) = mpsc::channel(1);
    let sources = Sources::new(Arc::clone(shared), timing, events_in);
    let wanted = Wanted::new(&config.containerd.sockets, PathBuf::from("/"));
    supervisor.spawn(
        "sources",
        sources.run(wanted, runtimes_in, supervisor.stop()),
    );
    let (due_in, due) = mpsc::channel(LAYER_QUEUE);
    let (scrubbed_in, scrubbed) = mpsc::channel(LAYER_QUEUE);
    let scrub = scrub(config, shared, scrubbed_in);
    supervisor.spawn("scrub", scrub.run(due, supervisor.stop()));
    let parts = Parts {
        due: due_in,
        shared: Arc::clone(shared),
        ledger: watching.ledger,
        readiness: watching.readiness,
        scan: config.scan.clone(),
        full_report_interval: config.report.full_report_interval.get(),
        remembered: watching.remembered,
    };
    let reconcile = Reconcile::new(parts);
    supervisor.spawn(
        "reconcile",
        forever(reconcile.run(runtimes, events, scrubbed, supervisor.stop())),
    );
}

/// Who reads the unpacked layers again and again.
fn scrub(config: &Config, shared: &Shared, said: mpsc::Sender<Scrubbed>) -> Scrub {
    let scan = &config.scan;
    let source = if scan.scrub_direct {
        Source::Disk
    } else {
        Source::CacheGivenBack
    };
    let settings = Settings {
        interval: scan.lower_interval.get(),
        limits: Limits {
            bytes: scan.scrub_bytes_per_second.get(),
            cpu: scan.scrub_cpu_percent.get(),
        },
        source,
        pressure: PathBuf::from(pressure::FOLDER),
    };
    let layers = (shared.content.lowers(), shared.workers.clone());
    Scrub::new(layers, shared.metrics.clone(), settings, said)
}

async fn forever(task: impl Future<Output = ()>) -> Result<(), Infallible> {
    task.await;
    Ok(())
}

async fn publish_uplink(
    mut state: watch::Receiver<UplinkState>,
    metrics: Metrics,
    mut stop: Stop,
) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return Ok(()),
            changed = state.changed() => if changed.is_err() { return Ok(()) },
        }
        if let Some(confirmed) = state.borrow_and_update().last_confirmed {
            metrics
                .last_confirmed
                .set(confirmed.as_duration().as_secs_f64());
        }
    }
}

/// The clock, as documents carry it.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge of the program; everything below gets the time handed in"
)]
pub fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let millis = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}
