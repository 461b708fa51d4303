//! What is kept for each host: how many requests are in flight and how fast they follow, the pause it
//! asked for, whether it is down, tokens.
//!
//! A host that is slow or angry must cost the others nothing, and must not be asked more the more it
//! fails. Hosts of mirrors, token endpoints and redirects have lanes of their own.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::auth::Token;
use crate::breaker::Breaker;
use crate::error::FetchError;
use crate::pace::{Bucket, Pace};
use crate::retry_after::retry_after;

/// Requests in flight to one host.
const IN_FLIGHT: usize = 4;
/// Longest wait for our own pace: one that would be sent later than this is not sent at all.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Hosts that are remembered: names on a node are chosen by whoever starts containers.
const MAX_LANES: usize = 256;
/// Tokens that are remembered for one host, one a repository.
const MAX_TOKENS: usize = 256;
/// The pause after a 429 that names none.
const DEFAULT_PAUSE: Duration = Duration::from_mins(1);
/// Longest pause that is believed: a registry must not silence a check for a day.
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// A token is not used in its last seconds.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);

/// The lanes of all hosts, by host and port.
#[derive(Debug)]
pub(crate) struct Lanes {
    pace: Pace,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
}

impl Lanes {
    /// Lanes on which requests follow each other at this pace.
    pub(crate) fn new(pace: Pace) -> Self {
        Self {
            pace,
            lanes: Mutex::default(),
        }
    }

    /// The lane of `host`.
    pub(crate) fn of(&self, host: &str) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(host) {
            return Arc::clone(lane);
        }
        if lanes.len() >= MAX_LANES {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.has_grievance());
        }
        let lane = Arc::new(Lane::new(self.pace));
        // Still full: each is in use or has reason to be left alone. The newcomer is served and not
        // remembered.
        if lanes.len() < MAX_LANES {
            lanes.insert(host.to_owned(), Arc::clone(&lane));
        }
        lane
    }
}

/// One host.
#[derive(Debug)]
pub(crate) struct Lane {
    in_flight: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    breaker: Breaker,
    paused_until: Option<Instant>,
    tokens: HashMap<String, (HeaderValue, Instant)>,
}

/// A place in a lane, for one request. Whoever holds it says how the host did; one that says nothing
/// was given up.
#[derive(Debug)]
pub(crate) struct Pass {
    lane: Arc<Lane>,
    is_settled: bool,
    _permit: OwnedSemaphorePermit,
}

impl Pass {
    /// The host answered with this status.
    pub(crate) fn answered(&mut self, status: u16, headers: &HeaderMap) {
        self.is_settled = true;
        if status < 500 {
            self.lane.state().breaker.answered();
            return;
        }
        if let Some(pause) = retry_after(headers) {
            self.lane.pause_for(pause);
        }
        self.lane.failed(FetchError::Server(status));
    }

    /// There was no answer, or it broke off.
    pub(crate) fn failed(&mut self, error: &FetchError) {
        self.is_settled = true;
        if error.is_failure_of_host() {
            self.lane.failed(error.clone());
        }
    }

    /// Notes a 429, with what its `Retry-After` said, and gives the pause that holds.
    pub(crate) fn rate_limited(&self, headers: &HeaderMap) -> FetchError {
        let pause = self
            .lane
            .pause_for(retry_after(headers).unwrap_or(DEFAULT_PAUSE));
        FetchError::RateLimited { pause }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.is_settled {
            self.lane.state().breaker.gave_up();
        }
    }
}

impl Lane {
    fn new(pace: Pace) -> Self {
        Self {
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
            state: Mutex::new(State {
                bucket: Bucket::full(pace),
                breaker: Breaker::default(),
                paused_until: None,
                tokens: HashMap::new(),
            }),
        }
    }

    /// Waits for a place in the lane, unless the host is to be left alone.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Pass, FetchError> {
        self.ask_pause()?;
        let permit = Arc::clone(&self.in_flight)
            .acquire_owned()
            .await
            .map_err(|_closed| FetchError::Busy)?;
        let wait = self.state().bucket.reserve(1.0);
        if wait > MAX_WAIT {
            self.state().bucket.put_back(1.0);
            return Err(FetchError::Busy);
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        self.ask_pause()?;
        self.state().breaker.ask(Instant::now())?;
        Ok(Pass {
            lane: Arc::clone(self),
            is_settled: false,
            _permit: permit,
        })
    }

    fn ask_pause(&self) -> Result<(), FetchError> {
        match self.pause() {
            Some(pause) => Err(FetchError::RateLimited { pause }),
            None => Ok(()),
        }
    }

    /// Whether the host has asked for a pause, or is down.
    fn has_grievance(&self) -> bool {
        self.pause().is_some() || self.state().breaker.is_resting()
    }

