//! What a skeleton's headers come to on a disk: which file of the snapshot has which content of the
//! archive. Placed by the same code as the expected tree, so it is where containerd has put them. No file
//! is looked at here.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;

use crate::digest::Digest;
use crate::layer::skeleton::archive::{Archive, Giver};
use crate::layer::skeleton::{ProofError, Skeleton};
use crate::layer::table::{Builder, Contents, Kind, Record, number_as_digest, number_of_digest};
use crate::layer::{ExpectedTree, FileTable, Limits, Marker, Node, PlaceError, Snapshotter, place};

/// Where the contents of one layer are to be read.
#[derive(Debug)]
pub struct Plan<'s> {
    pub(super) skeleton: &'s Skeleton,
    pub(super) limits: Limits,
    /// Entries with content, by their number.
    pub(super) files: BTreeMap<u64, Place>,
}

/// Where the content of an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In this file of the snapshot.
    Disk {
        path: Vec<u8>,
        /// The file's length.
        size: u64,
        /// What the skeleton says of it.
        digest: Option<Digest>,
    },
    /// In the skeleton.
    Inline,
}

impl<'s> Plan<'s> {
    /// Reads a skeleton's headers and places them over the layers below, top first.
    ///
    /// 1. The headers are read within the limits of a layer.
    /// 2. They are placed as the snapshotter does.
    /// 3. Every content is on the disk or inline.
    pub fn of(
        skeleton: &'s Skeleton,
        parents: &[Arc<ExpectedTree>],
        limits: &Limits,
    ) -> Result<Self, ProofError> {
        // (1)
        let outlined = outline(skeleton, limits)?;
        // (2)
        let survivors = survivors(&outlined.table, parents)?;
        // (3)
        let inline: HashMap<u64, u64> = skeleton.index().iter().copied().collect();
        let mut files = BTreeMap::new();
        let mut file = 0_usize;
        for (entry, record) in (0_u64..).zip(outlined.table.records()) {
            let record = record?;
            let Kind::File { size, .. } = record.kind else {
                continue;
            };
            let digest = skeleton.digest_of(file);
            file = file.saturating_add(1);
            let Some(length) = outlined.contents.get(&entry) else {
                continue;
            };
            let place = match survivors.get(&entry) {
                Some(path) => Place::Disk {
                    path: path.clone(),
                    size,
                    digest,
                },
                None if inline.get(&entry) == Some(length) => Place::Inline,
                None => return Err(ProofError::NotReassemblable(record.name)),
            };
            files.insert(entry, place);
        }
        Ok(Self {
            skeleton,
            limits: *limits,
            files,
        })
    }
}

/// A skeleton's headers as a table of numbers, and how long the contents are in the archive.
struct Outlined {
    table: FileTable,
    contents: HashMap<u64, u64>,
}

fn outline(skeleton: &Skeleton, limits: &Limits) -> Result<Outlined, ProofError> {
    let mut archive = Archive::open(skeleton, limits, Hollow::default())?;
    let mut builder = Builder::new(limits.table_bytes, Contents::Numbered);
    archive.read_with(&mut builder, limits)?;
    Ok(Outlined {
        table: builder.finish(skeleton.diff_id()),
        contents: archive.into_giver().lengths,
    })
}

/// The path of the disk that each entry's content is at, once all entries are placed.
fn survivors(
    numbered: &FileTable,
    parents: &[Arc<ExpectedTree>],
) -> Result<HashMap<u64, Vec<u8>>, PlaceError> {
    // As the layers below were; of the lowest both make the same files.
    let below = parents.first().map(|tree| tree.snapshotter());
    let placed = place(numbered, below.unwrap_or(Snapshotter::Overlayfs), parents)?;
    let mut survivors = HashMap::new();
    for (path, entry) in placed.iter() {
        if let Node::File { digest, .. } = &entry.node
            && let Some(number) = number_of_digest(*digest)
        {
            // Of hard links the first path.
            survivors.entry(number).or_insert(path);
        }
    }
    Ok(survivors)
}

/// The entries whose contents no disk has once the layer is unpacked: those that it hides itself. It hides
/// most as the lowest layer, where a whiteout removes.
pub(super) fn hidden(table: &FileTable) -> Vec<u64> {
    let mut builder = Builder::new(usize::MAX, Contents::Numbered);
    let mut files = Vec::new();
    for (entry, record) in (0_u64..).zip(table.records()) {
        let Ok(mut record) = record else { break };
        if let Kind::File { size, digest, .. } = &mut record.kind {
            if *size > 0 {
                files.push(entry);
            }
            *digest = number_as_digest(entry);
        }
        if builder.push(&record).is_err() {
            break;
        }
    }
    let numbered = builder.finish(table.diff_id());
    // One with hard links to files of the layers below cannot be the lowest. What cannot be unpacked even
    // over such files has nothing that could be proved.
    let placed =
        survivors(&numbered, &[]).or_else(|_| survivors(&numbered, &[link_targets(table)?]));
    let Ok(survivors) = placed else {
        return Vec::new();
    };
    files.retain(|entry| !survivors.contains_key(entry));
    files
}

/// A layer that has what the hard links of another one lead to.
fn link_targets(table: &FileTable) -> Result<Arc<ExpectedTree>, PlaceError> {
    let mut builder = Builder::new(usize::MAX, Contents::Numbered);
    for record in table.records().map_while(Result::ok) {
        let Kind::HardLink { target } = record.kind else {
            continue;
        };
        let empty = Kind::File {
            size: 0,
            digest: Digest::of(&[]),
            marker: Marker::None,
        };
        let file = Record {
            name: target,
            kind: empty,
            mode: 0o644,
            ..record
        };
        if builder.push(&file).is_err() {
            break;
        }
    }
    let table = builder.finish(table.diff_id());
    let placed = place(&table, Snapshotter::Overlayfs, &[])?;
    let mut file = Vec::new();
    placed.write(&mut file)?;
    Ok(Arc::new(ExpectedTree::open(file, placed.chain_id())?))
}

/// Contents that nobody looks at: only how long each is.
#[derive(Debug, Default)]
struct Hollow {
    lengths: HashMap<u64, u64>,
}

impl Giver for Hollow {
    fn open(&mut self, entry: u64, _offset: u64, length: u64) -> io::Result<()> {
        let seen = self.lengths.entry(entry).or_default();
        *seen = seen.saturating_add(length);
        Ok(())
    }

    fn give(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
}
