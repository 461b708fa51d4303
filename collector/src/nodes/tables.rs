//! What nodes say of the tables that they compare layers with. A layer has one table, whoever makes it: two
//! nodes that say otherwise are not both as they should be, and that is a finding on those who are fewer.
//!
//! Decisions only: the caller brings the time, and says what was stored. Bounded, whatever nodes say: of
//! those that agree a few are kept, of those that do not all that fit.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::finding::{Altered, Transition, Word};
use tokio::time::Instant;

/// Layers that are remembered; a fleet has some thousands.
const MAX_LAYERS: usize = 50_000;

/// Nodes that are remembered with one layer.
const MAX_NODES: usize = 64;

/// Nodes that are remembered with one digest of a layer: enough to tell the many from the few.
const MAX_AGREEING: usize = 16;

/// Agents repeat what they say every hour; what was not repeated for a day is forgotten.
const KEPT: Duration = Duration::from_hours(24);

/// How often what is old is looked for.
const EXPIRY: Duration = Duration::from_mins(1);

/// A layer's table, in one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// The layer.
    pub layer: DiffId,
    /// Of the format: digests of two formats are not compared.
    pub version: u32,
}

/// A change that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// What it is about.
    pub table: Table,
    /// The node that it is on.
    pub node: String,
    /// What nodes say now.
    pub altered: Altered,
    /// Resolved when the node is no longer one of those that disagree.
    pub transition: Transition,
}

#[derive(Debug, Default)]
struct Layer {
    nodes: BTreeMap<String, (Digest, Instant)>,
    /// Nodes with an open place, and the digests that it names.
    open: BTreeMap<String, BTreeSet<Digest>>,
}

#[derive(Debug, Default)]
struct All {
    layers: HashMap<Table, Layer>,
    changed: HashSet<Table>,
    expired: Option<Instant>,
}

/// What all nodes say.
#[derive(Debug, Default)]
pub struct Tables {
    all: Mutex<All>,
}

impl Tables {
    /// A place that was open when an earlier run ended, with what it said.
    pub fn was_open(&self, node: &str, altered: &Altered, now: Instant) {
        let table = Table {
            layer: altered.diff_id,
            version: altered.version,
        };
        let mut all = self.all();
        let layer = all.layers.entry(table).or_default();
        for word in &altered.words {
            for node in &word.nodes {
                layer.nodes.insert(node.clone(), (word.digest, now));
            }
        }
        let digests = altered.words.iter().map(|word| word.digest);
        layer.open.insert(node.to_owned(), digests.collect());
    }

    /// A node says what the digest of a table is there.
    pub fn note(&self, node: &str, table: Table, digest: Digest, now: Instant) {
        let mut all = self.all();
        if !all.layers.contains_key(&table) && all.layers.len() >= MAX_LAYERS {
            return;
        }
        let is_news = all.layers.entry(table).or_default().note(node, digest, now);
        if is_news {
            all.changed.insert(table);
        }
    }

    /// What is to be said now. Said again at the next call, unless [`Self::set_said`] says that it is stored.
    pub fn look(&self, now: Instant) -> Vec<Said> {
        let mut all = self.all();
        all.expire(now);
        let All {
            layers, changed, ..
        } = &mut *all;
        let mut said = Vec::new();
        changed.retain(|table| {
            let due = layers.get(table).map(|layer| layer.due(*table));
            let due = due.unwrap_or_default();
            let is_due = !due.is_empty();
            said.extend(due);
            is_due
        });
        layers.retain(|_, layer| !layer.nodes.is_empty() || !layer.open.is_empty());
        said
    }

    /// It is stored.
    pub fn set_said(&self, said: &Said) {
        let mut all = self.all();
        if let Some(layer) = all.layers.get_mut(&said.table) {
            if said.transition == Transition::Resolved {
                layer.open.remove(&said.node);
            } else {
                let digests = said.altered.words.iter().map(|word| word.digest);
                layer.open.insert(said.node.clone(), digests.collect());
            }
        }
    }

