//! Every metric of the collector, once. Labels come from closed sets; a name, path or id never gets here.

mod labels;
mod log_limit;

use holdfast_core::finding::{Kind, Severity};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

pub use self::labels::{
    AlertState, Delivery, Dropped, Handshake, NodeState, Read, Receiver, Refused, Reload,
};
pub use self::log_limit::LogLimit;

/// Labels: names and values are both ours.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Records that were stored.
    pub records_stored: Counter,
    /// Transitions that were stored.
    pub findings_received: Counter,
    /// Records that we had already.
    pub records_repeated: Counter,
    findings_refused: Family<Labels<1>, Counter>,
    findings_open: Family<Labels<2>, Gauge>,
    /// Places that a full report names and we do not know.
    pub unknown_places: Counter,
    /// Two spools of one node that report in turn.
    pub epoch_conflicts: Counter,
    nodes: Family<Labels<1>, Gauge>,
    alerts: Family<Labels<2>, Gauge>,
    deliveries: Family<Labels<2>, Counter>,
    /// Seconds from the arrival of a batch to its commit.
    pub ingest_duration: Histogram,
    /// Transactions that were made durable.
    pub commits: Counter,
    /// Transactions that failed.
    pub store_errors: Counter,
    /// Bytes of the store.
    pub store_bytes: Gauge,
    /// Damaged stores that were set aside.
    pub store_set_aside: Counter,
    /// When a transaction was last made durable.
    pub last_commit: Gauge,
    /// Connections of agents.
    pub connections: Gauge,
    handshakes: Family<Labels<1>, Counter>,
    tls_reloads: Family<Labels<1>, Gauge>,
    /// Until when our certificate is valid.
    pub certificate_expiry: Gauge,
    skeletons: Gauge,
    skeleton_bytes: Gauge,
    /// Skeletons that nodes gave.
    pub skeletons_received: Counter,
    skeletons_dropped: Family<Labels<1>, Counter>,
    registry_reads: Family<Labels<1>, Counter>,
    /// Layers on whose tables nodes disagree.
    pub table_disagreements: Gauge,
}

/// How many skeletons are kept.
#[derive(Clone, Copy, Debug)]
pub struct Skeletons {
    /// Files.
    pub files: i64,
    /// Bytes.
    pub bytes: i64,
}

impl Metrics {
    /// All metrics at zero, and the registry that shows them.
    pub fn new() -> (Self, Registry) {
        let metrics = Self {
            records_stored: Counter::default(),
            findings_received: Counter::default(),
            records_repeated: Counter::default(),
            findings_refused: Family::default(),
            findings_open: Family::default(),
            unknown_places: Counter::default(),
            epoch_conflicts: Counter::default(),
            nodes: Family::default(),
            alerts: Family::default(),
            deliveries: Family::default(),
            // 1 ms to 16 s: from one commit of a quiet store to a disk that hangs.
            ingest_duration: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            commits: Counter::default(),
            store_errors: Counter::default(),
            store_bytes: Gauge::default(),
            store_set_aside: Counter::default(),
            last_commit: Gauge::default(),
            connections: Gauge::default(),
            handshakes: Family::default(),
            tls_reloads: Family::default(),
            certificate_expiry: Gauge::default(),
            skeletons: Gauge::default(),
            skeleton_bytes: Gauge::default(),
            skeletons_received: Counter::default(),
            skeletons_dropped: Family::default(),
            registry_reads: Family::default(),
            table_disagreements: Gauge::default(),
        };
        metrics.touch();
        let mut registry = Registry::with_prefix("holdfast_collector");
        metrics.register_ingest(&mut registry);
        metrics.register_fleet(&mut registry);
        metrics.register_store(&mut registry);
        metrics.register_relay(&mut registry);
        (metrics, registry)
    }

