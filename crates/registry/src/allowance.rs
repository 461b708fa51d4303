//! Bytes that may be fetched in an hour: layers are gigabytes, and a node has other things to do with its
//! network than to fetch them again.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use crate::error::FetchError;
use crate::pace::{Bucket, Pace};

/// Seconds in an hour.
const HOUR: f64 = 3600.0;

/// An hour's bytes, given out as they come. A blob larger than all of them is fetched when nothing else
/// was for an hour, and paid off by those that come after.
#[derive(Debug)]
pub struct Allowance(Mutex<Bucket>);

impl Allowance {
    /// So many bytes in an hour.
    pub fn new(bytes_per_hour: NonZeroU64) -> Self {
        let bytes = float(bytes_per_hour.get());
        Self(Mutex::new(Bucket::full(Pace {
            per_second: bytes / HOUR,
            burst: bytes,
        })))
    }

    /// Takes a blob's bytes before it is fetched.
    pub fn take(&self, bytes: u64) -> Result<(), FetchError> {
        self.bucket(|bucket| bucket.take(float(bytes)))
            .map_err(|_wait| FetchError::OverAllowance)
    }

    /// Gives back what was taken and not fetched.
    pub fn put_back(&self, bytes: u64) {
        self.bucket(|bucket| bucket.put_back(float(bytes)));
    }

    fn bucket<T>(&self, act: impl FnOnce(&mut Bucket) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a budget may be off by a byte in a petabyte"
)]
const fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_hours_bytes_come_back_within_the_hour() {
        let allowance = Allowance::new(NonZeroU64::new(3600).unwrap());
        assert_eq!(allowance.take(3000), Ok(()));
        assert_eq!(allowance.take(1000), Err(FetchError::OverAllowance));
        allowance.put_back(400);
        assert_eq!(allowance.take(1000), Ok(()));
        tokio::time::advance(Duration::from_mins(10)).await;
        assert_eq!(allowance.take(600), Ok(()));
        assert_eq!(allowance.take(1), Err(FetchError::OverAllowance));
    }

    #[tokio::test(start_paused = true)]
    async fn a_blob_above_the_hours_bytes_is_not_out_of_reach_for_ever() {
        let allowance = Allowance::new(NonZeroU64::new(3600).unwrap());
        assert_eq!(allowance.take(7200), Ok(()));
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(allowance.take(1), Err(FetchError::OverAllowance));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(allowance.take(1), Ok(()));
        assert_eq!(allowance.take(7200), Err(FetchError::OverAllowance));
    }
}
