//! Which blobs were refused: every look at a container asks for its tables again, and reading a bomb to its
//! bound each time would cost a node a core for as long as the container runs.
//!
//! A refusal holds for a blob whose file is as it was. It never says that a blob is good.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::TableError;

use super::tables::Layer;

/// Refusals are all forgotten from here on: they can be had again.
const MAX_REFUSALS: usize = 1024;

/// A question to a blob: which layer it should hold, and the state of its file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    blob: Digest,
    diff_id: DiffId,
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Asked {
    pub(super) fn of(layer: &Layer, file: &File) -> io::Result<Self> {
        let stat = file.metadata()?;
        Ok(Self {
            blob: layer.blob,
            diff_id: layer.diff_id,
            device: stat.dev(),
            inode: stat.ino(),
            length: stat.len(),
            modified: (stat.mtime(), stat.mtime_nsec()),
            changed: (stat.ctime(), stat.ctime_nsec()),
        })
    }
}

/// The blobs that were refused.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<Asked, Arc<TableError>>>);

impl Refusals {
    /// Why the blob was refused before.
    pub(super) fn of(&self, asked: &Asked) -> Option<Arc<TableError>> {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(asked).cloned()
    }

    /// Remembers a refusal; a disk that failed to read is none.
    pub(super) fn put(&self, asked: Asked, error: TableError) -> Arc<TableError> {
        let error = Arc::new(error);
        if !matches!(*error, TableError::Io(_)) {
            let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if refused.len() >= MAX_REFUSALS {
                refused.clear();
            }
            refused.insert(asked, Arc::clone(&error));
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use holdfast_core::digest::ChainId;
    use holdfast_core::layer::Snapshotter;

    use super::*;
    use crate::files::tables::{Asking, Tables, Unavailable};

    #[test]
    fn a_refused_blob_is_read_again_only_when_its_file_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let tables = Tables::new(folder.path(), None).unwrap();
        let digest = Digest::of(b"genuine");
        let layer = Layer {
            diff_id: DiffId(digest),
            chain_id: ChainId(digest),
            blob: digest,
            lower: None,
        };
        let mut blob = tempfile::tempfile().unwrap();
        blob.write_all(b"a lie").unwrap();
        // A clone shares the place in the file, so it shows whether anybody has read.
        let is_read = |blob: &mut File| {
            blob.rewind().unwrap();
            let open = |_: Digest| blob.try_clone().map(Some);
            let asking = Asking {
                open_blob: &open,
                is_over: &|| false,
            };
            let found = tables.stack(Snapshotter::Overlayfs, std::slice::from_ref(&layer), asking);
            assert!(matches!(found, Err(Unavailable::Refused(..))), "{found:?}");
            blob.stream_position().unwrap() > 0
        };

        assert!(is_read(&mut blob));
        assert!(!is_read(&mut blob));
        blob.write_all(b"another lie").unwrap();
        assert!(is_read(&mut blob));
    }
}