    /// Every known label value exists from the start: a rule over a counter that appears with its first
    /// increment never fires for that one.
    fn touch(&self) {
        for reason in Refused::ALL {
            self.refused(*reason, 0);
        }
        self.set_open_findings(&[]);
        for state in NodeState::ALL {
            self.nodes(*state, 0);
        }
        for severity in Severity::ALL {
            for state in AlertState::ALL {
                self.alerts(severity, *state, 0);
            }
        }
        for receiver in Receiver::ALL {
            for outcome in Delivery::ALL {
                self.delivered(*receiver, *outcome, 0);
            }
        }
        for outcome in Handshake::ALL {
            self.handshake(*outcome, 0);
        }
        for outcome in Reload::ALL {
            self.reloads(*outcome, 0);
        }
        for reason in Dropped::ALL {
            let labels = [("reason", reason.as_str())];
            self.skeletons_dropped.get_or_create(&labels).inc_by(0);
        }
        for outcome in Read::ALL {
            let labels = [("outcome", outcome.as_str())];
            self.registry_reads.get_or_create(&labels).inc_by(0);
        }
    }

    fn register_ingest(&self, registry: &mut Registry) {
        let build = Info::new([
            ("version", env!("CARGO_PKG_VERSION")),
            (
                "revision",
                option_env!("HOLDFAST_REVISION").unwrap_or("unknown"),
            ),
        ]);
        registry.register("build", "Version and revision of the collector", build);
        registry.register(
            "records_stored",
            "Records of agents that were stored",
            self.records_stored.clone(),
        );
        registry.register(
            "findings_received",
            "Transitions of findings that were stored",
            self.findings_received.clone(),
        );
        registry.register(
            "records_repeated",
            "Records that were stored already, sent again after a lost confirmation",
            self.records_repeated.clone(),
        );
        registry.register(
            "findings_refused",
            "Records that were refused, by reason",
            self.findings_refused.clone(),
        );
        registry.register(
            "ingest_duration_seconds",
            "Seconds from the arrival of a batch to its commit",
            self.ingest_duration.clone(),
        );
        registry.register(
            "connections",
            "Connections of agents",
            self.connections.clone(),
        );
        registry.register(
            "handshakes",
            "Beginnings of connections, by outcome",
            self.handshakes.clone(),
        );
        registry.register(
            "tls_reloads",
            "Replacements of TLS files since the start, by outcome",
            self.tls_reloads.clone(),
        );
        registry.register(
            "certificate_expiry_timestamp_seconds",
            "Until when the certificate of the collector is valid",
            self.certificate_expiry.clone(),
        );
    }

    fn register_fleet(&self, registry: &mut Registry) {
        registry.register("nodes", "Nodes by what they do", self.nodes.clone());
        registry.register(
            "unknown_places",
            "Places that a full report names and the store does not know",
            self.unknown_places.clone(),
        );
        registry.register(
            "epoch_conflicts",
            "Times when two spools of one node reported in turn",
            self.epoch_conflicts.clone(),
        );
        registry.register(
            "findings_open",
            "Findings that are open",
            self.findings_open.clone(),
        );
        registry.register(
            "alerts",
            "Alerts by severity and state",
            self.alerts.clone(),
        );
        registry.register(
            "deliveries",
            "Deliveries of alerts, by receiver and outcome",
            self.deliveries.clone(),
        );
    }

    fn register_store(&self, registry: &mut Registry) {
        registry.register(
            "commits",
            "Transactions that were made durable",
            self.commits.clone(),
        );
        registry.register(
            "store_errors",
            "Transactions that failed",
            self.store_errors.clone(),
        );
        registry.register(
            "store_bytes",
            "Bytes of the store on disk",
            self.store_bytes.clone(),
        );
        registry.register(
            "store_set_aside",
            "Damaged stores that were set aside",
            self.store_set_aside.clone(),
        );
        registry.register(
            "last_commit_timestamp_seconds",
            "When a transaction was last made durable",
            self.last_commit.clone(),
        );
    }

