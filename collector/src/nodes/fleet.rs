//! The nodes as they were last heard. Decisions only: the caller brings the time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::display;
use holdfast_protocol::v1;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::findings::{Applied, cut};
use crate::store::{EpochRow, NodeRow};
use crate::telemetry::NodeState;

/// Spools of a node that are remembered, to tell a lost spool from two live ones.
const EARLIER_EPOCHS: usize = 8;

/// A full report that was asked for and has not come is asked for again after this: an agent that
/// drains a day's backlog must not be made to add a report with each heartbeat.
const ASK_AGAIN: Duration = Duration::from_mins(2);

/// A look that comes later than this after the one before was not the nodes' silence but ours.
const STALL: Duration = Duration::from_secs(5);

/// Texts of a heartbeat are cut here.
const MAX_TEXT_BYTES: usize = 300;

/// The last heartbeat of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Version of the agent.
    pub version: String,
    /// Containers watched.
    pub containers: u32,
    /// Records not confirmed yet.
    pub spool_records: u64,
    /// Bytes not confirmed yet.
    pub spool_bytes: u64,
    /// Records that a full spool has dropped.
    pub dropped_records: u64,
    /// Why the agent is not ready.
    pub not_ready: Option<String>,
}

impl From<&v1::Heartbeat> for Beat {
    fn from(beat: &v1::Heartbeat) -> Self {
        let text = |text: &str| display::escape(cut(text, MAX_TEXT_BYTES).as_bytes());
        Self {
            version: text(&beat.version),
            containers: beat.containers,
            spool_records: beat.spool_records,
            spool_bytes: beat.spool_bytes,
            dropped_records: beat.dropped_records,
            not_ready: (!beat.not_ready.is_empty()).then(|| text(&beat.not_ready)),
        }
    }
}

/// A node as the API shows it.
#[derive(Clone, Debug, Serialize)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// `reporting` or `silent`.
    pub state: &'static str,
    /// When it was first heard.
    pub first_heard: Timestamp,
    /// When it was last heard.
    pub last_heard: Timestamp,
    /// Its last heartbeat; none since the collector knows it.
    #[serde(flatten)]
    pub beat: Option<Beat>,
}

#[derive(Clone, Debug)]
struct Node {
    first_heard: Timestamp,
    last_heard: Timestamp,
    /// On the monotonic clock; the start of the collector for a node that was not heard since.
    heard_at: Instant,
    is_heard_since_start: bool,
    state: NodeState,
    is_written: bool,
    epoch: Option<u64>,
    earlier_epochs: VecDeque<u64>,
    /// The spool whose full report we have.
    full_epoch: Option<u64>,
    /// Places that the parts of a full report so far have named and that we do not know.
    unknown_places: u64,
    asked_at: Option<Instant>,
    beat: Option<Beat>,
}

/// Which nodes to write down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// Those that the store does not know.
    New,
    /// All that were heard.
    All,
}

/// All nodes.
#[derive(Debug)]
pub struct Fleet {
    nodes: Mutex<BTreeMap<String, Node>>,
    looked_at: Mutex<Option<Instant>>,
    silent_after: Duration,
}

impl Fleet {
    /// The nodes that the store knows. Each gets the whole interval again: while we were away nobody
    /// could have heard them.
    pub fn new(
        rows: Vec<NodeRow>,
        epochs: Vec<EpochRow>,
        silent: &[String],
        silent_after: Duration,
        now: Instant,
    ) -> Self {
        let mut nodes: BTreeMap<String, Node> = rows
            .into_iter()
            .map(|row| {
                let node = Node {
                    first_heard: from_millis(row.first_heard),
                    last_heard: from_millis(row.last_heard),
                    state: if silent.contains(&row.name) {
                        NodeState::Silent
                    } else {
                        NodeState::Reporting
                    },
                    is_written: true,
                    beat: serde_json::from_str(&row.heartbeat).ok(),
                    ..Node::new(now, Timestamp::UNIX_EPOCH)
                };
                (row.name, node)
            })
            .collect();
        for row in epochs {
            let heard = from_millis(row.last_batch);
            // A collector that was killed may have stored a batch and not yet its node.
            let node = nodes
                .entry(row.node)
                .or_insert_with(|| Node::new(now, heard));
            if row.full_report.is_some() {
                node.full_epoch = Some(row.epoch);
            }
        }
        Self {
            nodes: Mutex::new(nodes),
            looked_at: Mutex::new(None),
            silent_after,
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node was heard. True when two of its spools report in turn: somebody has copied its
    /// certificate, or two agents run there.
    pub fn heard(&self, name: &str, epoch: u64, now: Instant, wall: Timestamp) -> bool {
        let mut nodes = self.nodes();
        if !nodes.contains_key(name) {
            nodes.insert(name.to_owned(), Node::new(now, wall));
        }
        let Some(node) = nodes.get_mut(name) else {
            return false;
        };
        node.heard_at = now;
        node.last_heard = wall;
        node.is_heard_since_start = true;
        node.moves_to(epoch)
    }

    /// Keeps a heartbeat, and says whether the node should send a full report.
    pub fn beat(&self, name: &str, epoch: u64, beat: Beat, now: Instant) -> bool {
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(name) else {
            return false;
        };
        node.beat = Some(beat);
        let is_wanted = node.full_epoch != Some(epoch);
        let is_due = node
            .asked_at
            .is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_AGAIN);
        if is_wanted && is_due {
            node.asked_at = Some(now);
        }
        is_wanted && is_due
    }

    /// A batch was stored, perhaps with parts of a full report. A report that names places which we do not
    /// know is not enough: their documents are missing.
    pub fn reported(&self, name: &str, epoch: u64, applied: &Applied) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(name) else {
            return;
        };
        node.unknown_places += applied.unknown_places;
        if applied.has_full_report {
            let is_known = std::mem::take(&mut node.unknown_places) == 0;
            node.full_epoch = is_known.then_some(epoch);
            if is_known {
                node.asked_at = None;
            }
        }
    }

