//! Asking again at once, a few times, where that may help.

use std::time::Duration;

use crate::error::FetchError;
use crate::lane::jittered;

/// Attempts after the first.
const MAX_RETRIES: u32 = 2;
/// The first pause between attempts; doubled after, with up to as much again at random, so that a
/// fleet does not come back all at once.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What is left of the attempts at one object.
#[derive(Debug)]
pub(crate) struct Retry {
    left: u32,
    pause: Duration,
}

impl Retry {
    pub(crate) const fn new() -> Self {
        Self {
            left: MAX_RETRIES,
            pause: FIRST_PAUSE,
        }
    }

    /// Whether to try again after this error; waits a moment first.
    pub(crate) async fn again(&mut self, error: &FetchError) -> bool {
        if !error.is_transient() {
            return false;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        tokio::time::sleep(jittered(self.pause)).await;
        self.pause = self.pause.saturating_mul(2);
        true
    }
}
