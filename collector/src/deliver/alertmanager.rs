//! Alertmanager API v2, one task for each address: a dead one delays no other, and all are told, because
//! a cluster of them removes repeats itself.
//!
//! What is open is sent again and again, what was resolved for some minutes. On 400 a batch is halved
//! until the alert that is to blame is alone: one bad alert must not hold back the others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use holdfast_core::finding::{Fingerprint, Severity};
use holdfast_daemon::shutdown::Stop;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::alert::{Alert, alert};
use crate::config::{Alertmanager, AlertmanagerUrl};
use crate::store::{FindingView, Store, StoreError};
use crate::telemetry::{AlertState, Delivery, LogLimit, Metrics, Receiver};

/// Alerts in one request. Alertmanager takes 50,000 and sends them on as one notification.
const BATCH: usize = 500;

/// An alert is believed for this many sendings, so that two may be lost.
const SENDINGS_BELIEVED: u32 = 3;

/// A resolved alert is sent at least this long, as the API asks of its clients.
const RESOLVED_FOR: Duration = Duration::from_mins(5);

/// Changes are gathered this long: a storm of them is one request, not hundreds.
const GATHER: Duration = Duration::from_millis(300);

/// An Alertmanager that takes longer is tried again.
const REQUEST: Duration = Duration::from_secs(10);

/// First and longest pause after a failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_secs(30);

/// Why a request did not deliver.
#[derive(Debug, thiserror::Error)]
enum SendError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No answer.
    #[error("{0}")]
    NoAnswer(#[source] reqwest::Error),
    /// Another answer than "taken" or "malformed".
    #[error("answered {0}")]
    Status(reqwest::StatusCode),
}

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Everything: Alertmanager forgets what is not said again.
    All,
    /// What has changed since the last time.
    Changes,
}

/// Waits for what comes first; after a failure only for its pause, and then everything is due.
async fn next(
    pause: Option<Duration>,
    resend: &mut Interval,
    commits: &mut watch::Receiver<u64>,
) -> Due {
    if let Some(pause) = pause {
        tokio::time::sleep(pause).await;
        return Due::All;
    }
    tokio::select! {
        _ = resend.tick() => Due::All,
        Ok(()) = commits.changed() => {
            tokio::time::sleep(GATHER).await;
            Due::Changes
        }
    }
}

/// The identity of an alert that was sent.
#[derive(Clone, Debug)]
struct Sent {
    labels: BTreeMap<String, String>,
    starts_at: Timestamp,
}

/// Tells one Alertmanager.
#[derive(Debug)]
pub struct Sender {
    url: AlertmanagerUrl,
    config: Alertmanager,
    client: reqwest::Client,
    store: Store,
    metrics: Metrics,
    refusals: LogLimit,
    /// What was sent last, to end an alert whose labels have changed.
    sent: HashMap<Fingerprint, Sent>,
    /// Alerts whose labels were replaced, and until when their end is sent.
    replaced: Vec<(Alert, Instant)>,
    /// The last transaction that this one was told about.
    change: i64,
}

impl Sender {
    /// One sender for each address of the configuration.
    pub fn all(
        config: &Alertmanager,
        store: &Store,
        metrics: &Metrics,
    ) -> reqwest::Result<Vec<Self>> {
        let client = reqwest::Client::builder()
            .timeout(REQUEST)
            .redirect(reqwest::redirect::Policy::none()) // a redirect would carry the password along
            .no_proxy()
            .build()?;
        let sender = |url: &AlertmanagerUrl| Self {
            url: url.clone(),
            config: config.clone(),
            client: client.clone(),
            store: store.clone(),
            metrics: metrics.clone(),
            refusals: LogLimit::default(),
            sent: HashMap::new(),
            replaced: Vec::new(),
            change: 0,
        };
        Ok(config.urls.iter().map(sender).collect())
    }

    /// Sends until `stop` turns true.
    pub async fn run(
        mut self,
        mut commits: watch::Receiver<u64>,
        mut stop: Stop,
    ) -> Result<(), Infallible> {
        let mut resend = tokio::time::interval(self.config.resend());
        resend.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = RETRY_FIRST;
        let mut due = Due::All;
        loop {
            let wait = if let Err(error) = self.send(due).await {
                tracing::warn!(url = %self.url, %error, "Alerts could not be delivered.");
                let wait = jittered(pause);
                pause = (pause * 2).min(RETRY_LONGEST);
                Some(wait)
            } else {
                pause = RETRY_FIRST;
                None
            };
            tokio::select! {
                biased;
                _ = stop.changed() => return Ok(()),
                next = next(wait, &mut resend, &mut commits) => due = next,
            }
        }
    }

