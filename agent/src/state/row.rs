//! Keys and rows of the state's tables, each row with its own checksum.

use holdfast_core::container::{ContainerKey, ContainerRef};
use holdfast_core::finding::Fingerprint;
use redb::{ReadableTable, Table};
use serde::de::DeserializeOwned;

pub(super) type Rows<'t> = Table<'t, &'static [u8], &'static [u8]>;

/// Bytes of a fingerprint at the end of a place's key.
const FINGERPRINT_BYTES: usize = 16;

/// The namespace or the id of a container is longer than a key can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the container's namespace or id is longer than 65535 bytes")]
pub struct NameTooLong;

/// A container's part of a key: both names with their lengths before them, so that no name can reach
/// into another container's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowKey(Vec<u8>);

impl RowKey {
    pub(crate) fn of(key: &ContainerKey) -> Result<Self, NameTooLong> {
        let mut bytes = Vec::with_capacity(4 + key.namespace.len() + key.id.len());
        for name in [&key.namespace, &key.id] {
            let length = u16::try_from(name.len()).map_err(|_too_long| NameTooLong)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
        Ok(Self(bytes))
    }

    /// A key that was read from a table.
    pub(super) fn of_bytes(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key of one place.
    pub(super) fn place(&self, fingerprint: Fingerprint) -> Vec<u8> {
        [self.0.as_slice(), fingerprint.as_bytes()].concat()
    }

    /// The first and the last key that a place can have.
    pub(super) fn places(&self) -> [Vec<u8>; 2] {
        [[0; FINGERPRINT_BYTES], [0xff; FINGERPRINT_BYTES]]
            .map(|end| [self.0.as_slice(), &end].concat())
    }
}

/// The key of the container that a document is about.
pub(crate) fn key_of(container: &ContainerRef) -> Result<RowKey, NameTooLong> {
    RowKey::of(&container.key())
}

/// Content with the CRC32 of key and content before it. The key is part, so that a row under another's
/// key is damaged too.
pub(crate) fn seal(key: &[u8], content: &[u8]) -> Vec<u8> {
    [crc(key, content).to_le_bytes().as_slice(), content].concat()
}

/// The content of a row that is as it was written.
pub(crate) fn unseal<'a>(key: &[u8], row: &'a [u8]) -> Option<&'a [u8]> {
    let (stored, content) = row.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*stored) == crc(key, content)).then_some(content)
}

fn crc(key: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(content);
    hasher.finalize()
}

pub(super) fn insert(table: &mut Rows<'_>, key: &[u8], content: &[u8]) -> Result<(), redb::Error> {
    table.insert(key, seal(key, content).as_slice())?;
    Ok(())
}

pub(super) fn remove(table: &mut Rows<'_>, key: &[u8]) -> Result<(), redb::Error> {
    table.remove(key)?;
    Ok(())
}

/// `None` also for a damaged row: what it said is written anew by the next look.
pub(super) fn read_bytes(table: &Rows<'_>, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
    let row = table.get(key)?;
    Ok(row.and_then(|row| unseal(key, row.value()).map(<[u8]>::to_vec)))
}

pub(super) fn read_json<T: DeserializeOwned>(
    table: &Rows<'_>,
    key: &[u8],
) -> Result<Option<T>, redb::Error> {
    let row = table.get(key)?;
    Ok(row.and_then(|row| parse(key, row.value())))
}

pub(super) fn parse<T: DeserializeOwned>(key: &[u8], row: &[u8]) -> Option<T> {
    serde_json::from_slice(unseal(key, row)?).ok()
}

pub(super) fn fingerprint(key: &[u8]) -> Option<Fingerprint> {
    let (_, raw) = key.split_last_chunk::<FINGERPRINT_BYTES>()?;
    hex::encode(raw).parse().ok()
}