    /// How many layers nodes disagree on.
    pub fn disagreements(&self) -> usize {
        let all = self.all();
        let open = all.layers.values().filter(|layer| !layer.open.is_empty());
        open.count()
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn expire(&mut self, now: Instant) {
        let is_due = self
            .expired
            .is_none_or(|at| now.saturating_duration_since(at) >= EXPIRY);
        if !is_due {
            return;
        }
        self.expired = Some(now);
        for (table, layer) in &mut self.layers {
            let before = layer.nodes.len();
            layer
                .nodes
                .retain(|_, (_, heard)| now.saturating_duration_since(*heard) < KEPT);
            if layer.nodes.len() < before {
                self.changed.insert(*table);
            }
        }
    }
}

impl Layer {
    /// True when the nodes may agree or disagree now where they did not before.
    fn note(&mut self, node: &str, digest: Digest, now: Instant) -> bool {
        if let Some((said, heard)) = self.nodes.get_mut(node) {
            *heard = now;
            return std::mem::replace(said, digest) != digest;
        }
        let agreeing = self.nodes.values().filter(|(said, _)| *said == digest);
        let agreeing = agreeing.count();
        if agreeing >= MAX_AGREEING {
            return false;
        }
        if self.nodes.len() >= MAX_NODES {
            // A digest that nobody has named before must not be overlooked; one more of a crowd may be.
            let Some(crowd) = self.crowd().filter(|_| agreeing == 0) else {
                return false;
            };
            self.nodes.remove(&crowd);
        }
        self.nodes.insert(node.to_owned(), (digest, now));
        true
    }

    /// A node with a digest that another one has too.
    fn crowd(&self) -> Option<String> {
        let mut seen = HashSet::new();
        let mut nodes = self.nodes.iter();
        let twice = nodes.find(|(_, (digest, _))| !seen.insert(*digest));
        twice.map(|(node, _)| node.clone())
    }

    /// The digests with their nodes, those that most nodes have first.
    fn words(&self) -> Vec<Word> {
        let mut digests: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        for (node, (digest, _)) in &self.nodes {
            digests.entry(*digest).or_default().push(node.clone());
        }
        let words = digests.into_iter();
        let mut words: Vec<Word> = words
            .map(|(digest, nodes)| Word { digest, nodes })
            .collect();
        words.sort_by_key(|word| std::cmp::Reverse(word.nodes.len()));
        words
    }

    /// What has to be said for the places to be as they should be.
    fn due(&self, table: Table) -> Vec<Said> {
        let words = self.words();
        let most = words.first().map_or(0, |word| word.nodes.len());
        let is_tie = words.iter().filter(|word| word.nodes.len() == most).count() > 1;
        let digests: BTreeSet<Digest> = words.iter().map(|word| word.digest).collect();
        let blamed = words.iter().skip(usize::from(!is_tie));
        let blamed: BTreeSet<&String> = blamed.flat_map(|word| &word.nodes).collect();
        let altered = Altered {
            diff_id: table.layer,
            version: table.version,
            words: words.clone(),
        };
        let said = |node: &String, transition| Said {
            table,
            node: node.clone(),
            altered: altered.clone(),
            transition,
        };
        let over = self.open.keys().filter(|node| !blamed.contains(node));
        let over = over.map(|node| said(node, Transition::Resolved));
        let news = blamed.iter().filter_map(|node| match self.open.get(*node) {
            None => Some(said(node, Transition::Opened)),
            Some(before) if *before != digests => Some(said(node, Transition::Updated)),
            Some(_) => None,
        });
        over.chain(news).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        Table {
            layer: DiffId(Digest::of(b"layer")),
            version: 1,
        }
    }

