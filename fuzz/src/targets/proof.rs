//! Whatever a layer's archive is: if it can be unpacked and has a skeleton, then skeleton and unpacked files
//! prove the very table that the archive gives, and with one file changed they prove nothing.

use std::collections::{BTreeMap, HashMap};

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::fuzzing::{Content, members};
use holdfast_core::layer::skeleton::{Contents, Digests, Inode, Plan, ProofError, Unfit, make};
use holdfast_core::layer::{ExpectedTree, FileTable, Node, Snapshotter, place};

use super::tar::{LIMITS, TARGET as TAR, is_raw};
use crate::Target;

pub(super) const TARGET: Target = Target {
    name: "proof",
    check,
    ..TAR
};

/// An unpacked file; its inode, when it has other names.
type OnDisk = (Vec<u8>, Option<Inode>);

/// The files of an unpacked layer.
#[derive(Clone, Debug, Default)]
struct Disk {
    files: BTreeMap<Vec<u8>, OnDisk>,
    open: Vec<u8>,
}

impl Contents for Disk {
    fn open(&mut self, path: &[u8], size: u64) -> Result<Option<Inode>, Unfit> {
        let (content, inode) = self.files.get(path).ok_or(Unfit::Missing)?;
        self.open.clone_from(content);
        if u64::try_from(content.len()) == Ok(size) {
            Ok(*inode)
        } else {
            Err(Unfit::Size)
        }
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Unfit> {
        let start = usize::try_from(offset).unwrap().min(self.open.len());
        let rest = &self.open[start..];
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

fn check(archive: &[u8]) {
    let digest = Digest::of(archive);
    let open = || Ok(archive);
    let Ok(made) = make(open, digest, DiffId(digest), &LIMITS, Digests::Carried) else {
        return;
    };
    let (Some(mut disk), true) = (unpacked(archive, &made.table), is_raw(archive)) else {
        return;
    };
    let skeleton = made.skeleton.unwrap();
    let plan = Plan::of(&skeleton, &[], &LIMITS).unwrap();
    let proved = plan.prove(&mut disk).unwrap();
    assert_eq!(proved.encoded(), made.table.encoded());
    check_changed(&plan, &mut disk, archive);
}

/// What fills the holes of a sparse file is not in the archive: there a change may show in the table alone.
fn check_changed(plan: &Plan<'_>, disk: &mut Disk, archive: &[u8]) {
    let mut alone = disk.files.values_mut().filter(|(_, inode)| inode.is_none());
    let Some((content, _)) = alone.find(|(content, _)| !content.is_empty()) else {
        return;
    };
    content[0] ^= 1;
    match plan.prove(disk) {
        Ok(_) => assert!(has_holes(archive), "proved a changed file"),
        Err(error) => assert!(matches!(error, ProofError::Failed(_)), "{error}"),
    }
}

fn has_holes(archive: &[u8]) -> bool {
    archive.windows(11).any(|word| word == b"GNU.sparse.")
}

/// What placing says that the layer is unpacked to; none where it is refused.
fn unpacked(archive: &[u8], table: &FileTable) -> Option<Disk> {
    let (members, _) = members(archive, &LIMITS, Content::OfFiles);
    let contents: HashMap<Digest, Vec<u8>> = members
        .into_iter()
        .map(|member| (Digest::of(&member.content), member.content))
        .collect();
    let placed = place(table, Snapshotter::Overlayfs, &[]).ok()?;
    let mut file = Vec::new();
    placed.write(&mut file).unwrap();
    let tree = ExpectedTree::open(file, placed.chain_id()).unwrap();
    let entries: Vec<_> = tree.iter().map(Result::unwrap).collect();
    let mut disk = Disk::default();
    for (number, (path, entry)) in (0..).zip(&entries) {
        let Node::File { digest, .. } = &entry.node else {
            continue;
        };
        let first = entry.hard_link.as_ref().unwrap_or(path);
        let is_linked = entries
            .iter()
            .any(|(_, other)| other.hard_link.as_ref() == Some(first));
        let known = disk.files.get(first).and_then(|(_, inode)| *inode);
        let own = is_linked.then_some(Inode { device: 1, number });
        let content = contents[digest].clone();
        disk.files.insert(path.clone(), (content, known.or(own)));
    }
    Some(disk)
}