    fn register_relay(&self, registry: &mut Registry) {
        registry.register(
            "skeletons",
            "Skeletons that are kept for nodes without blobs",
            self.skeletons.clone(),
        );
        registry.register(
            "skeleton_bytes",
            "Their bytes on disk",
            self.skeleton_bytes.clone(),
        );
        registry.register(
            "skeletons_received",
            "Skeletons that nodes gave",
            self.skeletons_received.clone(),
        );
        registry.register(
            "skeletons_dropped",
            "Skeletons that turned out to be wrong, by reason",
            self.skeletons_dropped.clone(),
        );
        registry.register(
            "registry_reads",
            "Layers read from their registries, by outcome",
            self.registry_reads.clone(),
        );
        registry.register(
            "table_disagreements",
            "Layers on whose tables nodes disagree",
            self.table_disagreements.clone(),
        );
    }

    /// Sets how many skeletons are kept.
    pub fn skeletons(&self, kept: Skeletons) {
        self.skeletons.set(kept.files);
        self.skeleton_bytes.set(kept.bytes);
    }

    /// Counts a skeleton that turned out to be wrong.
    pub fn skeletons_dropped(&self, reason: Dropped) {
        let labels = [("reason", reason.as_str())];
        self.skeletons_dropped.get_or_create(&labels).inc();
    }

    /// Counts a layer that a registry was asked for.
    pub fn registry_read(&self, outcome: Read) {
        let labels = [("outcome", outcome.as_str())];
        self.registry_reads.get_or_create(&labels).inc();
    }

    /// Counts refused records.
    pub fn refused(&self, reason: Refused, count: u64) {
        let labels = [("reason", reason.as_str())];
        self.findings_refused.get_or_create(&labels).inc_by(count);
    }

    /// Sets how many findings of each kind and severity are open; those not given are none.
    pub fn set_open_findings(&self, counts: &[(String, Severity, i64)]) {
        for kind in Kind::ALL {
            for severity in Severity::ALL {
                let labels = [("kind", kind.as_str()), ("severity", severity.as_str())];
                let count = counts
                    .iter()
                    .find(|(of, at, _)| of == kind.as_str() && *at == severity)
                    .map_or(0, |(_, _, count)| *count);
                self.findings_open.get_or_create(&labels).set(count);
            }
        }
    }

    /// Sets how many nodes are in a state.
    pub fn nodes(&self, state: NodeState, count: i64) {
        self.nodes
            .get_or_create(&[("state", state.as_str())])
            .set(count);
    }

    /// Sets how many alerts are in a state.
    pub fn alerts(&self, severity: Severity, state: AlertState, count: i64) {
        let labels = [("severity", severity.as_str()), ("state", state.as_str())];
        self.alerts.get_or_create(&labels).set(count);
    }

    /// Counts alerts that were delivered, or not.
    pub fn delivered(&self, receiver: Receiver, outcome: Delivery, count: u64) {
        let labels = [
            ("receiver", receiver.as_str()),
            ("outcome", outcome.as_str()),
        ];
        self.deliveries.get_or_create(&labels).inc_by(count);
    }

    /// Counts beginnings of connections.
    pub fn handshake(&self, outcome: Handshake, count: u64) {
        self.handshakes
            .get_or_create(&[("outcome", outcome.as_str())])
            .inc_by(count);
    }

    /// Sets how many reloads of TLS files have ended so.
    pub fn reloads(&self, outcome: Reload, count: i64) {
        self.tls_reloads
            .get_or_create(&[("outcome", outcome.as_str())])
            .set(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_value_is_there_from_the_start() {
        let (_metrics, registry) = Metrics::new();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "holdfast_collector_findings_refused_total{reason=\"other_node\"} 0",
            "holdfast_collector_nodes{state=\"silent\"} 0",
            "holdfast_collector_alerts{severity=\"critical\",state=\"withheld\"} 0",
            "holdfast_collector_deliveries_total{receiver=\"alertmanager\",outcome=\"failed\"} 0",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
