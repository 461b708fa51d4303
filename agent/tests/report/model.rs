//! Random looks, ends, confirmations, stops and crashes against a model: every transition that was
//! answered is delivered in order, none is lost, none is doubled.

use std::collections::{BTreeMap, VecDeque};

use holdfast_core::finding::{Check, Finding, Severity};
use holdfast_core::place::{self, Look, Places};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::{Open, about, at, condition, findings, key, open, reports};

const CONTAINERS: [&str; 3] = ["a", "b", "bb"];
const SUBJECTS: [&str; 4] = ["w", "x", "y", "z"];

#[derive(Clone, Debug)]
enum Step {
    Look {
        container: usize,
        seen: Vec<(usize, bool)>,
        done: Vec<Check>,
    },
    End(usize),
    Confirm(usize),
    Stop,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let container = 0..CONTAINERS.len();
    let seen = proptest::collection::vec((0..SUBJECTS.len(), any::<bool>()), 0..4);
    let done = prop_oneof![Just(vec![]), Just(vec![Check::Files])];
    prop_oneof![
        8 => (container.clone(), seen, done).prop_map(|(container, seen, done)| {
            Step::Look { container, seen, done }
        }),
        1 => container.prop_map(Step::End),
        3 => (1_usize..6).prop_map(Step::Confirm),
        1 => Just(Step::Stop),
        1 => Just(Step::Crash),
    ]
}

fn look(seen: &[(usize, bool)], done: Vec<Check>) -> Look {
    let mut severities = BTreeMap::new();
    for (subject, is_critical) in seen {
        severities.insert(SUBJECTS[*subject], *is_critical);
    }
    Look {
        done,
        conditions: severities
            .into_iter()
            .map(|(subject, is_critical)| {
                let severity = if is_critical {
                    Severity::Critical
                } else {
                    Severity::Info
                };
                condition(subject, severity)
            })
            .collect(),
        ..Look::default()
    }
}

struct Model {
    directory: TempDir,
    open: Option<Open>,
    places: BTreeMap<&'static str, Places>,
    undelivered: VecDeque<Finding>,
    second: i64,
}

impl Model {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let open = Some(open(directory.path()));
        Self {
            directory,
            open,
            places: BTreeMap::new(),
            undelivered: VecDeque::new(),
            second: 0,
        }
    }

    fn open(&self) -> &Open {
        self.open.as_ref().unwrap()
    }

    async fn take(&mut self, step: Step) {
        self.second += 1;
        let now = at(self.second);
        match step {
            Step::Look {
                container,
                seen,
                done,
            } => {
                let id = CONTAINERS[container];
                let (about, look) = (about(id), look(&seen, done));
                let places = self.places.entry(id).or_default();
                let due = place::advance(places, &about, look.clone(), now);
                let ledger = &self.open().ledger;
                assert_eq!(ledger.record_look(about, look, now).await.unwrap(), due);
                self.undelivered.extend(due);
            }
            Step::End(container) => {
                let id = CONTAINERS[container];
                let mut places = self.places.remove(id).unwrap_or_default();
                let due = place::end(&mut places, &about(id), now);
                let ended = self.open().ledger.end_container(&key(id), now).await;
                assert_eq!(ended.unwrap(), due);
                self.undelivered.extend(due);
            }
            Step::Confirm(records) => self.deliver(records).await,
            Step::Stop => {
                self.open.take().unwrap().close();
                self.open = Some(open(self.directory.path()));
            }
            Step::Crash => {
                let after = self.open.take().unwrap().crash(self.directory.path());
                self.open = Some(open(after.path()));
                self.directory = after;
            }
        }
    }

    async fn deliver(&mut self, records: usize) {
        let batch = self.open().ledger.next_batch(records, usize::MAX).await;
        let batch = batch.unwrap();
        for finding in findings(&batch.records) {
            assert_eq!(Some(finding), self.undelivered.pop_front());
        }
        if let Some(last) = batch.last_sequence() {
            self.open().confirm(last).await;
        }
    }

    /// What the ledger believes to be open is what the model does.
    async fn finish(mut self) {
        let running = self.places.keys().map(|id| key(id)).collect();
        let ledger = &self.open().ledger;
        ledger.full_report(running, at(self.second)).await.unwrap();
        let waiting = self.open().waiting().await;
        let mut named: Vec<_> = reports(&waiting)
            .pop()
            .unwrap()
            .open
            .into_iter()
            .flat_map(|open| {
                let id = open.container.unwrap().id;
                let fingerprints = open.fingerprints.chunks(16).map(<[u8]>::to_vec);
                fingerprints
                    .map(|print| (id.clone(), print))
                    .collect::<Vec<_>>()
            })
            .collect();
        named.sort();
        let mut due = Vec::new();
        for (id, places) in &self.places {
            let open = places
                .iter()
                .filter(|(_, place)| place.resolved_at.is_none());
            due.extend(open.map(|(print, _)| ((*id).to_owned(), print.as_bytes().to_vec())));
        }
        due.sort();
        assert_eq!(named, due);
        self.deliver(usize::MAX).await;
        assert_eq!(self.undelivered, []);
        assert_eq!(self.open().ledger.stats().borrow().dropped, 0);
    }
}

/// Few by default, since each commit is synced; `PROPTEST_CASES` asks for more.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    let is_asked = std::env::var_os("PROPTEST_CASES").is_some();
    ProptestConfig {
        cases: if is_asked { asked.cases } else { 40 },
        failure_persistence: None,
        ..asked
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn transitions_are_delivered_in_order_and_once_over_stops_and_crashes(
        steps in proptest::collection::vec(step(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new();
            for step in steps {
                model.take(step).await;
            }
            model.finish().await;
        });
    }
}