    /// Sends everything, or what has changed.
    async fn send(&mut self, due: Due) -> Result<(), SendError> {
        let now = Timestamp::now();
        let change = self.store.last_change().await?;
        let since = match due {
            Due::All => -1,
            Due::Changes => self.change,
        };
        let believed = self.config.resend() * SENDINGS_BELIEVED;
        let resolved_since = now
            .saturating_sub(RESOLVED_FOR.max(believed))
            .unwrap_or(Timestamp::UNIX_EPOCH);
        let until = now.saturating_add(believed).unwrap_or(Timestamp::MAX);
        let limit = i64::from(self.config.max_alerts.get());
        let views = self
            .store
            .alerts(since, resolved_since.as_millisecond(), limit)
            .await?;
        if due == Due::All {
            self.count(&views).await?;
            let current: HashSet<_> = views.iter().map(|view| view.finding.fingerprint).collect();
            self.sent
                .retain(|fingerprint, _| current.contains(fingerprint));
        }
        let mut alerts = Vec::with_capacity(views.len());
        for view in &views {
            let alert = alert(view, &self.config.labels, until);
            self.replace(view.finding.fingerprint, &alert, now);
            alerts.push(alert);
        }
        let clock = Instant::now();
        self.replaced.retain(|(_, until)| *until > clock);
        alerts.extend(self.replaced.iter().map(|(alert, _)| alert.clone()));
        for batch in alerts.chunks(BATCH) {
            self.post(batch).await?;
        }
        self.change = change;
        Ok(())
    }

    /// Ends the alert that went before under other labels: a severity that rose would leave two.
    fn replace(&mut self, fingerprint: Fingerprint, alert: &Alert, now: Timestamp) {
        let sent = Sent {
            labels: alert.labels.clone(),
            starts_at: alert.starts_at,
        };
        let before = self.sent.insert(fingerprint, sent);
        if let Some(before) = before.filter(|before| before.labels != alert.labels) {
            let ended = Alert {
                labels: before.labels,
                annotations: alert.annotations.clone(),
                starts_at: before.starts_at,
                ends_at: now.max(before.starts_at),
            };
            self.replaced.push((ended, Instant::now() + RESOLVED_FOR));
        }
    }

    /// Posts a batch; halves it when it is refused.
    async fn post(&self, batch: &[Alert]) -> Result<(), SendError> {
        let mut batches = vec![batch];
        while let Some(batch) = batches.pop() {
            let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            let metrics = &self.metrics;
            let counted = |outcome| metrics.delivered(Receiver::Alertmanager, outcome, count);
            let answer = self.client.post(self.url.alerts()).json(batch).send().await;
            let status = answer
                .map_err(|error| SendError::NoAnswer(error.without_url()))
                .inspect_err(|_| counted(Delivery::Failed))?
                .status();
            match (status, batch) {
                (status, _) if status.is_success() => counted(Delivery::Delivered),
                (reqwest::StatusCode::BAD_REQUEST, [alert]) => {
                    counted(Delivery::Refused);
                    self.on_refused(alert);
                }
                (reqwest::StatusCode::BAD_REQUEST, _) => {
                    let (left, right) = batch.split_at(batch.len() / 2);
                    batches.extend([right, left]);
                }
                (status, _) => {
                    counted(Delivery::Failed);
                    return Err(SendError::Status(status));
                }
            }
        }
        Ok(())
    }

    fn on_refused(&self, alert: &Alert) {
        if let Some(held_back) = self.refusals.pass(Instant::now()) {
            let finding = alert.labels.get("finding");
            tracing::error!(url = %self.url, finding, held_back, "Alert is refused.");
        }
    }

    /// Shows what is sent and what is withheld.
    async fn count(&self, views: &[FindingView]) -> Result<(), SendError> {
        let open = self.store.open_counts().await?;
        for severity in Severity::ALL {
            let of_severity = views
                .iter()
                .filter(|view| view.finding.severity == severity);
            let (firing, resolved): (Vec<_>, Vec<_>) =
                of_severity.partition(|view| view.finding.is_open());
            let open = open.iter().filter(|(_, of, _)| *of == severity);
            let open: i64 = open.map(|(_, _, count)| *count).sum();
            let firing = i64::try_from(firing.len()).unwrap_or(i64::MAX);
            let resolved = i64::try_from(resolved.len()).unwrap_or(i64::MAX);
            let set = |state, count| self.metrics.alerts(severity, state, count);
            set(AlertState::Firing, firing);
            set(AlertState::Resolved, resolved);
            set(AlertState::Withheld, (open - firing).max(0));
        }
        Ok(())
    }
}

/// Between half of `pause` and all of it, so that many senders do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1000;
    let half = pause / 2;
    half + half.mul_f64(u32::try_from(random).map_or(0.0, f64::from) / 1000.0)
}
