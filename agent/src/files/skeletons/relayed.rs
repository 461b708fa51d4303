//! What the collector hands on, in folders of its own: what came from there is never offered as made here,
//! and crowds out nothing that was. And own skeletons as they are offered.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::skeleton::Skeleton;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::{Skeletons, forget_oldest, name};
use crate::files::atomic::{keep, write_beside};
use crate::files::tables::open_blob_file;

/// Skeletons from the collector that are kept; a proof makes a table, so they are seldom needed again.
const MAX_SKELETON_BYTES: u64 = 128 << 20;

/// Contents that are kept: what one proof may need, and as much again.
const MAX_CONTENT_BYTES: u64 = 512 << 20;

/// Where a skeleton's digest is: at its end.
const DIGEST_BYTES: u64 = 32;

/// Content is hashed in pieces of this length.
const PIECE: usize = 128 << 10;

/// A skeleton that was made here, as it is offered.
#[derive(Debug)]
pub struct Offer {
    /// The layer.
    pub diff_id: DiffId,
    /// The skeleton's digest.
    pub digest: Digest,
    /// Its length.
    pub length: u64,
    file: File,
}

impl Offer {
    /// At most `limit` bytes from `offset` on.
    pub fn piece(&self, offset: u64, limit: usize) -> io::Result<Vec<u8>> {
        let mut piece = vec![0; limit];
        let mut filled = 0;
        while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let at = u64::try_from(filled).map_err(io::Error::other)?;
            match self.file.read_at(rest, offset.saturating_add(at))? {
                0 => break,
                length => filled = filled.saturating_add(length),
            }
        }
        piece.truncate(filled);
        Ok(piece)
    }
}

impl Skeletons {
    /// The layers of which a skeleton was made here.
    pub fn made(&self) -> io::Result<Vec<DiffId>> {
        let mut made = Vec::new();
        for file in fs::read_dir(&self.own)? {
            let name = file?.file_name();
            let digits = name
                .to_str()
                .and_then(|name| name.strip_suffix(".skeleton"));
            let digest = digits.and_then(|digits| format!("sha256:{digits}").parse().ok());
            made.extend(digest.map(DiffId));
        }
        Ok(made)
    }

    /// A skeleton that was made here; `None` when it has left meanwhile.
    pub fn offer(&self, diff_id: DiffId) -> io::Result<Option<Offer>> {
        let Some(file) = open_blob_file(&self.own.join(name(diff_id)))? else {
            return Ok(None);
        };
        let length = file.metadata()?.len();
        let mut digest = [0; 32];
        let Some(at) = length.checked_sub(DIGEST_BYTES) else {
            return Ok(None);
        };
        file.read_exact_at(&mut digest, at)?;
        Ok(Some(Offer {
            diff_id,
            digest: Digest::from_sha256(digest),
            length,
            file,
        }))
    }

    /// Keeps a skeleton that somebody else has made, in place of an earlier one.
    pub fn put_relayed(&self, skeleton: &Skeleton) -> io::Result<()> {
        let path = self.relayed.join(name(skeleton.diff_id()));
        write_beside(&path, |out| out.write_all(skeleton.encoded()))?;
        forget_oldest(&self.relayed, MAX_SKELETON_BYTES)
    }

    /// A file for a content under way, where [`Self::put_content`] wants it.
    pub fn coming_content(&self) -> io::Result<NamedTempFile> {
        NamedTempFile::new_in(self.contents())
    }

    /// Keeps a content. False when it is another one.
    pub fn put_content(&self, mut coming: NamedTempFile, digest: Digest) -> io::Result<bool> {
        if digest_of(coming.as_file_mut())? != digest {
            return Ok(false);
        }
        keep(coming, &self.contents().join(digest.encoded()))?;
        forget_oldest(&self.contents(), MAX_CONTENT_BYTES)?;
        Ok(true)
    }

    fn contents(&self) -> std::path::PathBuf {
        self.relayed.join("contents")
    }
}

/// Makes the folders.
pub(super) fn make(relayed: &Path) -> io::Result<()> {
    fs::create_dir_all(relayed.join("contents"))
}

fn digest_of(file: &mut File) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let (mut sha256, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(Digest::from_sha256(sha256.finalize().into())),
            Ok(length) => sha256.update(piece.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::skeletons::tests::skeleton;

    fn store(folder: &Path) -> Skeletons {
        Skeletons::new(folder.join("own"), Vec::new()).unwrap()
    }

    fn content(store: &Skeletons, bytes: &[u8]) -> NamedTempFile {
        let mut coming = store.coming_content().unwrap();
        coming.write_all(bytes).unwrap();
        coming
    }

    #[test]
    fn what_was_made_here_is_offered_and_what_was_relayed_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let (own, relayed) = (skeleton(1, 300_000), skeleton(2, 9));
        store.put(&own).unwrap();
        store.put_relayed(&relayed).unwrap();

        assert_eq!(store.made().unwrap(), [own.diff_id()]);
        assert!(store.offer(relayed.diff_id()).unwrap().is_none());
        assert_eq!(store.of(relayed.diff_id()).next(), Some(relayed));
        let offer = store.offer(own.diff_id()).unwrap().unwrap();
        assert_eq!(offer.digest, own.digest());
        let (first, second) = (offer.piece(0, 1000), offer.piece(1000, 1 << 20));
        let whole = [first.unwrap(), second.unwrap()].concat();
        assert_eq!(whole, own.encoded());
        assert!(offer.piece(offer.length, 1000).unwrap().is_empty());
    }

    #[test]
    fn a_content_is_kept_under_its_digest_and_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let digest = Digest::of(b"genuine");

        assert!(
            !store
                .put_content(content(&store, b"other"), digest)
                .unwrap()
        );
        assert!(store.content(digest).is_none());
        assert!(
            store
                .put_content(content(&store, b"genuine"), digest)
                .unwrap()
        );
        assert!(store.content(digest).is_some());
    }
}
