//! One transaction over places: repeats are dropped, places move, and full reports resolve what they do
//! not name. It holds what it has read and changed, and writes each row once at the end.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use holdfast_core::container::{ContainerKey, ContainerRef};
use holdfast_core::coverage::ContainerStatus;
use holdfast_core::finding::{Finding, Fingerprint, Resolution, Transition};
use holdfast_daemon::fail_point;

use super::life::{Moment, Seen, Touched, join};
use super::{Applied, Batch, Body, Brief, Census, FullReport, cut};
use crate::store::{
    ContainerRow, EpochRow, HistoryRow, OWN_EPOCH, PlaceKey, PlaceRow, StoreError, Tx,
};

/// A title is one sentence; a rogue node's is cut here.
const MAX_TITLE_BYTES: usize = 512;

/// The state of one transaction.
#[derive(Debug)]
pub(super) struct Moves<'t, 'w, 'b> {
    tx: &'t mut Tx<'w>,
    now: i64,
    change: i64,
    places: HashMap<PlaceKey, PlaceRow>,
    moved: BTreeSet<PlaceKey>,
    touched: BTreeMap<Fingerprint, Touched>,
    /// Findings that lost a place without a document of ours.
    closed: BTreeMap<Fingerprint, Resolution>,
    history: Vec<HistoryRow<'b>>,
    containers: BTreeMap<(String, ContainerKey), ContainerRow>,
    epochs: HashMap<(String, u64), EpochRow>,
}

impl<'t, 'w, 'b> Moves<'t, 'w, 'b> {
    /// Reads the places that the batches speak of.
    pub(super) async fn begin(
        tx: &'t mut Tx<'w>,
        batches: &[&Batch],
        now: i64,
    ) -> Result<Self, StoreError> {
        let change = tx.last_change().await?.saturating_add(1);
        let keys: BTreeSet<PlaceKey> = batches.iter().copied().flat_map(place_keys).collect();
        let keys: Vec<PlaceKey> = keys.into_iter().collect();
        let places = tx.places(&keys).await?.into_iter();
        Ok(Self {
            tx,
            now,
            change,
            places: places.map(|place| (place.key.clone(), place)).collect(),
            moved: BTreeSet::new(),
            touched: BTreeMap::new(),
            closed: BTreeMap::new(),
            history: Vec::new(),
            containers: BTreeMap::new(),
            epochs: HashMap::new(),
        })
    }

    /// Moves the places of one batch.
    pub(super) async fn batch(&mut self, batch: &'b Batch) -> Result<Applied, StoreError> {
        let spool = (batch.node.clone(), batch.epoch);
        let mut last = self.last_sequence(&spool).await?;
        let mut applied = Applied::default();
        for record in &batch.records {
            let sequence = if batch.epoch == OWN_EPOCH {
                last + 1
            } else {
                record.sequence
            };
            // A repeat after a lost confirmation: the commonest thing after a crash of either side.
            if sequence <= last && !fail_point::is_on("skip-dedupe") {
                applied.repeated += 1;
                continue;
            }
            last = last.max(sequence);
            applied.stored += 1;
            match &record.body {
                Body::Finding(finding, document) => {
                    applied.transitions += 1;
                    self.finding(&batch.node, (batch.epoch, sequence), finding, document);
                }
                Body::Container(status, document) => {
                    self.container(&batch.node, status, document);
                }
                Body::Full(full) => {
                    applied.has_full_report |= full.census.is_some();
                    applied.unknown_places += self.full_report(&batch.node, full).await?;
                }
                Body::Refused => {}
            }
        }
        let full_report = applied.has_full_report.then_some(self.now);
        self.remember(spool, last, full_report);
        applied.confirmed = last;
        Ok(applied)
    }

    async fn last_sequence(&mut self, spool: &(String, u64)) -> Result<u64, StoreError> {
        if !self.epochs.contains_key(spool) {
            let (node, epoch) = spool;
            let row = self.tx.epoch(node, *epoch).await?.unwrap_or(EpochRow {
                node: node.clone(),
                epoch: *epoch,
                last_sequence: 0,
                last_batch: self.now,
                full_report: None,
            });
            self.epochs.insert(spool.clone(), row);
        }
        Ok(self.epochs.get(spool).map_or(0, |row| row.last_sequence))
    }

