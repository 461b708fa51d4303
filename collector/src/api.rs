//! The HTTP API under `/api/v1/`: JSON, read only. It decides nothing and writes nothing.
//!
//! Lists have an order that new rows do not disturb and an opaque cursor, so that reading a list to its
//! end gives each entry once. Errors are `{"error": "…"}`.

mod containers;
mod findings;
mod nodes;
mod skeletons;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::nodes::Fleet;
use crate::relay::Relay;
use crate::store::{Store, StoreError};

/// Entries of a list when nobody says how many.
const DEFAULT_LIMIT: u32 = 100;

/// Entries of a list at most.
const MAX_LIMIT: u32 = 500;

/// What requests read.
#[derive(Clone, Debug)]
pub struct Api {
    /// What is stored.
    pub store: Store,
    /// Who reports.
    pub fleet: Arc<Fleet>,
    /// What is handed on.
    pub relay: Relay,
}

/// The routes of the API.
pub fn router(api: Api) -> Router {
    let routes = Router::new()
        .route("/findings", get(findings::list))
        .route("/findings/{fingerprint}", get(findings::one))
        .route("/nodes", get(nodes::list))
        .route("/containers", get(containers::list))
        .route("/dropped-skeletons", get(skeletons::dropped))
        .fallback(async || ApiError::NotFound("no such resource"))
        .method_not_allowed_fallback(async || ApiError::Method)
        .with_state(api);
    Router::new().nest("/api/v1", routes)
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
enum ApiError {
    /// A parameter is wrong.
    #[error("{0}")]
    Parameter(String),
    /// Nothing there.
    #[error("{0}")]
    NotFound(&'static str),
    /// Only GET is served.
    #[error("only GET is served here")]
    Method,
    /// The store does not answer.
    #[error("the store does not answer")]
    Store(#[from] StoreError),
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Parameter(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Store(error) => {
                tracing::error!(%error, "Request could not be answered.");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        (status, Json(json!({ "error": self.to_string() }))).into_response()
    }
}

/// Query parameters whose errors are JSON too.
#[derive(Debug)]
struct Parameters<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Parameters<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(parameters)) => Ok(Self(parameters)),
            Err(rejection) => Err(ApiError::Parameter(rejection.body_text())),
        }
    }
}

/// The number of entries that was asked for.
fn limit(limit: Option<u32>) -> Result<u32, ApiError> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(ApiError::Parameter(format!(
            "limit must be 1 to {MAX_LIMIT}"
        ))),
    }
}

/// Where the next page begins, in a form that nobody should take apart.
fn cursor(parts: &[&str]) -> String {
    hex::encode(parts.join("\0"))
}

/// The parts of a cursor of ours.
fn parse_cursor<const N: usize>(cursor: &str) -> Result<[String; N], ApiError> {
    let wrong = || ApiError::Parameter("cursor is not one that a list has given".to_owned());
    let text = hex::decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(wrong)?;
    let parts: Vec<String> = text.split('\0').map(str::to_owned).collect();
    parts.try_into().map_err(|_count| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_gives_its_parts_back_and_another_text_is_refused() {
        let parts = ["n-1".to_owned(), "k8s.io".to_owned()];
        assert_eq!(parse_cursor(&cursor(&["n-1", "k8s.io"])).unwrap(), parts);
        for wrong in ["", "zz", "00", "ff"] {
            assert!(parse_cursor::<3>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_limit_is_between_one_and_five_hundred() {
        assert_eq!(limit(None).unwrap(), DEFAULT_LIMIT);
        assert_eq!(limit(Some(500)).unwrap(), 500);
        assert!(limit(Some(0)).is_err());
        assert!(limit(Some(501)).is_err());
    }
}
