//! What this node has for others: skeletons made from its blobs, which the collector may want, and the
//! digests of its tables.

use std::collections::HashMap;
use std::sync::Arc;

use holdfast_core::digest::DiffId;
use holdfast_core::layer::FileTable;
use holdfast_protocol::{MAX_OFFERS, MAX_PIECE_BYTES, MAX_SKELETON_BYTES, MAX_TABLES, v1};

use super::Relay;
use super::client::CallError;
use crate::files::skeletons::Offer;
use crate::telemetry::Relayed;

impl Relay {
    /// Offers and reports what is new since the last time.
    pub(super) async fn offer_and_report(&mut self) -> Result<(), CallError> {
        let made = self.tables.skeletons().made()?;
        let made = made
            .into_iter()
            .filter(|diff_id| !self.offered.contains(diff_id));
        let new: Vec<DiffId> = made.collect();
        for some in new.chunks(MAX_OFFERS) {
            self.offer(some).await?;
            self.offered.extend(some);
        }
        let used = self.tables.in_use().into_iter();
        let new: Vec<DiffId> = used
            .filter(|diff_id| !self.reported.contains(diff_id))
            .collect();
        for some in new.chunks(MAX_TABLES) {
            self.report(some).await?;
            self.reported.extend(some);
        }
        Ok(())
    }

    /// Offers skeletons, and gives those that are wanted, until no more are.
    async fn offer(&self, diff_ids: &[DiffId]) -> Result<(), CallError> {
        let mut offers = HashMap::new();
        for diff_id in diff_ids {
            let offer = self.tables.skeletons().offer(*diff_id)?;
            let offer = offer.filter(|offer| offer.length <= MAX_SKELETON_BYTES);
            offers.extend(offer.map(|offer| (offer.digest.as_bytes().to_vec(), offer)));
        }
        while !offers.is_empty() {
            let names = offers.values().map(|offer| v1::SkeletonName {
                diff_id: offer.diff_id.0.as_bytes().to_vec(),
                digest: offer.digest.as_bytes().to_vec(),
                length: offer.length,
            });
            let names = v1::Offers {
                skeletons: names.collect(),
            };
            let wishes = self.client.offer(names).await?.digests.into_iter();
            // A wish for anything else is none.
            let wanted: Vec<Offer> = wishes.filter_map(|wish| offers.remove(&wish)).collect();
            if wanted.is_empty() {
                break;
            }
            for offer in wanted {
                self.give(offer).await?;
            }
        }
        Ok(())
    }

    async fn give(&self, offer: Offer) -> Result<(), CallError> {
        let (mut offset, offer) = (0, Arc::new(offer));
        while offset < offer.length {
            let (from, of) = (offset, Arc::clone(&offer));
            let read = move || of.piece(from, MAX_PIECE_BYTES);
            let content = tokio::task::spawn_blocking(read).await;
            let content = content.map_err(std::io::Error::other)??;
            offset = offset.saturating_add(u64::try_from(content.len()).unwrap_or(u64::MAX));
            let piece = v1::Piece {
                digest: offer.digest.as_bytes().to_vec(),
                offset: from,
                content,
            };
            // Also when it has become shorter: the collector refuses what makes no progress.
            if !self.client.give(piece).await?.more {
                break;
            }
        }
        if offset == offer.length {
            self.metrics.relayed(Relayed::SkeletonGiven);
        }
        Ok(())
    }

    async fn report(&self, diff_ids: &[DiffId]) -> Result<(), CallError> {
        let mut tables = Vec::new();
        for diff_id in diff_ids {
            let digest = self.tables.digest(*diff_id)?;
            tables.extend(digest.map(|digest| v1::Table {
                diff_id: diff_id.0.as_bytes().to_vec(),
                digest: digest.as_bytes().to_vec(),
            }));
        }
        self.client
            .report_tables(v1::Tables {
                version: u32::from(FileTable::VERSION),
                tables,
            })
            .await
    }
}
