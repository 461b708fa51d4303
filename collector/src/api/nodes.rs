//! `/api/v1/nodes`: who reports.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};

use super::{Api, ApiError, Parameters, cursor, limit, parse_cursor};
use crate::nodes::NodeView;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    cursor: Option<String>,
    limit: Option<u32>,
}

#[derive(Debug, Serialize)]
pub(super) struct Page {
    nodes: Vec<NodeView>,
    next_cursor: Option<String>,
}

/// A page of nodes, by name.
pub(super) async fn list(
    State(api): State<Api>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Page>, ApiError> {
    let limit = usize::try_from(limit(filter.limit)?).unwrap_or(usize::MAX);
    let after = filter
        .cursor
        .as_deref()
        .map(parse_cursor::<1>)
        .transpose()?;
    let after = after.as_ref().map(|[name]| name.as_str());
    let mut nodes = api.fleet.list(after, limit + 1);
    let has_more = nodes.len() > limit;
    nodes.truncate(limit);
    let last = nodes.last().filter(|_| has_more);
    Ok(Json(Page {
        next_cursor: last.map(|node| cursor(&[&node.node])),
        nodes,
    }))
}
