//! What is kept for each registry: how many requests are in flight, the pause it asked for, tokens.
//!
//! A registry that is slow or angry must cost the others nothing, and must not be asked more the more
//! it fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::HeaderValue;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::auth::Token;
use crate::error::FetchError;

/// Requests in flight to one registry.
const IN_FLIGHT: usize = 4;
/// Registries that are remembered: names on a node are chosen by whoever starts containers.
const MAX_LANES: usize = 256;
/// Tokens that are remembered for one registry, one a repository.
const MAX_TOKENS: usize = 256;
/// The pause after a 429 that names none.
const DEFAULT_PAUSE: Duration = Duration::from_mins(1);
/// Longest pause that is believed: a registry must not silence a check for a day.
const MAX_PAUSE: Duration = Duration::from_hours(1);
/// A token is not used in its last seconds.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);

/// The lanes of all registries, by host and port.
#[derive(Debug, Default)]
pub(crate) struct Lanes(Mutex<HashMap<String, Arc<Lane>>>);

impl Lanes {
    /// The lane of `registry`.
    pub(crate) fn of(&self, registry: &str) -> Arc<Lane> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(registry) {
            return Arc::clone(lane);
        }
        if lanes.len() >= MAX_LANES {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1 || lane.pause().is_some());
        }
        let lane = Arc::new(Lane::default());
        // Still full: each is in use or asked for a pause. The newcomer is served and not remembered.
        if lanes.len() < MAX_LANES {
            lanes.insert(registry.to_owned(), Arc::clone(&lane));
        }
        lane
    }
}

/// One registry.
#[derive(Debug)]
pub(crate) struct Lane {
    in_flight: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    paused_until: Option<Instant>,
    tokens: HashMap<String, (HeaderValue, Instant)>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            in_flight: Semaphore::new(IN_FLIGHT),
            state: Mutex::default(),
        }
    }
}

impl Lane {
    /// Waits for a place in the lane, unless the registry has asked to be left alone.
    pub(crate) async fn enter(&self) -> Result<SemaphorePermit<'_>, FetchError> {
        let permit = self
            .in_flight
            .acquire()
            .await
            .map_err(|_closed| FetchError::Timeout)?;
        match self.pause() {
            Some(pause) => Err(FetchError::RateLimited { pause }),
            None => Ok(permit),
        }
    }

    /// Notes a 429, with what its `Retry-After` said, and gives the pause that holds.
    pub(crate) fn rate_limited(&self, retry_after: Option<Duration>) -> FetchError {
        let pause = retry_after.unwrap_or(DEFAULT_PAUSE).min(MAX_PAUSE);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.paused_until = Instant::now().checked_add(pause);
        FetchError::RateLimited { pause }
    }

    /// What is left of a pause.
    fn pause(&self) -> Option<Duration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let left = state
            .paused_until?
            .saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// A token for reading `path` that still lives.
    pub(crate) fn token(&self, path: &str) -> Option<HeaderValue> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (header, until) = state.tokens.get(path)?;
        (*until > Instant::now()).then(|| header.clone())
    }

    /// Remembers a token for reading `path`.
    pub(crate) fn keep(&self, path: &str, token: &Token) {
        let now = Instant::now();
        let life = token.life.saturating_sub(TOKEN_MARGIN);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
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
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tokens.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_holds_for_its_time_and_is_bounded() {
        let lane = Lane::default();
        assert!(lane.enter().await.is_ok());

        let error = lane.rate_limited(Some(Duration::from_secs(1 << 40)));
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
    async fn a_token_is_kept_for_its_repository_and_its_life() {
        let lane = Lane::default();
        let token = Token::parse(br#"{"token":"t","expires_in":100}"#).unwrap();
        lane.keep("a", &token);
        assert!(lane.token("a").is_some());
        assert!(lane.token("b").is_none());
        tokio::time::advance(Duration::from_secs(95)).await;
        assert!(lane.token("a").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_are_bounded_and_pauses_are_not_forgotten() {
        let lanes = Lanes::default();
        let _pause = lanes.of("angry").rate_limited(None);
        for at in 0..(MAX_LANES * 2) {
            lanes.of(&format!("r{at}"));
        }
        assert!(lanes.0.lock().unwrap().len() <= MAX_LANES);
        assert!(lanes.of("angry").enter().await.is_err());
    }
}
