//! Every metric of the agent, once, and what is counted and logged in one call.
//!
//! Labels come from closed enums only: never a container, path, image or error text.
//!
//! Long because every metric is one line here, one there and one more where it is registered.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use holdfast_core::coverage::Outcome;
use holdfast_core::finding::{Check, Finding, Kind, Severity, Transition};

/// Version of the agent, as in heartbeats and `build_info`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CheckLabels {
    check: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    check: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FindingLabels {
    kind: &'static str,
    severity: &'static str,
    transition: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OpenLabels {
    kind: &'static str,
    severity: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelayLabels {
    what: &'static str,
}

/// What goes between nodes by way of the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relayed {
    /// A skeleton that was made here.
    SkeletonGiven,
    /// A skeleton of a layer whose blob is not here.
    SkeletonTaken,
    /// A file's content, for a proof that failed.
    ContentTaken,
}

impl Relayed {
    const ALL: [Self; 3] = [Self::SkeletonGiven, Self::SkeletonTaken, Self::ContentTaken];

    const fn labels(self) -> RelayLabels {
        let what = match self {
            Self::SkeletonGiven => "skeleton-given",
            Self::SkeletonTaken => "skeleton-taken",
            Self::ContentTaken => "content-taken",
        };
        RelayLabels { what }
    }
}

/// The metrics. Clones share their values.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Containers watched now.
    pub containers: Gauge,
    checks: Family<CheckLabels, Counter>,
    check_durations: Durations,
    findings: Family<FindingLabels, Counter>,
    findings_open: Family<OpenLabels, Gauge>,
    events: Family<TopicLabels, Counter>,
    /// Times when events may have been missed, so that everything was listed again.
    pub event_gaps: Counter,
    /// Lists of all containers, for whatever reason.
    pub relists: Counter,
    /// Looks at a container that were not recorded and are done again.
    pub looks_repeated: Counter,
    /// Records not confirmed by the collector yet.
    pub spool_records: Gauge,
    /// Their bytes.
    pub spool_bytes: Gauge,
    /// Records that a full or damaged spool has lost.
    pub spool_dropped: Gauge,
    /// When the collector last confirmed something.
    pub last_confirmed: Gauge<f64, AtomicU64>,
    /// When the container that has waited longest was last looked at.
    pub oldest_check: Gauge<f64, AtomicU64>,
    /// Looks left behind because a disk or a server does not answer.
    pub stuck_workers: Gauge,
    /// Tables that were built from layer blobs.
    pub tables_built: Counter,
    /// Files of tables and trees that were damaged, and made anew.
    pub tables_damaged: Counter,
    /// Layers whose tables and trees left because others needed the room.
    pub tables_forgotten: Counter,
    /// What tables and trees take on the disk.
    pub table_bytes: Gauge,
    /// Attempts to write the findings file that failed.
    pub sink_failures: Counter,
    /// Times when the ledger recorded nothing.
    pub ledger_failures: Counter,
    policies: Family<PolicyLabels, Gauge>,
    /// Exceptions of drift policies that expire soon.
    pub exceptions_expiring: Gauge,
    /// 1 while the policies on disk are refused, and the last good ones in force.
    pub policies_refused: Gauge,
    /// 1 while the agent is ready.
    pub ready: Gauge,
    /// How long the last pass over all layers took.
    pub scrub_pass_seconds: Gauge<f64, AtomicU64>,
    /// How much of the pass under way is done.
    pub scrub_progress: Gauge<f64, AtomicU64>,
    /// Bytes of layers read.
    pub scrub_read_bytes: Counter,
    /// CPU time that this took.
    pub scrub_cpu_seconds: Counter<f64, AtomicU64>,
    scrub_paused: Family<PauseLabels, Counter<f64, AtomicU64>>,
    /// Files that could not be read around the page cache.
    pub scrub_not_direct: Counter,
    /// 1 while a layer has waited longer than its interval.
    pub scrub_late: Gauge,
    /// When the layer that has waited longest was compared.
    pub oldest_layer_check: Gauge<f64, AtomicU64>,
    relayed: Family<RelayLabels, Counter>,
    /// Calls to the collector's relay that failed.
    pub relay_failures: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PauseLabels {
    reason: &'static str,
}

/// Why a scrub pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// What it may use is used.
    Budget,
    /// The node's workload waits for what it would use.
    Pressure,
}

impl Pause {
    const ALL: [Self; 2] = [Self::Budget, Self::Pressure];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Pressure => "pressure",
        }
    }
}

/// Histograms of durations; a type of its own because a histogram has no default buckets.
#[derive(Clone, Debug)]
struct Durations(Family<DurationLabels, Histogram, fn() -> Histogram>);

impl Default for Durations {
    fn default() -> Self {
        let new: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 4.0, 10));
        Self(Family::new_with_constructor(new))
    }
}

