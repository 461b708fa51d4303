//! What readers can ask. Every list has a limit and an order that new rows do not disturb.

use holdfast_core::finding::Fingerprint;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::rows::{self, severity_number};
use super::{Store, judge};
use crate::store::{
    ContainerRow, EpochRow, FindingFilter, FindingView, NodeRow, OWN_EPOCH, PlaceRow, StoreError,
};

/// Nodes named with a finding in lists and alerts.
const NODES_NAMED: i64 = 5;

/// A finding joined with its lead place.
const VIEW: &str = " from findings f join places p on p.fingerprint = f.fingerprint \
     and p.node = f.lead_node and p.namespace = f.lead_namespace and p.container = f.lead_container ";

/// One line of a finding's history.
#[derive(Clone, Debug)]
pub struct TransitionView {
    /// The node.
    pub node: String,
    /// containerd's container id; empty for a finding about a node.
    pub container: String,
    /// What happened.
    pub transition: String,
    /// Why it is resolved.
    pub reason: Option<String>,
    /// How bad it was.
    pub severity: holdfast_core::finding::Severity,
    /// When, by the node's clock.
    pub observed: i64,
    /// When it reached us.
    pub received: i64,
}

impl Store {
    async fn fetch(&self, mut query: QueryBuilder<Sqlite>) -> Result<Vec<SqliteRow>, StoreError> {
        query.build().fetch_all(&self.readers).await.map_err(judge)
    }

    /// Findings, newest first.
    pub async fn findings(&self, filter: &FindingFilter) -> Result<Vec<FindingView>, StoreError> {
        let mut query = select_view();
        query.push(VIEW).push(" where true ");
        match filter.is_open {
            Some(true) => _ = query.push(" and f.resolved is null "),
            Some(false) => _ = query.push(" and f.resolved is not null "),
            None => {}
        }
        if !filter.severities.is_empty() {
            query.push(" and f.severity in (");
            let mut list = query.separated(", ");
            for severity in &filter.severities {
                list.push_bind(severity_number(*severity));
            }
            query.push(") ");
        }
        if !filter.kinds.is_empty() {
            query.push(" and f.kind in (");
            let mut list = query.separated(", ");
            for kind in &filter.kinds {
                list.push_bind(kind);
            }
            query.push(") ");
        }
        if let Some(workload) = &filter.workload {
            query.push(" and f.workload = ").push_bind(workload);
        }
        if let Some(after) = filter.after {
            query.push(" and f.id < ").push_bind(after);
        }
        query
            .push(" order by f.id desc limit ")
            .push_bind(filter.limit);
        self.views(query).await
    }

    /// One finding.
    pub async fn finding(
        &self,
        fingerprint: Fingerprint,
    ) -> Result<Option<FindingView>, StoreError> {
        let mut query = select_view();
        query.push(VIEW).push(" where f.fingerprint = ");
        query.push_bind(fingerprint.as_bytes().as_slice());
        Ok(self.views(query).await?.pop())
    }

    /// What receivers of alerts should know: the `limit` worst open findings, and those resolved since
    /// `resolved_since`; of both only what a transaction after `change` has touched.
    pub async fn alerts(
        &self,
        change: i64,
        resolved_since: i64,
        limit: i64,
    ) -> Result<Vec<FindingView>, StoreError> {
        let mut query = select_view();
        query
            .push(VIEW)
            .push(
                " where f.id in (select id from (select id, change from findings \
                 where resolved is null order by severity desc, id limit ",
            )
            .push_bind(limit)
            .push(") where change > ")
            .push_bind(change)
            .push(" union select id from findings where resolved >= ")
            .push_bind(resolved_since)
            .push(" and change > ")
            .push_bind(change)
            .push(") order by f.id");
        self.views(query).await
    }

    /// How many findings are open, by kind and severity.
    pub async fn open_counts(
        &self,
    ) -> Result<Vec<(String, holdfast_core::finding::Severity, i64)>, StoreError> {
        let query = QueryBuilder::new(
            "select kind, severity, count(*) from findings where resolved is null group by 1, 2",
        );
        let rows = self.fetch(query).await?;
        rows.iter()
            .map(|row| {
                let severity = rows::severity(row.try_get(1)?)?;
                Ok((row.try_get(0)?, severity, row.try_get(2)?))
            })
            .collect()
    }

    /// The last transaction that touched a finding.
    pub async fn last_change(&self) -> Result<i64, StoreError> {
        let query = QueryBuilder::new("select coalesce(max(change), 0) from findings");
        let rows = self.fetch(query).await?;
        let row = rows.first().ok_or(StoreError::Row("change"))?;
        Ok(row.try_get(0)?)
    }

    /// The places of a finding: open ones first, the worst of them first.
    pub async fn places(
        &self,
        fingerprint: Fingerprint,
        limit: i64,
    ) -> Result<Vec<PlaceRow>, StoreError> {
        let mut query = QueryBuilder::new("select ");
        query
            .push(rows::PLACE)
            .push(" from places p where p.fingerprint = ")
            .push_bind(fingerprint.as_bytes().as_slice())
            .push(
                " order by p.resolved is not null, p.severity desc, p.last_seen desc, p.node, \
                 p.namespace, p.container limit ",
            )
            .push_bind(limit);
        self.fetch(query).await?.iter().map(rows::place).collect()
    }