    fn failed(&self, error: FetchError) {
        self.state().breaker.failed(error, Instant::now(), jittered);
    }

    fn pause_for(&self, pause: Duration) -> Duration {
        let pause = pause.min(MAX_PAUSE);
        self.state().paused_until = Instant::now().checked_add(pause);
        pause
    }

    /// What is left of a pause.
    fn pause(&self) -> Option<Duration> {
        let until = self.state().paused_until?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// A token for reading `path` that still lives.
    pub(crate) fn token(&self, path: &str) -> Option<HeaderValue> {
        let state = self.state();
        let (header, until) = state.tokens.get(path)?;
        (*until > Instant::now()).then(|| header.clone())
    }

    /// Remembers a token for reading `path`.
    pub(crate) fn keep(&self, path: &str, token: &Token) {
        let now = Instant::now();
        let life = token.life.saturating_sub(TOKEN_MARGIN);
        let mut state = self.state();
        if state.tokens.len() >= MAX_TOKENS {
            state.tokens.retain(|_, (_, until)| *until > now);
        }
        if let Some(until) = now
            .checked_add(life)
            .filter(|_| state.tokens.len() < MAX_TOKENS)
        {
            state
                .tokens
                .insert(path.to_owned(), (token.header.clone(), until));
        }
    }

    /// Forgets a token that was refused.
    pub(crate) fn forget(&self, path: &str) {
        self.state().tokens.remove(path);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between `pause` and twice that.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    let share = u32::try_from(random % 1000).unwrap_or_default();
    pause.saturating_add(pause.saturating_mul(share) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Pace = Pace {
        per_second: 1000.0,
        burst: 1000.0,
    };

    fn lane() -> Arc<Lane> {
        Arc::new(Lane::new(QUICK))
    }

    fn headers(retry_after: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", retry_after.parse().unwrap());
        headers
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_for_its_time_and_is_bounded() {
        let lane = lane();
        let pass = lane.enter().await.unwrap();

        let error = pass.rate_limited(&headers("999999999999"));
        assert_eq!(error, FetchError::RateLimited { pause: MAX_PAUSE });

        tokio::time::advance(MAX_PAUSE.saturating_sub(Duration::from_secs(1))).await;
        assert!(matches!(
            lane.enter().await,
            Err(FetchError::RateLimited { .. })
        ));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(lane.enter().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_fails_and_names_a_pause_gets_it() {
        let lane = lane();
        let mut pass = lane.enter().await.unwrap();
        pass.answered(503, &headers("30"));
        drop(pass);
        assert_eq!(
            lane.enter().await.unwrap_err(),
            FetchError::RateLimited {
                pause: Duration::from_secs(30)
            }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_keeps_failing_is_left_alone_and_tried_again() {
        let lane = lane();
        let error = loop {
            match lane.enter().await {
                Ok(mut pass) => pass.failed(&FetchError::Timeout),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, FetchError::LeftAlone { .. }), "{error}");
        tokio::time::advance(Duration::from_mins(1)).await;
        // Given up: says nothing about the host.
        drop(lane.enter().await.unwrap());
        let mut back = lane.enter().await.unwrap();
        back.answered(404, &HeaderMap::new());
        drop(back);
        assert!(lane.enter().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_follow_each_other_at_the_pace_and_do_not_pile_up() {
        let lane = Arc::new(Lane::new(Pace {
            per_second: 0.5,
            burst: 1.0,
        }));
        let started = Instant::now();
        drop(lane.enter().await.unwrap());
        drop(lane.enter().await.unwrap());
        assert_eq!(started.elapsed(), Duration::from_secs(2));

        lane.state().bucket.reserve(10.0);
        assert_eq!(lane.enter().await.unwrap_err(), FetchError::Busy);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_kept_for_its_repository_and_its_life() {
        let lane = lane();
        let token = Token::parse(br#"{"token":"t","expires_in":100}"#).unwrap();
        lane.keep("a", &token);
        assert!(lane.token("a").is_some());
        assert!(lane.token("b").is_none());
        tokio::time::advance(Duration::from_secs(95)).await;
        assert!(lane.token("a").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_are_bounded_and_pauses_are_not_forgotten() {
        let lanes = Lanes::new(QUICK);
        let angry = lanes.of("angry").enter().await.unwrap();
        let _pause = angry.rate_limited(&HeaderMap::new());
        drop(angry);
        for at in 0..(MAX_LANES * 2) {
            lanes.of(&format!("r{at}"));
        }
        assert!(lanes.lanes.lock().unwrap().len() <= MAX_LANES);
        assert!(lanes.of("angry").enter().await.is_err());
    }
}