impl Metrics {
    /// All metrics, registered under `holdfast_agent_`, their label values at zero.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.start_at_zero();
        let agent = registry.sub_registry_with_prefix("holdfast_agent");
        metrics.register_checks(agent);
        metrics.register_scrub(agent);
        metrics.register_tables(agent);
        metrics.register_flow(agent);
        metrics
    }

    /// What is looked at, and what was seen.
    fn register_checks(&self, agent: &mut Registry) {
        agent.register(
            "containers",
            "Containers watched now",
            self.containers.clone(),
        );
        agent.register("checks", "Checks by outcome", self.checks.clone());
        let durations = self.check_durations.0.clone();
        agent.register("check_duration_seconds", "Time that checks took", durations);
        agent.register("findings", "Transitions of findings", self.findings.clone());
        agent.register(
            "findings_open",
            "Findings open now",
            self.findings_open.clone(),
        );
        agent.register(
            "looks_repeated",
            "Looks done again",
            self.looks_repeated.clone(),
        );
        agent.register("policies", "Policies in force", self.policies.clone());
        agent.register(
            "exceptions_expiring",
            "Exceptions of drift policies that expire within 7 days",
            self.exceptions_expiring.clone(),
        );
        agent.register(
            "policies_refused",
            "Whether the policies on disk are refused, and the last good ones in force",
            self.policies_refused.clone(),
        );
        agent.register(
            "stuck_workers",
            "Looks left behind because a disk or a server does not answer",
            self.stuck_workers.clone(),
        );
        agent.register(
            "oldest_check_timestamp_seconds",
            "When the container that has waited longest was last looked at",
            self.oldest_check.clone(),
        );
    }

    /// The unpacked layers, read again and again.
    fn register_scrub(&self, agent: &mut Registry) {
        agent.register(
            "scrub_pass_seconds",
            "Time that the last pass over all layers took",
            self.scrub_pass_seconds.clone(),
        );
        agent.register(
            "scrub_progress_ratio",
            "Share of the layers' entries that the pass under way has compared",
            self.scrub_progress.clone(),
        );
        agent.register(
            "scrub_read_bytes",
            "Bytes of layers read",
            self.scrub_read_bytes.clone(),
        );
        agent.register(
            "scrub_cpu_seconds",
            "CPU time that reading layers took",
            self.scrub_cpu_seconds.clone(),
        );
        agent.register(
            "scrub_paused_seconds",
            "Time that the scrub has waited for its budget or for the node",
            self.scrub_paused.clone(),
        );
        agent.register(
            "scrub_not_direct_files",
            "Files that could not be read around the page cache",
            self.scrub_not_direct.clone(),
        );
        agent.register(
            "scrub_late",
            "Whether a layer has waited longer than its interval",
            self.scrub_late.clone(),
        );
        agent.register(
            "oldest_layer_check_timestamp_seconds",
            "When the layer that has waited longest was compared",
            self.oldest_layer_check.clone(),
        );
    }

    /// What files are compared with.
    fn register_tables(&self, agent: &mut Registry) {
        agent.register(
            "tables_built",
            "File tables built from layer blobs",
            self.tables_built.clone(),
        );
        agent.register(
            "tables_damaged",
            "Damaged files of tables and trees, made anew",
            self.tables_damaged.clone(),
        );
        agent.register(
            "tables_forgotten",
            "Layers whose tables and trees left because others needed the room",
            self.tables_forgotten.clone(),
        );
        agent.register(
            "table_bytes",
            "Bytes of tables and trees on the disk",
            self.table_bytes.clone(),
        );
    }

    /// What comes in from containerd and goes out to the collector.
    fn register_flow(&self, agent: &mut Registry) {
        let build = Info::new([("version", VERSION), ("revision", revision())]);
        agent.register("build", "Version of the agent", build);
        agent.register("ready", "Whether the agent is ready", self.ready.clone());
        agent.register(
            "events_received",
            "Events from containerd",
            self.events.clone(),
        );
        agent.register(
            "event_gaps",
            "Times when events may be missing",
            self.event_gaps.clone(),
        );
        agent.register("rescans", "Lists of all containers", self.relists.clone());
        agent.register(
            "spool_records",
            "Records not confirmed yet",
            self.spool_records.clone(),
        );
        agent.register(
            "spool_bytes",
            "Bytes not confirmed yet",
            self.spool_bytes.clone(),
        );
        agent.register(
            "spool_dropped_records",
            "Records lost to a full or damaged spool",
            self.spool_dropped.clone(),
        );
        agent.register(
            "sink_failures",
            "Attempts to write the findings file that failed",
            self.sink_failures.clone(),
        );
        agent.register(
            "ledger_failures",
            "Attempts to record findings that failed",
            self.ledger_failures.clone(),
        );
        agent.register(
            "last_confirmed_timestamp_seconds",
            "When the collector last confirmed something",
            self.last_confirmed.clone(),
        );
        agent.register(
            "relayed",
            "Skeletons and contents given to and taken from the collector",
            self.relayed.clone(),
        );
        agent.register(
            "relay_failures",
            "Calls to the relay of the collector that failed",
            self.relay_failures.clone(),
        );
    }

    fn start_at_zero(&self) {
        for pause in Pause::ALL {
            self.scrub_paused(pause, Duration::ZERO);
        }
        for check in Check::ALL {
            for outcome in Outcome::ALL {
                drop(self.checks.get_or_create(&check_labels(check, outcome)));
            }
            // Digests are checked while identifying: they have no time of their own.
            if check != Check::Digests {
                drop(self.check_durations.0.get_or_create(&DurationLabels {
                    check: check.as_str(),
                }));
            }
        }
        for what in Relayed::ALL {
            drop(self.relayed.get_or_create(&what.labels()));
        }
        for (kind, severity) in all_kinds() {
            drop(
                self.findings_open
                    .get_or_create(&open_labels(kind, severity)),
            );
            for transition in Transition::ALL {
                let (kind, severity) = (kind.as_str(), severity.as_str());
                let transition = transition.as_str();
                drop(self.findings.get_or_create(&FindingLabels {
                    kind,
                    severity,
                    transition,
                }));
            }
        }
    }

    /// A check was done that took this long: of one container, and for layers of one layer. That of digests
    /// is part of identity's.
    pub fn check_took(&self, check: Check, took: Duration) {
        let labels = DurationLabels {
            check: check.as_str(),
        };
        self.check_durations
            .0
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// A check has ended.
    pub fn check_ended(&self, check: Check, outcome: Outcome, took: Option<Duration>) {
        self.checks
            .get_or_create(&check_labels(check, outcome))
            .inc();
        if let Some(took) = took {
            self.check_took(check, took);
        }
    }

    /// The scrub waits for this long.
    pub fn scrub_paused(&self, pause: Pause, time: Duration) {
        let reason = pause.as_str();
        let labels = PauseLabels { reason };
        self.scrub_paused
            .get_or_create(&labels)
            .inc_by(time.as_secs_f64());
    }

    /// A finding has been recorded.
    pub fn finding_recorded(&self, finding: &Finding) {
        let labels = FindingLabels {
            kind: finding.kind().as_str(),
            severity: finding.severity.as_str(),
            transition: finding.transition.as_str(),
        };
        self.findings.get_or_create(&labels).inc();
    }

    /// What is open now, by kind and severity; kinds that are not named have none.
    pub fn findings_open(&self, open: impl Fn(Kind, Severity) -> i64) {
        for (kind, severity) in all_kinds() {
            self.findings_open
                .get_or_create(&open_labels(kind, severity))
                .set(open(kind, severity));
        }
    }

    /// Something was given to or taken from the collector.
    pub fn relayed(&self, what: Relayed) {
        self.relayed.get_or_create(&what.labels()).inc();
    }

    /// How many policies are in force: about signatures, and about drift.
    pub fn policies(&self, signature: usize, drift: usize) {
        for (kind, count) in [("signature", signature), ("drift", drift)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.policies
                .get_or_create(&PolicyLabels { kind })
                .set(count);
        }
    }

    /// An event has arrived.
    pub fn event_received(&self, topic: &'static str) {
        self.events.get_or_create(&TopicLabels { topic }).inc();
    }
}