    fn digest(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn note(tables: &Tables, node: &str, number: usize) {
        tables.note(node, table(), digest(number), Instant::now());
    }

    /// Stores what is to be said, and tells it.
    fn say(tables: &Tables) -> Vec<String> {
        let said = tables.look(Instant::now());
        let told = said.iter().map(|said| {
            tables.set_said(said);
            format!("{} {}", said.transition.as_str(), said.node)
        });
        told.collect()
    }

    #[tokio::test]
    async fn nodes_that_agree_are_no_finding_and_those_that_are_fewer_are() {
        let tables = Tables::default();
        for node in ["a", "b"] {
            note(&tables, node, 1);
        }
        assert!(say(&tables).is_empty());
        note(&tables, "c", 2);
        assert_eq!(say(&tables), ["opened c"]);
        assert_eq!(tables.disagreements(), 1);
        note(&tables, "c", 2);
        assert!(say(&tables).is_empty(), "said once");
        note(&tables, "c", 3);
        assert_eq!(say(&tables), ["updated c"]);
        note(&tables, "c", 1);
        assert_eq!(say(&tables), ["resolved c"]);
        assert_eq!(tables.disagreements(), 0);
    }

    #[tokio::test]
    async fn where_nobody_has_the_majority_all_are_named_until_somebody_has() {
        let tables = Tables::default();
        note(&tables, "a", 1);
        note(&tables, "b", 2);
        let said = tables.look(Instant::now());
        assert_eq!(
            said[0].altered.words.len(),
            2,
            "both digests with their nodes"
        );
        assert_eq!(say(&tables), ["opened a", "opened b"]);
        note(&tables, "c", 1);
        assert_eq!(say(&tables), ["resolved a"]);
    }

    #[tokio::test]
    async fn what_could_not_be_stored_is_said_again() {
        let tables = Tables::default();
        note(&tables, "a", 1);
        note(&tables, "b", 2);
        assert_eq!(tables.look(Instant::now()).len(), 2);
        assert_eq!(tables.look(Instant::now()).len(), 2);
    }

    #[tokio::test]
    async fn two_formats_are_not_compared() {
        let tables = Tables::default();
        note(&tables, "a", 1);
        let other = Table {
            version: 2,
            ..table()
        };
        tables.note("b", other, digest(2), Instant::now());
        assert!(say(&tables).is_empty());
    }

    #[tokio::test]
    async fn however_many_agree_one_that_does_not_is_found() {
        let tables = Tables::default();
        for node in 0..1000 {
            note(&tables, &format!("n-{node}"), 1);
        }
        note(&tables, "evil", 2);
        assert_eq!(say(&tables), ["opened evil"]);
        let all = tables.all();
        assert!(all.layers[&table()].nodes.len() <= MAX_AGREEING + 1);
    }

    #[tokio::test]
    async fn many_digests_do_not_crowd_out_a_new_one() {
        let tables = Tables::default();
        for node in 0..MAX_NODES {
            note(&tables, &format!("n-{node}"), node / 2);
        }
        say(&tables);
        note(&tables, "evil", 9999);
        assert!(say(&tables).contains(&"opened evil".to_owned()));
        let all = tables.all();
        assert_eq!(all.layers[&table()].nodes.len(), MAX_NODES);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_repeat_it_is_forgotten_after_a_day() {
        let tables = Tables::default();
        note(&tables, "a", 1);
        note(&tables, "gone", 2);
        say(&tables);
        tokio::time::advance(KEPT / 2).await;
        note(&tables, "a", 1);
        assert!(say(&tables).is_empty());
        tokio::time::advance(KEPT / 2).await;
        assert_eq!(say(&tables), ["resolved a", "resolved gone"]);
    }

    #[tokio::test]
    async fn what_was_open_before_a_restart_is_not_opened_again_and_resolves_when_they_agree() {
        let before = Tables::default();
        note(&before, "a", 1);
        note(&before, "b", 1);
        note(&before, "evil", 2);
        let said = before.look(Instant::now()).pop().unwrap();

        let tables = Tables::default();
        tables.was_open("evil", &said.altered, Instant::now());

        note(&tables, "a", 1);
        assert!(say(&tables).is_empty());
        note(&tables, "evil", 2);
        assert!(say(&tables).is_empty());
        note(&tables, "evil", 1);
        assert_eq!(say(&tables), ["resolved evil"]);
    }
}