    /// To be called with each look, before asking who is silent.
    pub fn look(&self, now: Instant) {
        let mut looked_at = self
            .looked_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let away = looked_at.map_or(Duration::ZERO, |before| {
            now.saturating_duration_since(before)
        });
        *looked_at = Some(now);
        if away > STALL {
            tracing::warn!(
                seconds = away.as_secs(),
                "Collector was stopped for a while."
            );
            for node in self.nodes().values_mut() {
                node.heard_at += away.min(now.saturating_duration_since(node.heard_at));
            }
        }
    }

    /// Nodes that have become silent, with when they were last heard.
    pub fn newly_silent(&self, now: Instant) -> Vec<(String, Timestamp)> {
        self.choose(|node| {
            node.state == NodeState::Reporting
                && now.saturating_duration_since(node.heard_at) >= self.silent_after
        })
    }

    /// Nodes that were silent and are heard again.
    pub fn newly_heard(&self, now: Instant) -> Vec<(String, Timestamp)> {
        self.choose(|node| {
            node.state == NodeState::Silent
                && node.is_heard_since_start
                && now.saturating_duration_since(node.heard_at) < self.silent_after
        })
    }

    fn choose(&self, which: impl Fn(&Node) -> bool) -> Vec<(String, Timestamp)> {
        self.nodes()
            .iter()
            .filter(|(_, node)| which(node))
            .map(|(name, node)| (name.clone(), node.last_heard))
            .collect()
    }

    /// The finding about a node's silence is stored, or resolved.
    pub fn set_state(&self, name: &str, state: NodeState) {
        if let Some(node) = self.nodes().get_mut(name) {
            node.state = state;
        }
    }

    /// Nodes to write down: new ones, or all of them.
    pub(super) fn unwritten(&self, which: Unwritten) -> Vec<NodeRow> {
        self.nodes()
            .iter()
            .filter(|(_, node)| {
                !node.is_written || (which == Unwritten::All && node.is_heard_since_start)
            })
            .map(|(name, node)| NodeRow {
                name: name.clone(),
                first_heard: node.first_heard.as_millisecond(),
                last_heard: node.last_heard.as_millisecond(),
                heartbeat: serde_json::to_string(&node.beat).unwrap_or_default(),
            })
            .collect()
    }

    /// These were written down.
    pub fn set_written(&self, rows: &[NodeRow]) {
        let mut nodes = self.nodes();
        for row in rows {
            if let Some(node) = nodes.get_mut(&row.name) {
                node.is_written = true;
            }
        }
    }

    /// How many report and how many are silent.
    pub fn counts(&self) -> (i64, i64) {
        let nodes = self.nodes();
        let is_silent = |node: &&Node| node.state == NodeState::Silent;
        let silent = nodes.values().filter(is_silent).count();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        (count(nodes.len() - silent), count(silent))
    }

    /// Nodes by name, after the given one.
    pub fn list(&self, after: Option<&str>, limit: usize) -> Vec<NodeView> {
        self.nodes()
            .iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_str() > after))
            .take(limit)
            .map(|(name, node)| NodeView {
                node: name.clone(),
                state: node.state.as_str(),
                first_heard: node.first_heard,
                last_heard: node.last_heard,
                beat: node.beat.clone(),
            })
            .collect()
    }
}

impl Node {
    const fn new(now: Instant, wall: Timestamp) -> Self {
        Self {
            first_heard: wall,
            last_heard: wall,
            heard_at: now,
            is_heard_since_start: false,
            state: NodeState::Reporting,
            is_written: false,
            epoch: None,
            earlier_epochs: VecDeque::new(),
            full_epoch: None,
            unknown_places: 0,
            asked_at: None,
            beat: None,
        }
    }

    /// True when the spool was there before the current one.
    fn moves_to(&mut self, epoch: u64) -> bool {
        if self.epoch == Some(epoch) {
            return false;
        }
        let is_back = self.earlier_epochs.contains(&epoch);
        if let Some(before) = self.epoch.replace(epoch) {
            self.earlier_epochs.retain(|earlier| *earlier != before);
            self.earlier_epochs.push_back(before);
            if self.earlier_epochs.len() > EARLIER_EPOCHS {
                self.earlier_epochs.pop_front();
            }
        }
        is_back
    }
}

