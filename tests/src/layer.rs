//! Layers from a description: any tar entry, genuine or hostile, in any compression.
//!
//! The writer keeps to what it is told. It must not clean a path, sort entries, or refuse what a reader
//! should refuse.

use std::io::Write as _;
use std::sync::Arc;

use flate2::write::GzEncoder;
use holdfast_core::digest::Digest;
use tar::{EntryType, Header};

/// The longest path and link target that fit the header; longer ones go into a PAX record.
const SHORT: usize = 100;

/// How a layer's blob is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The tar as it is.
    None,
    /// One gzip member.
    Gzip,
    /// That many gzip members, one after the other; all of them are data.
    GzipMembers(usize),
    /// One zstd frame.
    Zstd,
}

impl Compression {
    /// The layer's media type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip | Self::GzipMembers(_) => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn pack(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::None => tar.to_vec(),
            Self::Gzip => gzip(tar),
            Self::GzipMembers(count) => tar
                .chunks(tar.len().div_ceil(count).max(1))
                .flat_map(gzip)
                .collect(),
            Self::Zstd => zstd::encode_all(tar, 3).unwrap(),
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One entry of a layer's tar.
#[derive(Clone, Debug)]
pub struct Entry {
    path: Vec<u8>,
    node: EntryType,
    mode: u32,
    uid: u64,
    gid: u64,
    modified: u64,
    target: Vec<u8>,
    device: (u32, u32),
    content: Vec<u8>,
    pax: Vec<(String, Vec<u8>)>,
}

impl Entry {
    fn new(path: impl AsRef<[u8]>, node: EntryType, mode: u32) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            node,
            mode,
            uid: 0,
            gid: 0,
            modified: 1_700_000_000,
            target: Vec::new(),
            device: (0, 0),
            content: Vec::new(),
            pax: Vec::new(),
        }
    }

    /// A regular file, mode 0644.
    pub fn file(path: impl AsRef<[u8]>, content: impl Into<Vec<u8>>) -> Self {
        let mut entry = Self::new(path, EntryType::Regular, 0o644);
        entry.content = content.into();
        entry
    }

    /// A regular file, mode 0755.
    pub fn program(path: impl AsRef<[u8]>, content: impl Into<Vec<u8>>) -> Self {
        Self::file(path, content).mode(0o755)
    }

    /// A directory, mode 0755.
    pub fn directory(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryType::Directory, 0o755)
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(path, EntryType::Symlink, 0o777);
        entry.target = target.as_ref().to_vec();
        entry
    }

    /// A hard link to an earlier entry.
    pub fn hardlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(path, EntryType::Link, 0o644);
        entry.target = target.as_ref().to_vec();
        entry
    }

    /// A FIFO.
    pub fn fifo(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryType::Fifo, 0o644)
    }

    /// A character device.
    pub fn char_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        let mut entry = Self::new(path, EntryType::Char, 0o644);
        entry.device = (major, minor);
        entry
    }

    /// A block device.
    pub fn block_device(path: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        let mut entry = Self::new(path, EntryType::Block, 0o644);
        entry.device = (major, minor);
        entry
    }

    /// An entry of any type, without content.
    pub fn of_type(flag: u8, path: impl AsRef<[u8]>) -> Self {
        Self::new(path, EntryType::new(flag), 0o644)
    }

    /// "Removed here": hides `path` of the layers below.
    pub fn whiteout(path: impl AsRef<[u8]>) -> Self {
        let path = path.as_ref();
        let name = path
            .iter()
            .rposition(|byte| *byte == b'/')
            .map_or(0, |at| at + 1);
        let marker = [&path[..name], b".wh.", &path[name..]].concat();
        Self::file(marker, "")
    }

    /// Hides everything that the layers below have in `directory`.
    pub fn opaque(directory: impl AsRef<[u8]>) -> Self {
        Self::file([directory.as_ref(), b"/.wh..wh..opq"].concat(), "")
    }

    /// Other permission bits.
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Another owner.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Another modification time, in seconds.
    #[must_use]
    pub fn modified(mut self, seconds: u64) -> Self {
        self.modified = seconds;
        self
    }

    /// An extended attribute.
    #[must_use]
    pub fn xattr(self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Any PAX record; they are written in the order of the calls.
    #[must_use]
    pub fn pax(mut self, key: &str, value: impl Into<Vec<u8>>) -> Self {
        self.pax.push((key.to_owned(), value.into()));
        self
    }

    /// The entry as it stands in a tar: headers, content, padding.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut pax = self.pax.clone();
        if self.path.len() > SHORT {
            pax.push(("path".to_owned(), self.path.clone()));
        }
        if self.target.len() > SHORT {
            pax.push(("linkpath".to_owned(), self.target.clone()));
        }
        let mut bytes = Vec::new();
        if !pax.is_empty() {
            let records: Vec<u8> = pax
                .iter()
                .flat_map(|(key, value)| pax_record(key, value))
                .collect();
            bytes.extend(block(&Header::new_ustar(), EntryType::XHeader, &records));
        }
        let mut header = Header::new_ustar();
        fill(&mut header.as_old_mut().name, &self.path);
        fill(&mut header.as_old_mut().linkname, &self.target);
        header.set_mode(self.mode);
        header.set_uid(self.uid);
        header.set_gid(self.gid);
        header.set_mtime(self.modified);
        header.set_device_major(self.device.0).unwrap();
        header.set_device_minor(self.device.1).unwrap();
        bytes.extend(block(&header, self.node, &self.content));
        bytes
    }
}