    /// The document of a place.
    pub async fn document(&self, place: &PlaceRow) -> Result<Option<String>, StoreError> {
        let mut query = QueryBuilder::new("select document from transitions where node = ");
        query
            .push_bind(&place.key.node)
            .push(" and epoch = ")
            .push_bind(place.epoch.cast_signed())
            .push(" and sequence = ")
            .push_bind(rows::number(place.sequence))
            .push(" limit 1");
        match self.fetch(query).await?.first() {
            Some(row) => Ok(row.try_get(0)?),
            None => Ok(None),
        }
    }

    /// The last transitions of a finding, newest first.
    pub async fn history(
        &self,
        fingerprint: Fingerprint,
        limit: i64,
    ) -> Result<Vec<TransitionView>, StoreError> {
        let mut query = QueryBuilder::new(
            "select node, container, transition, reason, severity, observed, received \
             from transitions where fingerprint = ",
        );
        query
            .push_bind(fingerprint.as_bytes().as_slice())
            .push(" order by id desc limit ")
            .push_bind(limit);
        let rows = self.fetch(query).await?;
        rows.iter()
            .map(|row| {
                Ok(TransitionView {
                    node: row.try_get(0)?,
                    container: row.try_get(1)?,
                    transition: row.try_get(2)?,
                    reason: row.try_get(3)?,
                    severity: rows::severity(row.try_get(4)?)?,
                    observed: row.try_get(5)?,
                    received: row.try_get(6)?,
                })
            })
            .collect()
    }

    /// Containers by node, namespace and id, after the given ones.
    pub async fn containers(
        &self,
        node: Option<&str>,
        after: Option<&(String, String, String)>,
        limit: i64,
    ) -> Result<Vec<ContainerRow>, StoreError> {
        let mut query = QueryBuilder::new(
            "select node, namespace, container, running, observed, received, document \
             from containers where true",
        );
        if let Some(node) = node {
            query.push(" and node = ").push_bind(node);
        }
        if let Some((node, namespace, container)) = after {
            query
                .push(" and (node, namespace, container) > (")
                .push_bind(node)
                .push(", ")
                .push_bind(namespace)
                .push(", ")
                .push_bind(container)
                .push(")");
        }
        query
            .push(" order by node, namespace, container limit ")
            .push_bind(limit);
        self.fetch(query)
            .await?
            .iter()
            .map(rows::container)
            .collect()
    }

    /// Every node that has reported.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let query = QueryBuilder::new("select name, first_heard, last_heard, heartbeat from nodes");
        self.fetch(query).await?.iter().map(rows::node).collect()
    }

    /// Every spool of every node, the last one that reported last.
    pub async fn epochs(&self) -> Result<Vec<EpochRow>, StoreError> {
        let mut query = QueryBuilder::new(
            "select node, epoch, last_sequence, last_batch, full_report from epochs \
             where epoch <> ",
        );
        query
            .push_bind(OWN_EPOCH.cast_signed())
            .push(" order by last_batch");
        self.fetch(query).await?.iter().map(rows::epoch).collect()
    }

    /// The nodes that are held for silent.
    pub async fn silent_nodes(&self, kind: &str) -> Result<Vec<String>, StoreError> {
        let mut query = QueryBuilder::new(
            "select p.node from places p join findings f on f.fingerprint = p.fingerprint \
             where p.resolved is null and f.kind = ",
        );
        query.push_bind(kind);
        let rows = self.fetch(query).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Runs a query for views and names the nodes of those findings that have several.
    async fn views(&self, query: QueryBuilder<Sqlite>) -> Result<Vec<FindingView>, StoreError> {
        let rows = self.fetch(query).await?;
        let mut views: Vec<FindingView> = rows.iter().map(rows::view).collect::<Result<_, _>>()?;
        let mut several: Vec<&mut FindingView> = views
            .iter_mut()
            .filter(|view| view.finding.places_open > 1)
            .collect();
        for chunk in several.chunks_mut(500) {
            self.name_nodes(chunk).await?;
        }
        Ok(views)
    }

    async fn name_nodes(&self, views: &mut [&mut FindingView]) -> Result<(), StoreError> {
        let mut query = QueryBuilder::new(
            "select fingerprint, node from (select fingerprint, node, row_number() over (\
             partition by fingerprint order by node) as rank from (\
             select distinct fingerprint, node from places where resolved is null \
             and fingerprint in (",
        );
        let mut list = query.separated(", ");
        for view in views.iter() {
            list.push_bind(view.finding.fingerprint.as_bytes().as_slice());
        }
        query
            .push("))) where rank <= ")
            .push_bind(NODES_NAMED)
            .push(" order by node");
        let mut nodes: std::collections::HashMap<Fingerprint, Vec<String>> =
            std::collections::HashMap::new();
        for row in self.fetch(query).await? {
            let fingerprint = rows::fingerprint(row.try_get(0)?)?;
            nodes.entry(fingerprint).or_default().push(row.try_get(1)?);
        }
        for view in views {
            if let Some(nodes) = nodes.remove(&view.finding.fingerprint) {
                view.nodes = nodes;
            }
        }
        Ok(())
    }
}

fn select_view() -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("select ");
    query.push(rows::FINDING).push(", p.title, p.brief ");
    query
}
