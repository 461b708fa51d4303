//! Who reports, and what nodes say that should be the same everywhere. Silence is a finding, and so is
//! disagreement, made through the same life as any other.
//!
//! Elapsed time is measured on the monotonic clock: a wall clock that jumps must not make a fleet
//! silent. Time that the collector itself was stopped is nobody's silence either.

mod fleet;
mod tables;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::container::Workload;
use holdfast_core::finding::{
    Altered, Detail, Finding, Fingerprint, Resolution, SCHEMA, Severity, Silence, Subject,
    Transition, to_millis,
};
use holdfast_daemon::shutdown::Stop;
use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior};

use self::fleet::Unwritten;
pub use self::fleet::{Beat, Fleet, NodeView};
pub use self::tables::{Said, Table, Tables};
use crate::commit::{Queue, Work};
use crate::findings::{Batch, Body, Record};
use crate::store::OWN_EPOCH;
use crate::telemetry::{Metrics, NodeState};

/// How often nodes are looked at.
const TICK: Duration = Duration::from_secs(1);

/// How often heartbeats are written down: after a restart `last_heard` is this old at most.
const WRITE_EVERY: Duration = Duration::from_mins(1);

/// The task that looks at all nodes.
#[derive(Debug)]
pub struct Watch {
    fleet: Arc<Fleet>,
    tables: Arc<Tables>,
    queue: Queue,
    metrics: Metrics,
    written: Instant,
}

impl Watch {
    /// Over these nodes.
    pub fn new(fleet: Arc<Fleet>, tables: Arc<Tables>, queue: Queue, metrics: Metrics) -> Self {
        Self {
            fleet,
            tables,
            queue,
            metrics,
            written: Instant::now(),
        }
    }

    /// Looks once a second, until `stop` turns true.
    pub async fn run(mut self, mut stop: Stop) -> Result<(), Infallible> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                _ = stop.changed() => return Ok(()),
                _ = tick.tick() => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        let now = Instant::now();
        self.fleet.look(now);
        for (node, last_heard) in self.fleet.newly_silent(now) {
            self.say(&node, last_heard, NodeState::Silent).await;
        }
        for (node, last_heard) in self.fleet.newly_heard(now) {
            self.say(&node, last_heard, NodeState::Reporting).await;
        }
        for said in self.tables.look(now) {
            self.say_altered(&said).await;
        }
        let disagreements = i64::try_from(self.tables.disagreements()).unwrap_or(i64::MAX);
        self.metrics.table_disagreements.set(disagreements);
        self.write(now).await;
        let (reporting, silent) = self.fleet.counts();
        self.metrics.nodes(NodeState::Reporting, reporting);
        self.metrics.nodes(NodeState::Silent, silent);
    }

    /// Stores what a node has become. What could not be stored is due again at the next look.
    async fn say(&self, node: &str, last_heard: Timestamp, state: NodeState) {
        let transition = match state {
            NodeState::Silent => Transition::Opened,
            NodeState::Reporting => Transition::Resolved,
        };
        let about = About::silence(node, last_heard);
        if self.store(about.finding(node, transition)).await {
            tracing::warn!(%node, %last_heard, state = state.as_str(), "Node has changed.");
            self.fleet.set_state(node, state);
        }
    }

    /// Stores that a node has come to disagree with others, or to agree.
    async fn say_altered(&self, said: &Said) {
        let about = About::altered(&said.node, &said.altered);
        if self.store(about.finding(&said.node, said.transition)).await {
            let (node, layer) = (&said.node, said.table.layer);
            let transition = said.transition.as_str();
            tracing::warn!(%node, %layer, transition, "Nodes disagree on a table, or did.");
            self.tables.set_said(said);
        }
    }

    /// Stores what the collector says of a node itself. What could not be stored is due again.
    async fn store(&self, finding: Finding) -> bool {
        let Ok(document) = serde_json::to_string(&finding) else {
            return false;
        };
        let batch = Batch {
            node: finding.node.clone(),
            epoch: OWN_EPOCH,
            records: vec![Record {
                sequence: 0,
                body: Body::Finding(Box::new(finding), document),
            }],
        };
        self.queue.submit(Work::Batch(batch)).await.is_ok()
    }

    /// Writes down new nodes at once and the others once a minute.
    async fn write(&mut self, now: Instant) {
        let mut which = Unwritten::New;
        if now.saturating_duration_since(self.written) >= WRITE_EVERY {
            which = Unwritten::All;
            self.written = now;
        }
        let rows = self.fleet.unwritten(which);
        if !rows.is_empty() && self.queue.submit(Work::Nodes(rows.clone())).await.is_ok() {
            self.fleet.set_written(&rows);
        }
    }
}

/// What a finding of the collector itself is about.
struct About {
    workload: Workload,
    subject: Subject,
    title: String,
    detail: Detail,
}

impl About {
    /// A silent node.
    fn silence(node: &str, last_heard: Timestamp) -> Self {
        Self {
            workload: Workload::from_text(format!("node:{node}")),
            subject: Subject::word(node),
            title: format!("Node {node} is silent since {last_heard:.0}"),
            detail: Detail::AgentSilent(Silence { last_heard }),
        }
    }

    /// A node that says otherwise than others of a layer's table.
    fn altered(node: &str, altered: &Altered) -> Self {
        let layer = altered.diff_id;
        Self {
            workload: Workload::from_text("fleet".to_owned()),
            subject: Subject::word(&format!("table {layer} v{}", altered.version)),
            title: format!("Node {node} has another table of layer {layer} than other nodes"),
            detail: Detail::AgentAltered(altered.clone()),
        }
    }

    /// The finding on `node`.
    fn finding(self, node: &str, transition: Transition) -> Finding {
        let now = to_millis(Timestamp::now());
        let is_resolved = transition == Transition::Resolved;
        Finding {
            schema: SCHEMA.to_owned(),
            fingerprint: Fingerprint::new(self.detail.kind(), &self.workload, &self.subject),
            transition,
            reason: is_resolved.then_some(Resolution::Gone),
            severity: Severity::Critical,
            title: self.title,
            node: node.to_owned(),
            container: None,
            workload: self.workload,
            subject: self.subject,
            image: None,
            basis: None,
            detail: self.detail,
            actor: None,
            first_seen: now,
            last_seen: now,
            observed_at: now,
        }
    }
}
