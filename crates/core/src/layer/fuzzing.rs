//! What the fuzz targets reach of this folder and no program does: the archive's reader without a table
//! around it, and the seals of our own files, which a mutation breaks and which would stop it at the door.

use std::io::BufRead;

use sha2::{Digest as _, Sha256};

pub use crate::layer::skeleton::assembled;
use crate::layer::source::Source;
use crate::layer::tar::TarReader;
use crate::layer::{Limits, TarError, tree};

/// Bytes of the digest at the end of our files.
const DIGEST_BYTES: usize = 32;

/// One entry of an archive with its content, as the reader gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The type's byte.
    pub flag: u8,
    /// The name, not cleaned.
    pub name: Vec<u8>,
    /// The target of a link, not cleaned.
    pub link: Vec<u8>,
    /// Mode, owner, group, major and minor number.
    pub numbers: [i64; 5],
    /// Extended attributes in their order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What was read behind the header; nothing of a content that was skipped.
    pub content: Vec<u8>,
}

/// Whose content is read; the reader skips the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Every entry's.
    All,
    /// That of regular files, as a table does it.
    OfFiles,
}

/// An archive that comes in pieces.
struct Pieces<R>(R);

impl<R: BufRead> std::io::Read for Pieces<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: BufRead> BufRead for Pieces<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.0.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        self.0.consume(length);
    }
}

impl<R: BufRead> Source for Pieces<R> {}

/// The entries up to the end or the refusal, and the refusal.
pub fn members(
    archive: impl BufRead,
    limits: &Limits,
    content: Content,
) -> (Vec<Member>, Option<TarError>) {
    let mut reader = TarReader::new(Pieces(archive), limits);
    let mut members = Vec::new();
    loop {
        match member(&mut reader, content) {
            Ok(Some(member)) => members.push(member),
            Ok(None) => return (members, reader.drain().err()),
            Err(refusal) => return (members, Some(refusal)),
        }
    }
}

fn member(reader: &mut TarReader<impl Source>, what: Content) -> Result<Option<Member>, TarError> {
    let Some(header) = reader.next()? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    if what == Content::All || header.flag == b'0' {
        reader.content(|piece| content.extend_from_slice(piece))?;
    }
    Ok(Some(Member {
        flag: header.flag,
        name: header.name,
        link: header.link,
        numbers: [
            header.mode,
            header.uid,
            header.gid,
            header.major,
            header.minor,
        ],
        xattrs: header.xattrs,
        content,
    }))
}

/// Gives a changed table file the digest that it needs to be read.
pub fn seal_table(file: &mut [u8]) {
    seal(file);
}

/// Gives a changed skeleton the digest that it needs to be read.
pub fn seal_skeleton(file: &mut [u8]) {
    seal(file);
}

/// Gives a changed tree file the checksums and the digest that it needs to be read.
pub fn seal_tree(file: &mut [u8]) {
    tree::seal_blocks(file);
    seal(file);
}

fn seal(file: &mut [u8]) {
    let body = file.len().saturating_sub(DIGEST_BYTES);
    if let Some((body, digest)) = file.split_at_mut_checked(body)
        && digest.len() == DIGEST_BYTES
    {
        digest.copy_from_slice(&Sha256::digest(&*body));
    }
}