/// The metrics as the parts share them.
pub type SharedMetrics = Arc<Metrics>;

/// The commit that the agent was built from.
pub fn revision() -> &'static str {
    option_env!("HOLDFAST_REVISION").unwrap_or("unknown")
}

fn all_kinds() -> impl Iterator<Item = (Kind, Severity)> {
    let kinds = Kind::ALL.iter().copied();
    kinds.flat_map(|kind| {
        Severity::ALL
            .into_iter()
            .map(move |severity| (kind, severity))
    })
}

const fn check_labels(check: Check, outcome: Outcome) -> CheckLabels {
    CheckLabels {
        check: check.as_str(),
        outcome: outcome.as_str(),
    }
}

const fn open_labels(kind: Kind, severity: Severity) -> OpenLabels {
    OpenLabels {
        kind: kind.as_str(),
        severity: severity.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn a_check_has_a_duration_only_where_it_was_timed() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.check_took(Check::Layers, Duration::from_secs(2));
        metrics.check_ended(Check::Layers, Outcome::Clean, None);
        metrics.check_ended(Check::Digests, Outcome::Clean, None);

        let mut encoded = String::new();
        text::encode(&mut encoded, &registry).unwrap();
        let count = |check: &str| {
            let name = "holdfast_agent_check_duration_seconds_count";
            let start = format!("{name}{{check=\"{check}\"}} ");
            let line = encoded.lines().find_map(|line| line.strip_prefix(&start));
            line.map(str::to_owned)
        };
        assert_eq!(count("layers").as_deref(), Some("1"));
        assert_eq!(count("files").as_deref(), Some("0"));
        assert_eq!(count("digests"), None, "it is part of identity's");
    }
}
