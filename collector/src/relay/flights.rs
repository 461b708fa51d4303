//! Skeletons that nodes are giving now: each layer from one node at a time, for some minutes, in the order
//! of its bytes. A node that lets its time pass is not asked for that layer again soon.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_protocol::{MAX_PIECE_BYTES, MAX_SKELETON_BYTES};
use tempfile::NamedTempFile;
use tokio::time::Instant;

/// How long a node may take: 64 MiB over a slow line.
const LEASE: Duration = Duration::from_mins(5);

/// Layers at a time.
const MAX_FLIGHTS: usize = 64;

/// Layers that one node is asked for at a time.
const MAX_OF_NODE: usize = 8;

/// How long a node is not asked for a layer that it failed to give.
const AFTER_FAILURE: Duration = Duration::from_hours(1);

/// How long a node is not asked for a layer of which it gave a skeleton that was wrong.
pub(super) const AFTER_REFUTATION: Duration = Duration::from_hours(24);

/// Nodes and layers that are barred; all are forgotten when more come.
const MAX_BARRED: usize = 10_000;

/// A skeleton that is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub layer: DiffId,
    pub digest: Digest,
    pub length: u64,
}

#[derive(Debug)]
struct Flight {
    node: String,
    offer: Offer,
    until: Instant,
    /// Bytes that have come.
    at: u64,
    file: Option<NamedTempFile>,
}

/// Everything that is being given.
#[derive(Debug, Default)]
pub(super) struct Flights {
    flights: HashMap<DiffId, Flight>,
    barred: HashMap<(String, DiffId), Instant>,
}

/// What to do with a piece.
#[derive(Debug)]
pub(super) enum Landing {
    /// It is not wanted.
    Unwanted,
    /// It goes to the end of this file; give it back with [`Flights::keep`].
    Piece(NamedTempFile, Offer),
    /// The first: begin a file.
    First(Offer),
}

impl Flights {
    /// Whether `node` is to give this now.
    pub(super) fn begin(&mut self, node: &str, offer: Offer, now: Instant) -> bool {
        self.end_late(now);
        let of_node = self.flights.values().filter(|flight| flight.node == node);
        let is_wanted = offer.length > 0
            && offer.length <= MAX_SKELETON_BYTES
            && !self.flights.contains_key(&offer.layer)
            && self.flights.len() < MAX_FLIGHTS
            && of_node.count() < MAX_OF_NODE
            && !self.is_barred(node, offer.layer, now);
        if is_wanted {
            let flight = Flight {
                node: node.to_owned(),
                offer,
                until: now.checked_add(LEASE).unwrap_or(now),
                at: 0,
                file: None,
            };
            self.flights.insert(offer.layer, flight);
        }
        is_wanted
    }

    /// Whether somebody is giving a skeleton of this layer.
    pub(super) fn is_coming(&mut self, layer: DiffId, now: Instant) -> bool {
        self.end_late(now);
        self.flights.contains_key(&layer)
    }

    /// A piece has come. One that is out of order, too short or too long ends the flight.
    pub(super) fn piece(
        &mut self,
        node: &str,
        digest: Digest,
        (offset, length): (u64, usize),
        now: Instant,
    ) -> Landing {
        self.end_late(now);
        let of = |flight: &&mut Flight| flight.node == node && flight.offer.digest == digest;
        let Some(flight) = self.flights.values_mut().find(of) else {
            return Landing::Unwanted;
        };
        let offer = flight.offer;
        let rest = usize::try_from(offer.length.saturating_sub(flight.at)).unwrap_or(usize::MAX);
        let is_due = offset == flight.at && length == rest.min(MAX_PIECE_BYTES);
        match (is_due, flight.at, flight.file.take()) {
            (true, 0, None) => Landing::First(offer),
            (true, _, Some(file)) => Landing::Piece(file, offer),
            _ => {
                self.fail(node, offer.layer, now);
                Landing::Unwanted
            }
        }
    }

    /// The piece is in the file. Gives the file when it is whole, and whether more is to come.
    pub(super) fn keep(
        &mut self,
        offer: Offer,
        file: NamedTempFile,
        length: usize,
    ) -> Option<NamedTempFile> {
        let flight = self.flights.get_mut(&offer.layer)?;
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        flight.at = flight.at.saturating_add(length);
        if flight.at >= offer.length {
            return Some(file);
        }
        flight.file = Some(file);
        None
    }

