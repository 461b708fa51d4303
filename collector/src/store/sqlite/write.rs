//! What a transaction can do. Rows come and go in statements of many: a statement a row is thirteen
//! times slower.

use std::collections::{BTreeMap, HashMap};

use holdfast_core::finding::{Fingerprint, Resolution};
use sqlx::{QueryBuilder, Row as _, Sqlite, Transaction};

use super::judge;
use super::rows::{self, number, severity_number};
use crate::store::{
    ContainerRow, EpochRow, FindingRow, HistoryRow, Lead, NodeRow, PlaceKey, PlaceRow, StoreError,
};

/// Rows in one statement: `SQLite` allows 32,766 values, and more rows are not faster.
const ROWS: usize = 500;

/// A transaction of the writer. Dropped without [`Tx::commit`] it never happened.
#[derive(Debug)]
pub struct Tx<'w> {
    inner: Transaction<'w, Sqlite>,
}

impl<'w> Tx<'w> {
    pub(super) const fn new(inner: Transaction<'w, Sqlite>) -> Self {
        Self { inner }
    }

    /// Makes everything durable.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.inner.commit().await.map_err(judge)
    }

    async fn execute(&mut self, mut query: QueryBuilder<Sqlite>) -> Result<u64, StoreError> {
        let done = query.build().execute(&mut *self.inner).await;
        Ok(done.map_err(judge)?.rows_affected())
    }

    async fn fetch(
        &mut self,
        mut query: QueryBuilder<Sqlite>,
    ) -> Result<Vec<sqlx::sqlite::SqliteRow>, StoreError> {
        query
            .build()
            .fetch_all(&mut *self.inner)
            .await
            .map_err(judge)
    }

    /// How far a spool has been taken.
    pub async fn epoch(&mut self, node: &str, epoch: u64) -> Result<Option<EpochRow>, StoreError> {
        let mut query = QueryBuilder::new(
            "select node, epoch, last_sequence, last_batch, full_report from epochs where node = ",
        );
        query.push_bind(node).push(" and epoch = ");
        query.push_bind(epoch.cast_signed());
        self.fetch(query)
            .await?
            .first()
            .map(rows::epoch)
            .transpose()
    }

    /// Remembers how far spools have been taken.
    pub async fn put_epochs(&mut self, epochs: &[EpochRow]) -> Result<(), StoreError> {
        for chunk in epochs.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "insert into epochs (node, epoch, last_sequence, last_batch, full_report) ",
            );
            query.push_values(chunk, |mut row, epoch| {
                row.push_bind(&epoch.node)
                    .push_bind(epoch.epoch.cast_signed())
                    .push_bind(number(epoch.last_sequence))
                    .push_bind(epoch.last_batch)
                    .push_bind(epoch.full_report);
            });
            query.push(
                " on conflict do update set last_sequence = excluded.last_sequence, \
                 last_batch = excluded.last_batch, full_report = excluded.full_report",
            );
            self.execute(query).await?;
        }
        Ok(())
    }

    /// Adds to history; what is there already stays.
    pub async fn put_history(&mut self, history: &[HistoryRow<'_>]) -> Result<(), StoreError> {
        for chunk in history.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "insert into transitions (node, epoch, sequence, fingerprint, namespace, container, \
                 transition, reason, severity, observed, received, document) ",
            );
            query.push_values(chunk, |mut row, entry| {
                row.push_bind(&entry.key.node)
                    .push_bind(entry.epoch.cast_signed())
                    .push_bind(number(entry.sequence))
                    .push_bind(entry.key.fingerprint.as_bytes().as_slice())
                    .push_bind(&entry.key.namespace)
                    .push_bind(&entry.key.container)
                    .push_bind(entry.transition.as_str())
                    .push_bind(entry.reason.map(Resolution::as_str))
                    .push_bind(severity_number(entry.severity))
                    .push_bind(entry.observed)
                    .push_bind(entry.received)
                    .push_bind(entry.document);
            });
            query.push(" on conflict do nothing");
            self.execute(query).await?;
        }
        Ok(())
    }

    /// The places that exist among `keys`. A join, because `SQLite` scans the table for `(a, b) in (values …)`.
    pub async fn places(&mut self, keys: &[PlaceKey]) -> Result<Vec<PlaceRow>, StoreError> {
        let mut places = Vec::new();
        for chunk in keys.chunks(ROWS) {
            let mut query =
                QueryBuilder::new("with keys (fingerprint, node, namespace, container) as (");
            query.push_values(chunk, |mut row, key| {
                row.push_bind(key.fingerprint.as_bytes().as_slice())
                    .push_bind(&key.node)
                    .push_bind(&key.namespace)
                    .push_bind(&key.container);
            });
            query.push(") select ").push(rows::PLACE).push(
                " from keys k join places p on p.fingerprint = k.fingerprint and p.node = k.node \
                 and p.namespace = k.namespace and p.container = k.container",
            );
            for row in self.fetch(query).await? {
                places.push(rows::place(&row)?);
            }
        }
        Ok(places)
    }

    /// What is open on a node.
    pub async fn open_places(&mut self, node: &str) -> Result<Vec<PlaceRow>, StoreError> {
        let mut query = QueryBuilder::new("select ");
        query
            .push(rows::PLACE)
            .push(" from places p where p.resolved is null and p.node = ")
            .push_bind(node);
        self.fetch(query).await?.iter().map(rows::place).collect()
    }

    /// Writes places as they now stand.
    pub async fn put_places(&mut self, places: &[PlaceRow]) -> Result<(), StoreError> {
        for chunk in places.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "insert into places (fingerprint, node, namespace, container, severity, title, brief, \
                 first_seen, last_seen, resolved, reason, epoch, sequence) ",
            );
            query.push_values(chunk, |mut row, place| {
                row.push_bind(place.key.fingerprint.as_bytes().as_slice())
                    .push_bind(&place.key.node)
                    .push_bind(&place.key.namespace)
                    .push_bind(&place.key.container)
                    .push_bind(severity_number(place.severity))
                    .push_bind(&place.title)
                    .push_bind(&place.brief)
                    .push_bind(place.first_seen)
                    .push_bind(place.last_seen)
                    .push_bind(place.resolved)
                    .push_bind(place.reason.map(Resolution::as_str))
                    .push_bind(place.epoch.cast_signed())
                    .push_bind(number(place.sequence));
            });
            query.push(
                " on conflict do update set severity = excluded.severity, title = excluded.title, \
                 brief = excluded.brief, first_seen = excluded.first_seen, \
                 last_seen = excluded.last_seen, resolved = excluded.resolved, \
                 reason = excluded.reason, epoch = excluded.epoch, sequence = excluded.sequence",
            );
            self.execute(query).await?;
        }
        Ok(())
    }

    /// The worst open place of each finding that has one.
    pub async fn leads(
        &mut self,
        fingerprints: &[Fingerprint],
    ) -> Result<BTreeMap<Fingerprint, Lead>, StoreError> {
        let mut leads = BTreeMap::new();
        for chunk in fingerprints.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "select fingerprint, node, namespace, container, severity, places from (\
                 select fingerprint, node, namespace, container, severity, \
                 count(*) over (partition by fingerprint) as places, row_number() over (\
                 partition by fingerprint order by severity desc, last_seen desc, node, namespace, \
                 container) as rank from places where resolved is null and fingerprint in (",
            );
            push_fingerprints(&mut query, chunk);
            query.push(")) where rank = 1");
            for row in self.fetch(query).await? {
                let key = rows::key(&row, 0)?;
                let lead = Lead {
                    severity: rows::severity(row.try_get(4)?)?,
                    places_open: rows::count(row.try_get(5)?)?,
                    key,
                };
                leads.insert(lead.key.fingerprint, lead);
            }
        }
        Ok(leads)
    }

    /// The findings that exist among `fingerprints`.
    pub async fn findings(
        &mut self,
        fingerprints: &[Fingerprint],
    ) -> Result<HashMap<Fingerprint, FindingRow>, StoreError> {
        let mut findings = HashMap::new();
        for chunk in fingerprints.chunks(ROWS) {
            let mut query = QueryBuilder::new("select ");
            query
                .push(rows::FINDING)
                .push(" from findings f where f.fingerprint in (");
            push_fingerprints(&mut query, chunk);
            query.push(")");
            for row in self.fetch(query).await? {
                let finding = rows::finding(&row)?;
                findings.insert(finding.fingerprint, finding);
            }
        }
        Ok(findings)
    }

    /// Writes findings as they now stand.
    pub async fn put_findings(&mut self, findings: &[FindingRow]) -> Result<(), StoreError> {
        for chunk in findings.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "insert into findings (fingerprint, kind, workload, subject, severity, first_seen, \
                 last_seen, opened, resolved, reason, places_open, lead_node, lead_namespace, \
                 lead_container, members, news, news_at, change) ",
            );
            query.push_values(chunk, |mut row, finding| {
                row.push_bind(finding.fingerprint.as_bytes().as_slice())
                    .push_bind(&finding.kind)
                    .push_bind(&finding.workload)
                    .push_bind(&finding.subject)
                    .push_bind(severity_number(finding.severity))
                    .push_bind(finding.first_seen)
                    .push_bind(finding.last_seen)
                    .push_bind(finding.opened)
                    .push_bind(finding.resolved)
                    .push_bind(finding.reason.map(Resolution::as_str))
                    .push_bind(number(finding.places_open))
                    .push_bind(&finding.lead.node)
                    .push_bind(&finding.lead.namespace)
                    .push_bind(&finding.lead.container)
                    .push_bind(&finding.members)
                    .push_bind(number(finding.news))
                    .push_bind(finding.news_at)
                    .push_bind(finding.change);
            });
            query.push(
                " on conflict (fingerprint) do update set severity = excluded.severity, \
                 first_seen = excluded.first_seen, last_seen = excluded.last_seen, \
                 opened = excluded.opened, resolved = excluded.resolved, reason = excluded.reason, \
                 places_open = excluded.places_open, lead_node = excluded.lead_node, \
                 lead_namespace = excluded.lead_namespace, lead_container = excluded.lead_container, \
                 members = excluded.members, news = excluded.news, news_at = excluded.news_at, \
                 change = excluded.change",
            );
            self.execute(query).await?;
        }
        Ok(())
    }

    /// The number of the last transaction that touched a finding.
    pub async fn last_change(&mut self) -> Result<i64, StoreError> {
        let query = QueryBuilder::new("select coalesce(max(change), 0) from findings");
        let rows = self.fetch(query).await?;
        let row = rows.first().ok_or(StoreError::Row("change"))?;
        Ok(row.try_get(0)?)
    }

    /// Writes containers as they now stand.
    pub async fn put_containers(&mut self, containers: &[ContainerRow]) -> Result<(), StoreError> {
        for chunk in containers.chunks(ROWS) {
            let mut query = QueryBuilder::new(
                "insert into containers (node, namespace, container, running, observed, received, \
                 document) ",
            );
            query.push_values(chunk, |mut row, container| {
                row.push_bind(&container.node)
                    .push_bind(&container.namespace)
                    .push_bind(&container.container)
                    .push_bind(container.is_running)
                    .push_bind(container.observed)
                    .push_bind(container.received)
                    .push_bind(&container.document);
            });
            query.push(
                " on conflict do update set running = excluded.running, \
                 observed = excluded.observed, received = excluded.received, \
                 document = excluded.document",
            );
            self.execute(query).await?;
        }
        Ok(())
    }

    /// The containers of a node that we hold for running.
    pub async fn running(&mut self, node: &str) -> Result<Vec<ContainerRow>, StoreError> {
        let mut query = QueryBuilder::new(
            "select node, namespace, container, running, observed, received, document \
             from containers where running = 1 and node = ",
        );
        query.push_bind(node);
        self.fetch(query)
            .await?
            .iter()
            .map(rows::container)
            .collect()
    }

    /// Writes nodes as they were last heard.
    pub async fn put_nodes(&mut self, nodes: &[NodeRow]) -> Result<(), StoreError> {
        for chunk in nodes.chunks(ROWS) {
            let mut query =
                QueryBuilder::new("insert into nodes (name, first_heard, last_heard, heartbeat) ");
            query.push_values(chunk, |mut row, node| {
                row.push_bind(&node.name)
                    .push_bind(node.first_heard)
                    .push_bind(node.last_heard)
                    .push_bind(&node.heartbeat);
            });
            query.push(
                " on conflict do update set last_heard = excluded.last_heard, \
                 heartbeat = excluded.heartbeat",
            );
            self.execute(query).await?;
        }
        Ok(())
    }

    /// Forgets what was over before `cutoff`, at most `limit` rows of each kind. A place stays while its finding shows it, a transition while a place points at it, and an
    /// epoch while it is its node's last.
    pub async fn sweep(&mut self, cutoff: i64, limit: i64) -> Result<(), StoreError> {
        const SWEEPS: &[&str] = &[
            "delete from findings where id in (select id from findings \
             where resolved < $1 limit $2)",
            "delete from places where rowid in (select p.rowid from places p \
             where p.resolved < $1 and not exists (select 1 from findings f \
             where f.fingerprint = p.fingerprint and f.lead_node = p.node \
             and f.lead_namespace = p.namespace and f.lead_container = p.container) limit $2)",
            "delete from transitions where id in (select t.id from transitions t \
             where t.received < $1 and not exists (select 1 from places p where p.node = t.node \
             and p.epoch = t.epoch and p.sequence = t.sequence) order by t.received limit $2)",
            "delete from containers where rowid in (select rowid from containers \
             where running = 0 and received < $1 limit $2)",
            "delete from epochs where rowid in (select e.rowid from epochs e \
             where e.last_batch < $1 and exists (select 1 from epochs n where n.node = e.node \
             and n.epoch <> 0 and n.last_batch > e.last_batch) and e.epoch <> 0 limit $2)",
        ];
        for sweep in SWEEPS {
            sqlx::query(*sweep)
                .bind(cutoff)
                .bind(limit)
                .execute(&mut *self.inner)
                .await
                .map_err(judge)?;
        }
        Ok(())
    }
}

fn push_fingerprints(query: &mut QueryBuilder<Sqlite>, fingerprints: &[Fingerprint]) {
    let mut list = query.separated(", ");
    for fingerprint in fingerprints {
        list.push_bind(fingerprint.as_bytes().as_slice());
    }
}
