//! Archives, tables and trees for tests. The archive writer knows the format from its description, not
//! from our reader, and writes whatever it is told, valid or not.

use std::sync::Arc;

use crate::digest::{ChainId, DiffId, Digest};
use crate::layer::{
    Entry, ExpectedTree, FileTable, Limits, Marker, Node, PlaceError, Snapshotter, TableError,
    place,
};

/// An archive that is being written.
#[derive(Clone, Debug, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

impl Tar {
    /// A header with all fields as told, then the body and its padding.
    pub(super) fn entry(self, flag: u8, name: &str, link: &str, body: &[u8]) -> Self {
        self.header(&header(flag, name, link, body.len()))
            .body(body)
    }

    pub(super) fn header(mut self, block: &[u8; 512]) -> Self {
        self.0.extend_from_slice(block);
        self
    }

    pub(super) fn body(mut self, body: &[u8]) -> Self {
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", content.as_bytes())
    }

    pub(super) fn directory(self, name: &str) -> Self {
        self.owned(b'5', name, 0o755, (0, 0))
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, b"")
    }

    pub(super) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, b"")
    }

    /// An entry without content.
    pub(super) fn owned(self, flag: u8, name: &str, mode: u32, owner: (u32, u32)) -> Self {
        self.owned_link((flag, name, ""), mode, owner)
    }

    /// An entry without content, of this type, name and target.
    pub(super) fn owned_link(
        self,
        (flag, name, link): (u8, &str, &str),
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> Self {
        let mut block = header(flag, name, link, 0);
        octal(&mut block[100..108], mode.into());
        octal(&mut block[108..116], uid.into());
        octal(&mut block[116..124], gid.into());
        self.header(&sealed(block))
    }

    pub(super) fn char_device(self, name: &str, major: u32, minor: u32) -> Self {
        let mut block = header(b'3', name, "", 0);
        octal(&mut block[329..337], major.into());
        octal(&mut block[337..345], minor.into());
        self.header(&sealed(block))
    }

    /// An extended header for the next entry.
    pub(super) fn extended(self, records: &[(&[u8], &[u8])]) -> Self {
        let body: Vec<u8> = records
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        self.header(&header(b'x', "PaxHeaders/x", "", body.len()))
            .body(&body)
    }

    /// The end marker.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// A ustar header that is sealed: mode 0644, owner 0:0.
pub(super) fn header(flag: u8, name: &str, link: &str, size: usize) -> [u8; 512] {
    let mut block = [0; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[157..157 + link.len()].copy_from_slice(link.as_bytes());
    octal(&mut block[100..108], 0o644);
    octal(&mut block[108..116], 0);
    octal(&mut block[116..124], 0);
    octal(&mut block[124..136], u64::try_from(size).unwrap());
    octal(&mut block[136..148], 1_000_000_000);
    block[156] = flag;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sealed(block)
}

/// A header with the checksum that it needs.
pub(super) fn sealed(mut block: [u8; 512]) -> [u8; 512] {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    field[..digits].copy_from_slice(format!("{value:0digits$o}").as_bytes());
    field[digits] = 0;
}

/// A record of an extended header.
pub(super) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    let length = format!("{length} ");
    [length.as_bytes(), key, b"=", value, b"\n"].concat()
}

/// The table of an uncompressed archive.
pub(super) fn table(archive: &[u8]) -> Result<FileTable, TableError> {
    let digest = Digest::of(archive);
    FileTable::build(archive, digest, DiffId(digest), &Limits::default())
}

/// The trees of layers, lowest first, as their stack: top first.
pub(super) fn stack(archives: &[Vec<u8>]) -> Result<Vec<Arc<ExpectedTree>>, PlaceError> {
    stack_of(Snapshotter::Overlayfs, archives)
}

/// The same for any snapshotter.
pub(super) fn stack_of(
    snapshotter: Snapshotter,
    archives: &[Vec<u8>],
) -> Result<Vec<Arc<ExpectedTree>>, PlaceError> {
    let mut trees = Vec::new();
    for archive in archives {
        let placed = place(&table(archive).unwrap(), snapshotter, &trees)?;
        let mut file = Vec::new();
        placed.write(&mut file)?;
        let tree = ExpectedTree::open(file, placed.chain_id())?;
        trees.insert(0, Arc::new(tree));
    }
    Ok(trees)
}

/// The tree of one layer that has these entries.
pub(super) fn tree(entries: &[(&str, Entry)]) -> ExpectedTree {
    let id = Digest::of(b"layer");
    ExpectedTree::open(tree_file(entries), ChainId(id)).unwrap()
}

pub(super) fn tree_file(entries: &[(&str, Entry)]) -> Vec<u8> {
    let id = Digest::of(b"layer");
    let mut file = Vec::new();
    let entries = entries.iter().map(|(path, entry)| (path.as_bytes(), entry));
    ExpectedTree::write(&mut file, ChainId(id), DiffId(id), entries).unwrap();
    file
}

pub(super) fn entry(node: Node) -> Entry {
    Entry {
        node,
        mode: 0o644,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        hard_link: None,
    }
}

pub(super) fn file(content: &str) -> Entry {
    entry(Node::File {
        size: u64::try_from(content.len()).unwrap(),
        digest: Digest::of(content.as_bytes()),
        marker: Marker::None,
    })
}

pub(super) fn directory() -> Entry {
    entry(Node::Directory { opaque: false })
}

pub(super) fn opaque() -> Entry {
    entry(Node::Directory { opaque: true })
}

pub(super) fn symlink(target: &str) -> Entry {
    entry(Node::Symlink {
        target: target.into(),
    })
}

pub(super) fn whiteout() -> Entry {
    entry(Node::Whiteout)
}

/// A tree as lines: path, type, mode, owner, and what is special.
pub(super) fn shown(tree: &ExpectedTree) -> Vec<String> {
    tree.iter().map(|next| line(&next.unwrap())).collect()
}

fn line((path, entry): &(Vec<u8>, Entry)) -> String {
    let Entry {
        node,
        mode,
        uid,
        gid,
        xattrs,
        hard_link,
    } = entry;
    let mut words = vec![
        path.escape_ascii().to_string(),
        node.type_name().to_owned(),
        format!("{mode:o}"),
        format!("{uid}:{gid}"),
    ];
    match node {
        Node::File { size: 0, .. } => {}
        Node::File { digest, .. } => words.push(hex::encode(&digest.as_bytes()[..4])),
        Node::Directory { opaque: true } => words.push("opaque".to_owned()),
        Node::Symlink { target } => words.push(format!("-> {}", target.escape_ascii())),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            words.push(format!("{major}:{minor}"));
        }
        Node::Directory { .. } | Node::Fifo | Node::Socket | Node::Whiteout => {}
    }
    for (name, value) in xattrs {
        words.push(format!("{}={}", name.escape_ascii(), value.escape_ascii()));
    }
    if let Some(first) = hard_link {
        words.push(format!("= {}", first.escape_ascii()));
    }
    words.join(" ")
}
