//! Who reports. Silence is a finding, made through the same life as any other.
//!
//! Elapsed time is measured on the monotonic clock: a wall clock that jumps must not make a fleet
//! silent. Time that the collector itself was stopped is nobody's silence either.

mod fleet;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::container::Workload;
use holdfast_core::finding::{
    Detail, Finding, Fingerprint, Kind, Resolution, SCHEMA, Severity, Silence, Subject, Transition,
    to_millis,
};
use holdfast_daemon::shutdown::Stop;
use jiff::Timestamp;
use tokio::time::{Instant, MissedTickBehavior};

use self::fleet::Unwritten;
pub use self::fleet::{Beat, Fleet, NodeView};
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
    queue: Queue,
    metrics: Metrics,
    written: Instant,
}

impl Watch {
    /// Over these nodes.
    pub fn new(fleet: Arc<Fleet>, queue: Queue, metrics: Metrics) -> Self {
        Self {
            fleet,
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
        let finding = silence(node, last_heard, to_millis(Timestamp::now()), transition);
        let Ok(document) = serde_json::to_string(&finding) else {
            return;
        };
        let batch = Batch {
            node: node.to_owned(),
            epoch: OWN_EPOCH,
            records: vec![Record {
                sequence: 0,
                body: Body::Finding(Box::new(finding), document),
            }],
        };
        if self.queue.submit(Work::Batch(batch)).await.is_ok() {
            tracing::warn!(%node, %last_heard, state = state.as_str(), "Node has changed.");
            self.fleet.set_state(node, state);
        }
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

/// The finding about a silent node.
fn silence(node: &str, last_heard: Timestamp, now: Timestamp, transition: Transition) -> Finding {
    let workload = Workload::from_text(format!("node:{node}"));
    let subject = Subject::word(node);
    let is_resolved = transition == Transition::Resolved;
    Finding {
        schema: SCHEMA.to_owned(),
        fingerprint: Fingerprint::new(Kind::AgentSilent, &workload, &subject),
        transition,
        reason: is_resolved.then_some(Resolution::Gone),
        severity: Severity::Critical,
        title: format!("Node {node} is silent since {last_heard:.0}"),
        node: node.to_owned(),
        container: None,
        workload,
        subject,
        image: None,
        basis: None,
        detail: Detail::AgentSilent(Silence { last_heard }),
        actor: None,
        first_seen: now,
        last_seen: now,
        observed_at: now,
    }
}