fn from_millis(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT_AFTER: Duration = Duration::from_secs(45);

    fn fleet(now: Instant) -> Fleet {
        Fleet::new(vec![], vec![], &[], SILENT_AFTER, now)
    }

    fn names(nodes: Vec<(String, Timestamp)>) -> Vec<String> {
        nodes.into_iter().map(|(name, _)| name).collect()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_node_is_silent_after_the_interval_and_not_before() {
        let start = Instant::now();
        let fleet = fleet(start);
        fleet.heard("n", 1, start, Timestamp::UNIX_EPOCH);

        assert!(fleet.newly_silent(start + seconds(44)).is_empty());
        assert_eq!(names(fleet.newly_silent(start + seconds(45))), ["n"]);
    }

    #[test]
    fn a_silent_node_is_said_once_and_resolves_when_it_is_heard() {
        let start = Instant::now();
        let fleet = fleet(start);
        fleet.heard("n", 1, start, Timestamp::UNIX_EPOCH);
        fleet.set_state("n", NodeState::Silent);
        assert!(fleet.newly_silent(start + seconds(50)).is_empty());
        assert!(fleet.newly_heard(start + seconds(50)).is_empty());

        fleet.heard("n", 1, start + seconds(60), Timestamp::UNIX_EPOCH);
        assert_eq!(names(fleet.newly_heard(start + seconds(61))), ["n"]);
    }

    #[test]
    fn after_a_restart_each_node_has_the_whole_interval_and_a_silent_one_stays_silent() {
        let row = |name: &str| NodeRow {
            name: name.into(),
            first_heard: 0,
            last_heard: 0,
            heartbeat: "null".into(),
        };
        let start = Instant::now();
        let rows = vec![row("a"), row("b")];
        let fleet = Fleet::new(rows, vec![], &["b".into()], SILENT_AFTER, start);

        assert!(fleet.newly_silent(start + seconds(44)).is_empty());
        assert!(fleet.newly_heard(start + seconds(1)).is_empty());
        assert_eq!(names(fleet.newly_silent(start + seconds(45))), ["a"]);
        assert_eq!(fleet.counts(), (1, 1));
    }

    #[test]
    fn a_node_whose_batch_was_stored_is_known_even_if_it_was_not_written_down() {
        let epoch = |full_report| EpochRow {
            node: "n".into(),
            epoch: 7,
            last_sequence: 1,
            last_batch: 0,
            full_report,
        };
        let start = Instant::now();
        for (full_report, is_wanted) in [(None, true), (Some(0), false)] {
            let fleet = Fleet::new(vec![], vec![epoch(full_report)], &[], SILENT_AFTER, start);
            assert_eq!(names(fleet.newly_silent(start + seconds(45))), ["n"]);
            assert_eq!(fleet.beat("n", 7, Beat::default(), start), is_wanted);
        }
    }

    #[test]
    fn time_that_the_collector_was_stopped_makes_nobody_silent() {
        let start = Instant::now();
        let fleet = fleet(start);
        fleet.look(start);
        fleet.heard("n", 1, start, Timestamp::UNIX_EPOCH);

        let awake = start + seconds(600);
        fleet.look(awake);

        assert!(fleet.newly_silent(awake + seconds(44)).is_empty());
        assert_eq!(names(fleet.newly_silent(awake + seconds(46))), ["n"]);
    }

    fn part(unknown_places: u64) -> Applied {
        Applied {
            unknown_places,
            ..Applied::default()
        }
    }

    fn last(unknown_places: u64) -> Applied {
        Applied {
            has_full_report: true,
            ..part(unknown_places)
        }
    }

    #[test]
    fn a_new_spool_is_asked_for_a_full_report_until_it_has_come() {
        let start = Instant::now();
        let fleet = fleet(start);
        fleet.heard("n", 1, start, Timestamp::UNIX_EPOCH);
        let beat = |epoch, at| fleet.beat("n", epoch, Beat::default(), start + seconds(at));

        assert!(beat(1, 0));
        assert!(!beat(1, 15), "asked already");
        assert!(beat(1, 120), "it has not come");
        fleet.reported("n", 1, &last(0));
        assert!(!beat(1, 300));
        assert!(beat(2, 315), "a new spool");
        fleet.reported("n", 2, &last(3));
        assert!(beat(2, 500), "it named places that we do not know");
        fleet.reported("n", 2, &part(3));
        fleet.reported("n", 2, &last(0));
        assert!(beat(2, 700), "a part before the last one did");
        fleet.reported("n", 2, &part(0));
        fleet.reported("n", 2, &last(0));
        assert!(!beat(2, 900));
    }

    #[test]
    fn a_lost_spool_is_no_conflict_and_two_live_ones_are() {
        let start = Instant::now();
        let fleet = fleet(start);
        let heard = |epoch| fleet.heard("n", epoch, start, Timestamp::UNIX_EPOCH);
        assert!(!heard(1));
        assert!(!heard(2), "a lost spool");
        assert!(!heard(2));
        assert!(heard(1), "the old one is back");
        assert!(heard(2));
    }
}
