//! Writes a tree file; the format is described in `tree`. It sorts nothing: entries come in order or are
//! refused.

use std::io::Write;

use sha2::{Digest as _, Sha256};

use crate::layer::codec::{Damage, put_entry, put_number, put_shared, wide};
use crate::layer::tree::{BLOCK_BYTES, BLOCK_LIMIT, Header};
use crate::layer::{Entry, Node, TreeError};

/// Writes a tree file, entry by entry in the order of keys.
pub(in crate::layer) struct Writer<W> {
    out: W,
    sha256: Sha256,
    records: Vec<u8>,
    value: Vec<u8>,
    last: Vec<u8>,
    entries: u64,
}

impl<W: Write> Writer<W> {
    pub(in crate::layer) fn new(out: W, header: &Header) -> Result<Self, TreeError> {
        let mut writer = Self {
            out,
            sha256: Sha256::new(),
            records: Vec::with_capacity(2 * BLOCK_BYTES),
            value: Vec::new(),
            last: Vec::new(),
            entries: 0,
        };
        writer.emit(&header.to_bytes())?;
        Ok(writer)
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), TreeError> {
        self.sha256.update(bytes);
        self.out.write_all(bytes)?;
        Ok(())
    }

    pub(in crate::layer) fn push(&mut self, key: &[u8], entry: &Entry) -> Result<(), TreeError> {
        let is_first = self.entries == 0;
        // The root comes first and alone has an empty key; everything else ascends.
        if is_first != key.is_empty() || (!is_first && key <= self.last.as_slice()) {
            return Err(Damage::Order.into());
        }
        if is_first && !matches!(entry.node, Node::Directory { .. }) {
            return Err(Damage::Record.into());
        }
        let previous = if self.records.is_empty() {
            &[]
        } else {
            self.last.as_slice()
        };
        put_shared(&mut self.records, previous, key);
        self.value.clear();
        put_entry(&mut self.value, entry);
        put_number(&mut self.records, wide(self.value.len()));
        self.records.extend_from_slice(&self.value);
        self.last.clear();
        self.last.extend_from_slice(key);
        self.entries = self.entries.saturating_add(1);
        if self.records.len() >= BLOCK_BYTES {
            self.close_block()?;
        }
        Ok(())
    }

    fn close_block(&mut self) -> Result<(), TreeError> {
        if self.records.is_empty() {
            return Ok(());
        }
        if self.records.len() > BLOCK_LIMIT {
            return Err(Damage::Length.into());
        }
        let records = std::mem::take(&mut self.records);
        let length = u32::try_from(records.len()).map_err(|_too_long| Damage::Length)?;
        self.emit(&length.to_le_bytes())?;
        self.emit(&crc32fast::hash(&records).to_le_bytes())?;
        self.emit(&records)?;
        self.records = records;
        self.records.clear();
        Ok(())
    }

    pub(in crate::layer) fn finish(mut self) -> Result<(), TreeError> {
        self.close_block()?;
        if self.entries == 0 {
            return Err(Damage::Record.into());
        }
        self.emit(&0_u32.to_le_bytes())?;
        let entries = self.entries;
        self.emit(&entries.to_le_bytes())?;
        let digest: [u8; 32] = self.sha256.clone().finalize().into();
        self.out.write_all(&digest)?;
        self.out.flush()?;
        Ok(())
    }
}
