//! `/api/v1/findings`: what is wrong, over all places.

use axum::Json;
use axum::extract::{Path, State};
use holdfast_core::container::ContainerRef;
use holdfast_core::finding::{Fingerprint, ImageRef, Kind, Resolution, Severity};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Api, ApiError, Parameters, cursor, limit, parse_cursor};
use crate::findings::Brief;
use crate::store::{FindingFilter, FindingView, PlaceRow};

/// Places shown with one finding; their number is said.
const MAX_PLACES: i64 = 500;

/// Transitions shown with one finding, the latest first.
const MAX_TRANSITIONS: i64 = 100;

/// What a list can be narrowed by.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    state: Option<Wanted>,
    /// One or several, with commas.
    severity: Option<String>,
    /// One or several, with commas.
    kind: Option<String>,
    workload: Option<String>,
    cursor: Option<String>,
    limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wanted {
    Open,
    Resolved,
    All,
}

#[derive(Debug, Serialize)]
pub(super) struct Page {
    findings: Vec<Summary>,
    next_cursor: Option<String>,
}

/// A finding in a list.
#[derive(Debug, Serialize)]
struct Summary {
    fingerprint: Fingerprint,
    state: &'static str,
    kind: String,
    severity: Severity,
    title: String,
    workload: String,
    subject: String,
    image: Option<ImageRef>,
    /// The first few lines of what is wrong at its worst place.
    lines: Vec<String>,
    lines_total: u64,
    places_open: u64,
    /// The first few nodes.
    nodes: Vec<String>,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    opened_at: Option<Timestamp>,
    resolved_at: Option<Timestamp>,
    reason: Option<Resolution>,
}

/// One finding with its evidence.
#[derive(Debug, Serialize)]
pub(super) struct Whole {
    #[serde(flatten)]
    summary: Summary,
    /// The document of its worst place: `holdfast.finding/v1`.
    finding: Option<Value>,
    /// Open places first, the worst of them first; at most 500.
    places: Vec<Place>,
    /// The latest transitions; at most 100.
    transitions: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Place {
    node: String,
    container: Option<ContainerRef>,
    state: &'static str,
    severity: Severity,
    title: String,
    first_seen: Option<Timestamp>,
    last_seen: Option<Timestamp>,
    resolved_at: Option<Timestamp>,
    reason: Option<Resolution>,
}

#[derive(Debug, Serialize)]
struct Step {
    node: String,
    container: Option<String>,
    transition: String,
    reason: Option<String>,
    severity: Severity,
    observed_at: Option<Timestamp>,
    received_at: Option<Timestamp>,
}

/// A page of findings, newest first.
pub(super) async fn list(
    State(api): State<Api>,
    Parameters(filter): Parameters<Filter>,
) -> Result<Json<Page>, ApiError> {
    let limit = limit(filter.limit)?;
    let mut views = api.store.findings(&filter.for_store(limit)?).await?;
    let shown = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = views.len() > shown;
    views.truncate(shown);
    let last = views.last().filter(|_| has_more);
    Ok(Json(Page {
        next_cursor: last.map(|view| cursor(&[&view.finding.id.to_string()])),
        findings: views.into_iter().map(summary).collect(),
    }))
}

/// One finding.
pub(super) async fn one(
    State(api): State<Api>,
    Path(fingerprint): Path<String>,
) -> Result<Json<Whole>, ApiError> {
    let fingerprint: Fingerprint = fingerprint
        .parse()
        .map_err(|_hex| ApiError::Parameter("a fingerprint has 32 hex digits".to_owned()))?;
    let view = api.store.finding(fingerprint).await?;
    let view = view.ok_or(ApiError::NotFound("no finding with this fingerprint"))?;
    let places = api.store.places(fingerprint, MAX_PLACES).await?;
    let lead = places.iter().find(|place| place.key == view.finding.lead);
    let document = match lead {
        Some(lead) => api.store.document(lead).await?,
        None => None,
    };
    let history = api.store.history(fingerprint, MAX_TRANSITIONS).await?;
    let steps = history.into_iter().map(|step| Step {
        node: step.node,
        container: Some(step.container).filter(|id| !id.is_empty()),
        transition: step.transition,
        reason: step.reason,
        severity: step.severity,
        observed_at: time(step.observed),
        received_at: time(step.received),
    });
    Ok(Json(Whole {
        summary: summary(view),
        finding: document.and_then(|json| serde_json::from_str(&json).ok()),
        places: places.into_iter().map(place).collect(),
        transitions: steps.collect(),
    }))
}

impl Filter {
    fn for_store(self, limit: u32) -> Result<FindingFilter, ApiError> {
        let after = match &self.cursor {
            Some(text) => {
                let [id] = parse_cursor(text)?;
                let id = id.parse().map_err(|_number| {
                    ApiError::Parameter("cursor is not one that this list has given".to_owned())
                })?;
                Some(id)
            }
            None => None,
        };
        Ok(FindingFilter {
            is_open: match self.state.unwrap_or(Wanted::Open) {
                Wanted::Open => Some(true),
                Wanted::Resolved => Some(false),
                Wanted::All => None,
            },
            severities: words(self.severity.as_deref())
                .map(|word| word.parse().map_err(ApiError::Parameter))
                .collect::<Result<_, _>>()?,
            kinds: words(self.kind.as_deref())
                .map(known_kind)
                .collect::<Result<_, _>>()?,
            workload: self.workload,
            after,
            limit: i64::from(limit) + 1,
        })
    }
}

fn words(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.into_iter().flat_map(|list| list.split(','))
}

fn known_kind(word: &str) -> Result<String, ApiError> {
    let known = Kind::ALL.iter().find(|kind| kind.as_str() == word);
    known.map(ToString::to_string).ok_or_else(|| {
        let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        ApiError::Parameter(format!(
            "{word:?} is no kind; expected one of {}",
            names.join(", ")
        ))
    })
}

fn summary(view: FindingView) -> Summary {
    let (finding, brief) = (view.finding, Brief::from_json(&view.brief));
    Summary {
        fingerprint: finding.fingerprint,
        state: state(finding.resolved),
        kind: finding.kind,
        severity: finding.severity,
        title: view.title,
        workload: finding.workload,
        subject: finding.subject,
        image: brief.image,
        lines: brief.lines,
        lines_total: brief.lines_total,
        places_open: finding.places_open,
        nodes: view.nodes,
        first_seen: time(finding.first_seen),
        last_seen: time(finding.last_seen),
        opened_at: time(finding.opened),
        resolved_at: finding.resolved.and_then(time),
        reason: finding.reason,
    }
}

fn place(place: PlaceRow) -> Place {
    Place {
        node: place.key.node,
        container: Brief::from_json(&place.brief).container,
        state: state(place.resolved),
        severity: place.severity,
        title: place.title,
        first_seen: time(place.first_seen),
        last_seen: time(place.last_seen),
        resolved_at: place.resolved.and_then(time),
        reason: place.reason,
    }
}

const fn state(resolved: Option<i64>) -> &'static str {
    if resolved.is_some() {
        "resolved"
    } else {
        "open"
    }
}

fn time(millis: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(millis).ok()
}
