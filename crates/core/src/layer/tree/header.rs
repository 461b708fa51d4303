//! The beginning of a tree file: that it is one, and whose. The format is described in `tree`.

use crate::digest::{ChainId, DiffId, Digest};
use crate::layer::codec::{Cursor, Damage};

const MAGIC: [u8; 7] = *b"hftree\0";
const VERSION: u8 = 2;
/// Length of the header.
pub const HEADER_BYTES: usize = 9 + 32 + 32;

/// Who unpacked the layers. What a snapshot directory holds depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Snapshotter {
    /// One directory a layer, stacked by the kernel.
    Overlayfs,
    /// One directory a chain, each a copy of the one below.
    Native,
}

/// Whose tree it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::layer) struct Header {
    pub(in crate::layer) snapshotter: Snapshotter,
    pub(in crate::layer) chain_id: ChainId,
    pub(in crate::layer) diff_id: DiffId,
}

/// The layer of a tree file with this header; it says nothing about the rest of the file.
pub fn diff_id_of(header: &[u8; HEADER_BYTES]) -> Option<DiffId> {
    Header::parse(header).ok().map(|header| header.diff_id)
}

impl Header {
    pub(super) fn parse(header: &[u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(header);
        if cursor.array()? != MAGIC {
            return Err(Damage::Magic);
        }
        let version = cursor.byte()?;
        if version != VERSION {
            return Err(Damage::Version(version));
        }
        let snapshotter = match cursor.byte()? {
            0 => Snapshotter::Overlayfs,
            1 => Snapshotter::Native,
            _ => return Err(Damage::Record),
        };
        let mut digest = || Ok(Digest::from_sha256(cursor.array()?));
        Ok(Self {
            snapshotter,
            chain_id: ChainId(digest()?),
            diff_id: DiffId(digest()?),
        })
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let snapshotter = match self.snapshotter {
            Snapshotter::Overlayfs => 0,
            Snapshotter::Native => 1,
        };
        [
            MAGIC.as_slice(),
            &[VERSION, snapshotter],
            self.chain_id.0.as_bytes(),
            self.diff_id.0.as_bytes(),
        ]
        .concat()
    }
}
