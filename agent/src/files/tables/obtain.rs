//! Where a table comes from that is not kept yet: the layer's blob, else a skeleton and a proof; and the
//! note of which it was. What would have to be fetched is not fetched here; whoever does it puts
//! it where this looks.

use std::fs;
use std::io::{self, Write as _};
use std::sync::Arc;

use holdfast_core::digest::DiffId;
use holdfast_core::finding::Basis;
use holdfast_core::layer::skeleton::{self, Digests, Made};
use holdfast_core::layer::{ExpectedTree, FileTable};
use holdfast_daemon::capped;

use super::{Asking, Layer, TABLES, Tables, Unavailable};
use crate::files::atomic::write_beside;
use crate::files::proofs::NotProved;
use crate::files::refusals::Asked;

/// What the note says of a table that came from a registry's blob; an empty one is of a proof.
const REGISTRY_BLOB: &[u8] = b"registry-blob";

/// Longest note that is read.
const MAX_NOTE: u64 = 64;

pub(super) fn note_name(diff_id: DiffId) -> String {
    format!("bases/{}", diff_id.0.encoded())
}

pub(super) fn table_name(diff_id: DiffId) -> String {
    format!("{TABLES}/{}.table", diff_id.0.encoded())
}

impl Tables {
    /// The table that the blob gives, if there is a blob; its skeleton is kept.
    pub(super) fn build(
        &self,
        layer: &Layer,
        asking: Asking<'_>,
    ) -> Result<Option<FileTable>, Unavailable> {
        let unreadable = |error| Unavailable::BlobUnreadable(layer.blob, error);
        let open = || (asking.open_blob)(layer.blob);
        let Some(blob) = open().map_err(unreadable)? else {
            return Ok(None);
        };
        let asked = Asked::of(layer, &blob).map_err(unreadable)?;
        if let Some(error) = self.refused.of(&asked) {
            return Err(Unavailable::Refused(layer.blob, error));
        }
        let mut first = Some(blob);
        let from_start = || match first.take() {
            Some(blob) => Ok(blob),
            None => open()?.ok_or_else(|| io::ErrorKind::NotFound.into()),
        };
        let (blob, diff_id) = (layer.blob, layer.diff_id);
        let Made { table, skeleton } =
            skeleton::make(from_start, blob, diff_id, &self.limits, Digests::Carried)
                .map_err(|error| Unavailable::Refused(blob, self.refused.put(asked, error)))?;
        self.counts.built.inc();
        let kept = skeleton
            .map_err(io::Error::other)
            .and_then(|skeleton| self.proofs.skeletons.put(&skeleton));
        if let Err(error) = kept {
            tracing::warn!(layer = %diff_id, %error, "No skeleton is kept of a layer.");
        }
        Ok(Some(table))
    }

    pub(super) fn proved(
        &self,
        layer: &Layer,
        parents: &[Arc<ExpectedTree>],
        asking: Asking<'_>,
    ) -> Result<FileTable, Unavailable> {
        let proved = self
            .proofs
            .table(layer, parents, &self.limits, asking.is_over);
        proved.map_err(|why| match why {
            NotProved::NoSkeleton => Unavailable::BlobAbsent(layer.blob, layer.diff_id),
            NotProved::Directory(folder, error) => Unavailable::Directory(folder, error),
            NotProved::Proof(error) => Unavailable::Unproved(layer.diff_id, error),
        })
    }

    /// Keeps a table, and how it was had. First the note: a table is never taken for more than it is.
    pub fn keep(&self, table: &FileTable, basis: Basis) -> io::Result<()> {
        let diff_id = table.diff_id();
        self.note(diff_id, basis)?;
        let path = self.own.join(table_name(diff_id));
        write_beside(&path, |out| out.write_all(table.encoded()))?;
        self.make_room(diff_id);
        Ok(())
    }

    /// Notes how a table was had; nothing is noted of one from a blob of this node.
    fn note(&self, diff_id: DiffId, basis: Basis) -> io::Result<()> {
        let path = self.own.join(note_name(diff_id));
        let note: &[u8] = match basis {
            Basis::RegistryBlob => REGISTRY_BLOB,
            Basis::Reassembled => b"",
            _ => {
                return match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
            }
        };
        write_beside(&path, |out| out.write_all(note))
    }

    /// How a layer's table was proved that is there. What is not noted came from a blob of this node; a
    /// note that cannot be read stands for the least that it can.
    pub fn basis(&self, diff_id: DiffId) -> Basis {
        let name = note_name(diff_id);
        let bases = self.folders().filter_map(|folder| {
            match capped::read_file(&folder.join(&name), MAX_NOTE) {
                Ok(note) if note == REGISTRY_BLOB => Some(Basis::RegistryBlob),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Ok(_) | Err(_) => Some(Basis::Reassembled),
            }
        });
        bases.max().unwrap_or(Basis::LocalBlob)
    }
}