fn block(header: &Header, node: EntryType, content: &[u8]) -> Vec<u8> {
    let mut header = header.clone();
    header.set_entry_type(node);
    header.set_size(content.len().try_into().unwrap());
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn fill(field: &mut [u8], value: &[u8]) {
    field
        .iter_mut()
        .zip(value)
        .for_each(|(to, from)| *to = *from);
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

/// A layer: its tar and its blob. A clone shares both, so images can share a layer.
#[derive(Clone, Debug)]
pub struct Layer {
    tar: Arc<[u8]>,
    blob: Arc<[u8]>,
    compression: Compression,
}

impl Layer {
    /// A gzip layer of these entries, in this order.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut tar: Vec<u8> = entries
            .into_iter()
            .flat_map(|entry| entry.to_bytes())
            .collect();
        tar.extend([0; 1024]);
        Self::from_tar(tar)
    }

    /// A gzip layer whose tar is these bytes, whatever they are.
    pub fn from_tar(tar: impl Into<Arc<[u8]>>) -> Self {
        let tar = tar.into();
        let blob = Compression::Gzip.pack(&tar).into();
        Self {
            tar,
            blob,
            compression: Compression::Gzip,
        }
    }

    /// The same layer, packed otherwise.
    #[must_use]
    pub fn compressed(self, compression: Compression) -> Self {
        let blob = compression.pack(&self.tar).into();
        Self {
            tar: self.tar,
            blob,
            compression,
        }
    }

    /// The same layer with these bytes as its blob: one that lies.
    #[must_use]
    pub fn with_blob(self, blob: impl Into<Arc<[u8]>>) -> Self {
        Self {
            blob: blob.into(),
            ..self
        }
    }

    /// The uncompressed tar.
    pub fn tar(&self) -> &[u8] {
        &self.tar
    }

    /// The blob that a registry would serve.
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The layer's media type.
    pub const fn media_type(&self) -> &'static str {
        self.compression.media_type()
    }

    /// Digest of the tar.
    pub fn diff_id(&self) -> Digest {
        Digest::of(&self.tar)
    }

    /// Digest of the blob.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.blob)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn another_reader_understands_what_was_written() {
        let long = format!("{}/end", "d".repeat(150));
        let layer = Layer::new([
            Entry::program("bin/tool", "content"),
            Entry::file(&long, "x").xattr("user.note", b"a\0b".to_vec()),
            Entry::symlink("link", "bin/tool"),
            Entry::whiteout("etc/gone"),
        ]);

        let mut archive = tar::Archive::new(layer.tar());
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            seen.push((
                entry.path().unwrap().to_string_lossy().into_owned(),
                content,
            ));
        }

        let names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["bin/tool", &long, "link", "etc/.wh.gone"]);
        assert_eq!(seen[0].1, "content");
    }

    #[test]
    fn a_pax_records_length_counts_itself() {
        assert_eq!(pax_record("a", b"b"), b"6 a=b\n");
        let long = pax_record("path", &[b'x'; 92]); // 99 bytes with two digits, 100 with three
        assert!(long.starts_with(format!("{} path=", long.len()).as_bytes()));
    }

    #[test]
    fn several_gzip_members_hold_the_same_tar() {
        let layer = Layer::new([Entry::file("f", [7; 4000])]);
        let split = layer.clone().compressed(Compression::GzipMembers(3));

        let mut unpacked = Vec::new();
        flate2::read::MultiGzDecoder::new(split.blob())
            .read_to_end(&mut unpacked)
            .unwrap();

        assert_eq!(unpacked, layer.tar());
        assert_ne!(split.digest(), layer.digest());
        assert_eq!(split.diff_id(), layer.diff_id());
    }
}
