//! One flight for everybody: who asks for what is being fetched waits for that fetch. A hundred
//! containers of one image start at once, and a registry sees one request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Flights that nobody waits for are forgotten from here on.
const FORGET_ABOVE: usize = 1024;

/// Fetches under way, by what they fetch.
#[derive(Debug)]
pub(crate) struct Flights<T>(Mutex<HashMap<String, Weak<Flight<T>>>>);

/// Held by whoever flies; what it found is for those who wait.
type Flight<T> = tokio::sync::Mutex<Option<T>>;

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// What `fly` gives, or what somebody else's flight under this key gives that is under way. If that
    /// one is given up, the next who waits flies.
    pub(crate) async fn join(&self, key: String, fly: impl Future<Output = T>) -> T {
        let flight = self.flight(&key);
        let mut landed = flight.lock().await;
        if let Some(found) = &*landed {
            return found.clone();
        }
        let found = fly.await;
        *landed = Some(found.clone());
        // Who comes from now on wants to know anew.
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if flights
            .get(&key)
            .is_some_and(|known| Weak::ptr_eq(known, &Arc::downgrade(&flight)))
        {
            flights.remove(&key);
        }
        found
    }

    fn flight(&self, key: &str) -> Arc<Flight<T>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(key).and_then(Weak::upgrade) {
            return flight;
        }
        if flights.len() >= FORGET_ABOVE {
            flights.retain(|_, flight| flight.strong_count() > 0);
        }
        let flight = Arc::new(Flight::default());
        flights.insert(key.to_owned(), Arc::downgrade(&flight));
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    use super::*;

    /// A flight that says when it has begun and lands when it is told to.
    #[derive(Clone, Default)]
    struct Trip {
        flights: Arc<Flights<u32>>,
        landed: Arc<AtomicU32>,
        begun: Arc<Notify>,
        land: Arc<Notify>,
    }

    impl Trip {
        async fn join(self) -> u32 {
            self.flights.join("a".to_owned(), self.fly()).await
        }

        async fn fly(&self) -> u32 {
            self.begun.notify_one();
            self.land.notified().await;
            self.landed.fetch_add(1, Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn who_comes_during_a_flight_gets_what_it_finds_and_who_comes_later_flies() {
        let trip = Trip::default();
        let mut waiting = JoinSet::new();
        for _ in 0..100 {
            waiting.spawn(trip.clone().join());
        }
        trip.begun.notified().await;
        trip.land.notify_one();
        assert_eq!(waiting.join_all().await, [0; 100]);

        trip.land.notify_one();
        assert_eq!(trip.clone().join().await, 1);
        assert!(trip.flights.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_flight_that_is_given_up_is_taken_over() {
        let trip = Trip::default();
        let mut first = JoinSet::new();
        first.spawn(trip.clone().join());
        trip.begun.notified().await;
        let mut second = JoinSet::new();
        second.spawn(trip.clone().join());

        first.shutdown().await;
        trip.begun.notified().await;
        trip.land.notify_one();

        assert_eq!(second.join_all().await, [0]);
    }

    #[tokio::test]
    async fn flights_that_nobody_waits_for_are_forgotten() {
        let flights: Flights<u32> = Flights::default();
        for at in 0..FORGET_ABOVE * 2 {
            // Given up before it lands.
            drop(flights.flight(&at.to_string()));
        }
        assert_eq!(flights.join("a".to_owned(), async { 1 }).await, 1);
        assert!(flights.0.lock().unwrap().len() <= FORGET_ABOVE);
    }
}