    fn remember(&mut self, spool: (String, u64), last: u64, full_report: Option<i64>) {
        let now = self.now;
        self.epochs.entry(spool).and_modify(|row| {
            row.last_sequence = last;
            row.last_batch = now;
            row.full_report = full_report.or(row.full_report);
        });
    }

    /// Moves the place of one transition.
    fn finding(
        &mut self,
        node: &str,
        (epoch, sequence): (u64, u64),
        finding: &Finding,
        document: &'b str,
    ) {
        let key = key_of(finding, node);
        let place = self.places.get(&key);
        let after = if finding.transition == Transition::Resolved {
            place
                .filter(|place| place.resolved.is_none())
                .map(|place| PlaceRow {
                    resolved: Some(self.now),
                    reason: finding.reason.or(Some(Resolution::Gone)),
                    ..place.clone()
                })
        } else {
            let still_open = place.filter(|place| place.resolved.is_none());
            let first_seen = finding.first_seen.as_millisecond();
            Some(PlaceRow {
                key: key.clone(),
                severity: finding.severity,
                title: cut(&finding.title, MAX_TITLE_BYTES).to_owned(),
                brief: Brief::of(finding).to_json(),
                first_seen: still_open.map_or(first_seen, |place| place.first_seen.min(first_seen)),
                last_seen: finding.last_seen.as_millisecond(),
                resolved: None,
                reason: None,
                epoch,
                sequence,
            })
        };
        self.history.push(HistoryRow {
            key: key.clone(),
            epoch,
            sequence,
            transition: finding.transition,
            reason: finding.reason,
            severity: finding.severity,
            observed: finding.observed_at.as_millisecond(),
            received: self.now,
            document: Some(document),
        });
        if let Some(after) = after {
            self.touch(finding, &after);
            self.moved.insert(key.clone());
            self.places.insert(key, after);
        }
    }

    fn touch(&mut self, finding: &Finding, place: &PlaceRow) {
        self.touched
            .entry(finding.fingerprint)
            .or_insert_with(|| Touched::new(finding, place))
            .add(finding, place);
    }

    fn container(&mut self, node: &str, status: &ContainerStatus, document: &str) {
        let key = status.container.key();
        let row = ContainerRow {
            node: node.to_owned(),
            namespace: key.namespace.clone(),
            container: key.id.clone(),
            is_running: status.running,
            observed: status.observed_at.as_millisecond(),
            received: self.now,
            document: document.to_owned(),
        };
        self.containers.insert((node.to_owned(), key), row);
    }

    /// Resolves what a part of a full report does not name; gives the number of places that only it knows.
    async fn full_report(&mut self, node: &str, full: &FullReport) -> Result<u64, StoreError> {
        let named = |(container, open): (&ContainerKey, &Vec<Fingerprint>)| {
            let key = |fingerprint| place_key(fingerprint, node, Some(container));
            open.iter().copied().map(key).collect::<Vec<_>>()
        };
        let named: BTreeSet<PlaceKey> = full.open.iter().flat_map(named).collect();
        for place in self.tx.open_places(node).await? {
            self.places.entry(place.key.clone()).or_insert(place);
        }
        let is_open = |place: &&PlaceRow| place.key.node == node && place.resolved.is_none();
        let open: Vec<PlaceKey> = self
            .places
            .values()
            .filter(is_open)
            .filter(|place| place.epoch != OWN_EPOCH) // the node does not know what we say of it
            .map(|place| place.key.clone())
            .collect();
        let unknown = named.len() - open.iter().filter(|key| named.contains(*key)).count();
        for key in open {
            if !named.contains(&key) && speaks_of(full, &key) {
                self.not_reported(node, key).await?;
            }
        }
        if let Some(census) = &full.census {
            self.end_containers(node, &census.running).await?;
        }
        Ok(u64::try_from(unknown).unwrap_or(u64::MAX))
    }

