//! Keeps what heartbeats, `/metrics`, `/readyz` and the service manager say current. It reads what the parts say
//! of themselves, and changes nothing.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_daemon::readiness::Readiness;
use holdfast_daemon::service_manager;
use holdfast_daemon::shutdown::{Stop, stopped};
use jiff::SignedDuration;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use crate::inspect::Shared;
use crate::report::{Ledger, SinkState, Vitals};

/// How often the numbers are brought up to date.
const EVERY: Duration = Duration::from_secs(1);

/// Who is told of an exception that expires within this time can still renew it, or repair what it excuses.
const SOON: SignedDuration = SignedDuration::from_hours(7 * 24);

const LEDGER: &str = "ledger";
const FILE: &str = "findings-file";

/// Readiness: what is found is recorded, and written where somebody asked for it.
pub const CONDITIONS: [&str; 2] = [LEDGER, FILE];

/// Where findings go.
#[derive(Debug)]
pub struct Reporting {
    /// The file sink, where there is one.
    pub file: Option<FindingsFile>,
    /// What the next heartbeat says.
    pub vitals: watch::Sender<Vitals>,
}

/// The file sink.
#[derive(Debug)]
pub struct FindingsFile {
    /// Where it writes.
    pub path: PathBuf,
    /// Whether it can.
    pub state: watch::Receiver<SinkState>,
}

/// Publishes every second.
#[derive(Debug)]
pub struct Publisher {
    /// Places and spool.
    pub ledger: Ledger,
    /// The metrics, and the policies.
    pub shared: Arc<Shared>,
    /// Whether the agent does its work.
    pub readiness: Readiness,
    /// Where findings go.
    pub reporting: Reporting,
}

impl Publisher {
    /// Publishes until `stop` turns true.
    pub async fn run(self, mut stop: Stop) -> Result<(), Infallible> {
        let mut tick = tokio::time::interval(EVERY);
        let mut is_announced = false;
        loop {
            tokio::select! {
                () = stopped(&mut stop) => return Ok(()),
                _ = tick.tick() => self.publish(&mut is_announced),
            }
        }
    }

    fn publish(&self, is_announced: &mut bool) {
        self.publish_ledger();
        self.publish_file();
        let metrics = &self.shared.metrics;
        let is_refused = self.shared.trust.is_refused();
        metrics.policies_refused.set(is_refused.into());
        let policies = self.shared.trust.policies();
        metrics.policies(policies.set.len(), policies.drift.len());
        let expiring = policies.drift.expiring(crate::now(), SOON);
        metrics
            .exceptions_expiring
            .set(i64::try_from(expiring).unwrap_or(i64::MAX));
        let not_ready = self.readiness.reasons().join("; ");
        metrics.ready.set(not_ready.is_empty().into());
        let containers = metrics.containers.get();
        let sentence = if not_ready.is_empty() {
            format!("watching {containers} containers")
        } else {
            format!("not ready: {not_ready}")
        };
        if not_ready.is_empty() && !*is_announced {
            *is_announced = true;
            service_manager::ready(&sentence);
            tracing::info!(containers, "Agent is ready.");
        }
        let vitals = Vitals {
            containers: u32::try_from(containers).unwrap_or(u32::MAX),
            not_ready,
        };
        self.reporting.vitals.send_if_modified(|before| {
            let is_new = *before != vitals;
            if is_new {
                service_manager::status(&sentence);
                *before = vitals;
            }
            is_new
        });
    }
    fn publish_ledger(&self) {
        let stats = self.ledger.stats();
        let stats = stats.borrow();
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let metrics = &self.shared.metrics;
        metrics.spool_records.set(gauge(stats.records));
        metrics.spool_bytes.set(gauge(stats.bytes));
        metrics.spool_dropped.set(gauge(stats.dropped));
        raise(&metrics.ledger_failures, stats.failures);
        let records = stats.error.map_or(Ok(()), |error| {
            Err(format!("findings are not recorded: {error}"))
        });
        self.readiness.set(LEDGER, records);
    }

    fn publish_file(&self) {
        let Some(FindingsFile { path, state }) = &self.reporting.file else {
            self.readiness.set(FILE, Ok(()));
            return;
        };
        let state = state.borrow();
        raise(&self.shared.metrics.sink_failures, state.errors);
        let writes = state
            .error
            .map_or(Ok(()), |error| Err(format!("{}: {error}", path.display())));
        self.readiness.set(FILE, writes);
    }
}

/// Brings a counter to where somebody else has counted.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}
