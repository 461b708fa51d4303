//! `/api/v1/containers`: what runs where, and which checks were done on it when.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Api, ApiError, Parameters, cursor, limit, parse_cursor};
use crate::store::ContainerRow;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    node: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct Page {
    containers: Vec<Container>,
    next_cursor: Option<String>,
}

/// A container as its node last described it.
#[derive(Debug, Serialize)]
struct Container {
    node: String,
    namespace: String,
    id: String,
    running: bool,
    received_at: Option<Timestamp>,
    /// The document: `holdfast.container/v1`.
    status: Option<Value>,
}

/// A page of containers, by node, namespace and id.
pub(super) async fn list(
    State(api): State<Api>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Page>, ApiError> {
    let limit = limit(filter.limit)?;
    let after = filter
        .cursor
        .as_deref()
        .map(parse_cursor::<3>)
        .transpose()?;
    let after = after.map(|[node, namespace, id]| (node, namespace, id));
    let mut rows = api
        .store
        .containers(filter.node.as_deref(), after.as_ref(), i64::from(limit) + 1)
        .await?;
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > shown;
    rows.truncate(shown);
    let last = rows.last().filter(|_| has_more);
    Ok(Json(Page {
        next_cursor: last.map(|row| cursor(&[&row.node, &row.namespace, &row.container])),
        containers: rows.into_iter().map(container).collect(),
    }))
}

fn container(row: ContainerRow) -> Container {
    Container {
        running: row.is_running,
        received_at: Timestamp::from_millisecond(row.received).ok(),
        status: serde_json::from_str(&row.document).ok(),
        node: row.node,
        namespace: row.namespace,
        id: row.container,
    }
}