    async fn not_reported(&mut self, node: &str, key: PlaceKey) -> Result<(), StoreError> {
        let own = (node.to_owned(), OWN_EPOCH);
        let sequence = self.last_sequence(&own).await? + 1;
        self.remember(own, sequence, None);
        let Some(place) = self.places.get_mut(&key) else {
            return Ok(());
        };
        place.resolved = Some(self.now);
        place.reason = Some(Resolution::NotReported);
        self.history.push(HistoryRow {
            key: key.clone(),
            epoch: OWN_EPOCH,
            sequence,
            transition: Transition::Resolved,
            reason: Some(Resolution::NotReported),
            severity: place.severity,
            observed: self.now,
            received: self.now,
            document: None,
        });
        self.closed.insert(key.fingerprint, Resolution::NotReported);
        self.moved.insert(key);
        Ok(())
    }

    async fn end_containers(
        &mut self,
        node: &str,
        running: &BTreeSet<ContainerKey>,
    ) -> Result<(), StoreError> {
        for row in self.tx.running(node).await? {
            let key = ContainerKey {
                namespace: row.namespace.clone(),
                id: row.container.clone(),
            };
            self.containers.entry((node.to_owned(), key)).or_insert(row);
        }
        let now = self.now;
        for ((of, key), row) in &mut self.containers {
            if of == node && row.is_running && !running.contains(key) {
                row.is_running = false;
                row.received = now;
            }
        }
        Ok(())
    }

    /// Writes what has changed.
    pub(super) async fn finish(mut self) -> Result<(), StoreError> {
        self.tx.put_history(&self.history).await?;
        let moved: Vec<PlaceRow> = self
            .moved
            .iter()
            .filter_map(|key| self.places.remove(key))
            .collect();
        self.tx.put_places(&moved).await?;
        self.join_findings().await?;
        let containers: Vec<ContainerRow> = self.containers.into_values().collect();
        self.tx.put_containers(&containers).await?;
        let epochs: Vec<EpochRow> = self.epochs.into_values().collect();
        self.tx.put_epochs(&epochs).await
    }

    async fn join_findings(&mut self) -> Result<(), StoreError> {
        let fingerprints: BTreeSet<Fingerprint> = self
            .touched
            .keys()
            .chain(self.closed.keys())
            .copied()
            .collect();
        let fingerprints: Vec<Fingerprint> = fingerprints.into_iter().collect();
        let mut leads = self.tx.leads(&fingerprints).await?;
        let mut held = self.tx.findings(&fingerprints).await?;
        let moment = Moment {
            now: self.now,
            change: self.change,
        };
        let mut changed = Vec::with_capacity(fingerprints.len());
        for fingerprint in fingerprints {
            let seen = Seen {
                touched: self.touched.remove(&fingerprint),
                not_reported: self.closed.get(&fingerprint).copied(),
                lead: leads.remove(&fingerprint),
            };
            changed.extend(join(held.remove(&fingerprint), seen, moment));
        }
        self.tx.put_findings(&changed).await
    }
}

/// Whether a part says everything about the container of a place.
fn speaks_of(full: &FullReport, place: &PlaceKey) -> bool {
    let container = ContainerKey {
        namespace: place.namespace.clone(),
        id: place.container.clone(),
    };
    let is_counted =
        |census: &Census| census.running.contains(&container) || census.known.contains(&container);
    full.open.contains_key(&container) || full.census.as_ref().is_some_and(|it| !is_counted(it))
}

fn place_keys(batch: &Batch) -> impl Iterator<Item = PlaceKey> {
    batch
        .records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Finding(finding, _) => Some(key_of(finding, &batch.node)),
            _ => None,
        })
}

fn key_of(finding: &Finding, node: &str) -> PlaceKey {
    let container = finding.container.as_ref().map(ContainerRef::key);
    place_key(finding.fingerprint, node, container.as_ref())
}

fn place_key(fingerprint: Fingerprint, node: &str, container: Option<&ContainerKey>) -> PlaceKey {
    let (namespace, container) = container
        .map(|key| (key.namespace.clone(), key.id.clone()))
        .unwrap_or_default();
    PlaceKey {
        fingerprint,
        node: node.to_owned(),
        namespace,
        container,
    }
}