    /// It is on the shelf, or will not be.
    pub(super) fn end(&mut self, layer: DiffId) {
        self.flights.remove(&layer);
    }

    /// This node failed to give what it offered.
    pub(super) fn fail(&mut self, node: &str, layer: DiffId, now: Instant) {
        self.flights.remove(&layer);
        self.bar(node, layer, now.checked_add(AFTER_FAILURE));
    }

    /// This node is not asked for this layer until then.
    pub(super) fn bar(&mut self, node: &str, layer: DiffId, until: Option<Instant>) {
        if self.barred.len() >= MAX_BARRED {
            self.barred.clear();
        }
        if let Some(until) = until {
            self.barred.insert((node.to_owned(), layer), until);
        }
    }

    fn is_barred(&self, node: &str, layer: DiffId, now: Instant) -> bool {
        let until = self.barred.get(&(node.to_owned(), layer));
        until.is_some_and(|until| now < *until)
    }

    fn end_late(&mut self, now: Instant) {
        let late: Vec<(String, DiffId)> = self
            .flights
            .values()
            .filter(|flight| flight.until <= now)
            .map(|flight| (flight.node.clone(), flight.offer.layer))
            .collect();
        for (node, layer) in late {
            self.fail(&node, layer, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(number: u8, length: u64) -> Offer {
        Offer {
            layer: DiffId(Digest::of(&[number])),
            digest: Digest::of(&[number, number]),
            length,
        }
    }

    const PIECE: u64 = 256 << 10;

    #[tokio::test(start_paused = true)]
    async fn a_layer_is_wanted_from_one_node_and_from_the_next_when_that_one_is_late() {
        let mut flights = Flights::default();
        let offer = offer(1, 10);
        assert!(flights.begin("n-1", offer, Instant::now()));
        assert!(!flights.begin("n-2", offer, Instant::now()));
        assert!(!flights.begin("n-1", offer, Instant::now()));

        tokio::time::advance(LEASE).await;

        let now = Instant::now();
        assert!(!flights.is_coming(offer.layer, now));
        assert!(!flights.begin("n-1", offer, now), "it let its time pass");
        assert!(flights.begin("n-2", offer, now));
        flights.end(offer.layer);
        tokio::time::advance(AFTER_FAILURE).await;
        assert!(flights.begin("n-1", offer, Instant::now()));
    }

    #[tokio::test]
    async fn one_node_does_not_take_every_place_and_nobody_too_much() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        let begun = (0..20).filter(|number| flights.begin("n-1", offer(*number, 1), now));
        assert_eq!(begun.count(), MAX_OF_NODE);
        assert!(!flights.begin("n-2", offer(99, MAX_SKELETON_BYTES + 1), now));
        assert!(!flights.begin("n-2", offer(99, 0), now));
        assert!(flights.begin("n-2", offer(99, MAX_SKELETON_BYTES), now));
    }

    #[tokio::test]
    async fn pieces_come_in_order_from_who_was_asked_until_it_is_whole() {
        let (mut flights, now) = (Flights::default(), Instant::now());
        let offer = offer(1, PIECE + 5);
        assert!(flights.begin("n-1", offer, now));
        let file = NamedTempFile::new().unwrap();
        let of = offer.digest;
        let other = flights.piece("n-2", of, (0, MAX_PIECE_BYTES), now);
        assert!(matches!(other, Landing::Unwanted));
        let first = flights.piece("n-1", of, (0, MAX_PIECE_BYTES), now);
        assert!(matches!(first, Landing::First(_)));
        assert!(flights.keep(offer, file, MAX_PIECE_BYTES).is_none());
        let Landing::Piece(file, _) = flights.piece("n-1", of, (PIECE, 5), now) else {
            panic!("the second piece is due");
        };
        assert!(flights.keep(offer, file, 5).is_some());
    }

    #[tokio::test]
    async fn what_is_out_of_order_or_of_another_length_ends_it() {
        for (offset, length) in [(0, 1), (1, MAX_PIECE_BYTES), (0, 0), (PIECE, 5)] {
            let (mut flights, now) = (Flights::default(), Instant::now());
            let offer = offer(1, PIECE + 5);
            assert!(flights.begin("n-1", offer, now));
            let landing = flights.piece("n-1", offer.digest, (offset, length), now);
            assert!(matches!(landing, Landing::Unwanted), "{offset} {length}");
            assert!(!flights.is_coming(offer.layer, now));
            assert!(!flights.begin("n-1", offer, now), "it is not asked again");
        }
    }
}
