//! `/api/v1/dropped-skeletons`: who gave a skeleton that was wrong.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Api;
use crate::relay::DroppedSkeleton;

#[derive(Debug, Serialize)]
pub(super) struct Page {
    dropped_skeletons: Vec<DroppedSkeleton>,
    next_cursor: Option<String>,
}

/// The latest ones, which are few.
pub(super) async fn dropped(State(api): State<Api>) -> Json<Page> {
    Json(Page {
        dropped_skeletons: api.relay.dropped(),
        next_cursor: None,
    })
}
