//! Reads a bolt database that containerd has open: the only place that tells in which directory a committed
//! `native` snapshot is. It never writes and takes no lock, since containerd holds the only one; instead it
//! checks that nothing was committed while it read.
//!
//! ```text
//! page     id (u64), flags (u16), count (u16), overflow (u32), elements
//! meta     magic (u32), version (u32), page size (u32), flags (u32), root bucket (u64, u64), free list (u64),
//!          pages (u64), transaction (u64), FNV-1a of all before (u64); one each on pages 0 and 1
//! branch   elements: position (u32), key size (u32), page (u64)
//! leaf     elements: flags (u32, 1: a bucket), position (u32), key size (u32), value size (u32)
//! bucket   root page (u64), sequence (u64); if the root is 0 its only page follows
//! ```
//! Numbers are little endian, positions count from their element. A commit writes only to pages that the state
//! before it does not use, and the one after it may write to those: so what was read is whole when the same
//! transaction is still the last one afterwards.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use holdfast_daemon::capped;

/// Largest database that is read; one with 50,000 snapshots has some 15 MiB.
const MAX_BYTES: u64 = 64 << 20;

/// Readings before we give up on a database that is written all the time.
const ATTEMPTS: u32 = 5;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;
const META: usize = 64;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const IS_BUCKET: u32 = 1;
const BUCKET_HEADER: usize = 16;

/// Why a database gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BoltError {
    /// The file cannot be read, or is longer than we read.
    #[error("the snapshotter's database cannot be read: {0}")]
    Io(io::ErrorKind),
    /// It was written to each time while we read it.
    #[error("the snapshotter's database changes while it is read")]
    Busy,
    /// It is no database that we understand.
    #[error("the snapshotter's database has another form than we know")]
    Form,
}

impl From<io::Error> for BoltError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.kind())
    }
}

/// A database as it was at one time.
#[derive(Debug)]
pub(super) struct Bolt {
    bytes: Vec<u8>,
    meta: Meta,
}

/// What a meta page says, as far as we need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meta {
    page_bytes: usize,
    root: u64,
    transaction: u64,
}

/// A bucket: keys in order, with what they stand for.
#[derive(Clone, Debug)]
pub(super) struct Bucket<'b> {
    bolt: &'b Bolt,
    items: Vec<(&'b [u8], Item<'b>)>,
}

#[derive(Clone, Copy, Debug)]
enum Item<'b> {
    Value(&'b [u8]),
    Bucket(&'b [u8]),
}

impl Bolt {
    /// Reads the database in `path`.
    pub(super) fn read(path: &Path) -> Result<Self, BoltError> {
        for _attempt in 0..ATTEMPTS {
            let mut file = capped::open_file(path)?;
            let bytes = capped::read(&mut file, MAX_BYTES)?;
            let bolt = Self::parse(bytes)?;
            if bolt.is_current(&file)? {
                return Ok(bolt);
            }
        }
        Err(BoltError::Busy)
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, BoltError> {
        let meta = last_meta(&bytes).ok_or(BoltError::Form)?;
        Ok(Self { bytes, meta })
    }

    /// Whether the last transaction is still the one that was read.
    fn is_current(&self, file: &File) -> Result<bool, BoltError> {
        let mut head = vec![0; self.meta.page_bytes.saturating_mul(2)];
        file.read_exact_at(&mut head, 0)?;
        Ok(last_meta(&head) == Some(self.meta))
    }

    /// The bucket at a path of names; `None` when there is none.
    pub(super) fn bucket(&self, names: &[&[u8]]) -> Result<Option<Bucket<'_>>, BoltError> {
        let mut bucket = self.below(self.page(self.meta.root)?)?;
        for name in names {
            let Some(next) = bucket.bucket(name)? else {
                return Ok(None);
            };
            bucket = next;
        }
        Ok(Some(bucket))
    }

    /// Everything in the leaves below a page. No page leads to more pages than there are.
    fn below<'b>(&'b self, root: &'b [u8]) -> Result<Bucket<'b>, BoltError> {
        let most = self.bytes.len() / self.meta.page_bytes;
        let (mut pages, mut ahead) = (0, vec![root]);
        let mut items = Vec::new();
        while let Some(page) = ahead.pop() {
            pages += 1;
            if pages > most.saturating_add(1) {
                return Err(BoltError::Form);
            }
            let count = usize::from(u16_at(page, 10)?);
            match u16_at(page, 8)? {
                // From the last, so that the first comes first.
                BRANCH => {
                    let children = (0..count).rev().map(|index| self.child(page, index));
                    ahead.extend(children.collect::<Result<Vec<_>, _>>()?);
                }
                LEAF => {
                    let elements = (0..count).map(|index| element(page, index));
                    items.extend(elements.collect::<Result<Vec<_>, _>>()?);
                }
                _ => return Err(BoltError::Form),
            }
        }
        Ok(Bucket { bolt: self, items })
    }

    fn child(&self, branch: &[u8], index: usize) -> Result<&[u8], BoltError> {
        let at = PAGE_HEADER.saturating_add(index.saturating_mul(ELEMENT));
        self.page(u64_at(branch, at.saturating_add(8))?)
    }

    fn page(&self, id: u64) -> Result<&[u8], BoltError> {
        let id = usize::try_from(id).map_err(|_too_large| BoltError::Form)?;
        let start = id
            .checked_mul(self.meta.page_bytes)
            .ok_or(BoltError::Form)?;
        let rest = self.bytes.get(start..).ok_or(BoltError::Form)?;
        let overflow = usize::try_from(u32_at(rest, 12)?).map_err(|_too_large| BoltError::Form)?;
        let length = overflow
            .checked_add(1)
            .and_then(|pages| pages.checked_mul(self.meta.page_bytes));
        rest.get(..length.ok_or(BoltError::Form)?)
            .ok_or(BoltError::Form)
    }
}

impl<'b> Bucket<'b> {
    /// The value of a key.
    pub(super) fn value(&self, key: &[u8]) -> Option<&'b [u8]> {
        match self.item(key)? {
            Item::Value(value) => Some(value),
            Item::Bucket(_) => None,
        }
    }

    /// The bucket of a name.
    pub(super) fn bucket(&self, name: &[u8]) -> Result<Option<Self>, BoltError> {
        match self.item(name) {
            Some(Item::Bucket(value)) => self.open(value).map(Some),
            Some(Item::Value(_)) | None => Ok(None),
        }
    }

    /// The buckets in it, with their names.
    pub(super) fn buckets(&self) -> impl Iterator<Item = Result<(&'b [u8], Self), BoltError>> {
        self.items.iter().filter_map(|(name, item)| match item {
            Item::Bucket(value) => Some(self.open(value).map(|bucket| (*name, bucket))),
            Item::Value(_) => None,
        })
    }

    fn item(&self, key: &[u8]) -> Option<Item<'b>> {
        let found = self.items.iter().find(|(name, _)| *name == key);
        found.map(|(_, item)| *item)
    }

    fn open(&self, value: &'b [u8]) -> Result<Self, BoltError> {
        match u64_at(value, 0)? {
            0 => {
                let page = value.get(BUCKET_HEADER..).ok_or(BoltError::Form)?;
                self.bolt.below(page)
            }
            root => self.bolt.below(self.bolt.page(root)?),
        }
    }
}

fn element(page: &[u8], index: usize) -> Result<(&[u8], Item<'_>), BoltError> {
    let at = PAGE_HEADER.saturating_add(index.saturating_mul(ELEMENT));
    let number = |offset: usize| u32_at(page, at.saturating_add(offset));
    let size = |offset| usize::try_from(number(offset)?).map_err(|_too_large| BoltError::Form);
    let (position, key_bytes, value_bytes) = (size(4)?, size(8)?, size(12)?);
    let start = at.saturating_add(position);
    let middle = start.saturating_add(key_bytes);
    let end = middle.saturating_add(value_bytes);
    let key = page.get(start..middle).ok_or(BoltError::Form)?;
    let value = page.get(middle..end).ok_or(BoltError::Form)?;
    let item = if number(0)? & IS_BUCKET == 0 {
        Item::Value(value)
    } else {
        Item::Bucket(value)
    };
    Ok((key, item))
}

/// The valid one of the two meta pages; the later one if both are.
fn last_meta(bytes: &[u8]) -> Option<Meta> {
    let first = meta(bytes);
    // Where the first one is damaged, its successor's place follows from the usual sizes of a page.
    let sizes: &[usize] = match &first {
        Some(first) => &[first.page_bytes],
        None => &[4 << 10, 16 << 10, 64 << 10],
    };
    let second = |size: &usize| meta(bytes.get(*size..)?).filter(|meta| meta.page_bytes == *size);
    let second = sizes.iter().find_map(second);
    first
        .into_iter()
        .chain(second)
        .max_by_key(|meta| meta.transaction)
}

fn meta(page: &[u8]) -> Option<Meta> {
    let meta = page.get(PAGE_HEADER..PAGE_HEADER + META)?;
    let covered = meta.get(..META - 8)?;
    let is_ours = u32_at(meta, 0).ok()? == MAGIC && u32_at(meta, 4).ok()? == VERSION;
    let is_whole = fnv1a(covered) == u64_at(meta, META - 8).ok()?;
    let page_bytes = usize::try_from(u32_at(meta, 8).ok()?).ok()?;
    let is_usual = page_bytes.is_power_of_two() && (1 << 10..=1 << 20).contains(&page_bytes);
    (is_ours && is_whole && is_usual).then_some(Meta {
        page_bytes,
        root: u64_at(meta, 16).ok()?,
        transaction: u64_at(meta, 48).ok()?,
    })
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], BoltError> {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.copied().ok_or(BoltError::Form)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, BoltError> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, BoltError> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, BoltError> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const PAGE: usize = 4096;

    /// Flags, key and value.
    type Element = (u32, Vec<u8>, Vec<u8>);

    /// What a test puts into a database.
    #[derive(Clone, Debug)]
    pub(in crate::runtime) enum Put {
        Value(Vec<u8>),
        Bucket(Vec<(&'static str, Put)>),
    }

    fn page(id: u64, flags: u16, elements: &[Element]) -> Vec<u8> {
        let mut page = Vec::new();
        page.extend(id.to_le_bytes());
        page.extend(flags.to_le_bytes());
        page.extend(u16::try_from(elements.len()).unwrap().to_le_bytes());
        page.extend(0_u32.to_le_bytes());
        let mut content = Vec::new();
        for (index, (is_bucket, key, value)) in elements.iter().enumerate() {
            let position = (elements.len() - index) * ELEMENT + content.len();
            let sizes = [position, key.len(), value.len()];
            page.extend(is_bucket.to_le_bytes());
            for size in sizes {
                page.extend(u32::try_from(size).unwrap().to_le_bytes());
            }
            content.extend_from_slice(key);
            content.extend_from_slice(value);
        }
        page.extend(content);
        page
    }

    fn leaf(id: u64, items: &[(&str, Put)]) -> Vec<u8> {
        let element = |(key, put): &(&str, Put)| {
            let (is_bucket, value) = match put {
                Put::Value(value) => (0, value.clone()),
                Put::Bucket(items) => (1, [vec![0; BUCKET_HEADER], leaf(0, items)].concat()),
            };
            (is_bucket, key.as_bytes().to_vec(), value)
        };
        let elements: Vec<_> = items.iter().map(element).collect();
        page(id, LEAF, &elements)
    }

    fn meta_page(id: u64, transaction: u64, root: u64) -> Vec<u8> {
        let mut meta = Vec::new();
        for number in [MAGIC, VERSION, u32::try_from(PAGE).unwrap(), 0] {
            meta.extend(number.to_le_bytes());
        }
        for number in [root, 0, 2, 4, transaction] {
            meta.extend(number.to_le_bytes());
        }
        meta.extend(fnv1a(&meta).to_le_bytes());
        let mut page = page(id, 0x04, &[]);
        page.extend(meta);
        page
    }

    fn padded(mut page: Vec<u8>) -> Vec<u8> {
        let pages = page.len().div_ceil(PAGE);
        let overflow = u32::try_from(pages - 1).unwrap();
        page[12..16].copy_from_slice(&overflow.to_le_bytes());
        page.resize(pages * PAGE, 0);
        page
    }

    /// A database with these items in its root.
    pub(in crate::runtime) fn database(items: &[(&'static str, Put)]) -> Vec<u8> {
        let metas = [padded(meta_page(0, 6, 9)), padded(meta_page(1, 7, 3))].concat();
        [metas, padded(page(2, 0x10, &[])), padded(leaf(3, items))].concat()
    }

    fn example() -> Vec<u8> {
        let many = Put::Bucket(vec![("id", Put::Value(vec![0; 6000]))]);
        let small = Put::Bucket(vec![("id", Put::Value(vec![7]))]);
        database(&[
            ("a", Put::Bucket(vec![("x", many), ("y", small)])),
            ("b", Put::Value(vec![1])),
        ])
    }

    #[test]
    fn nested_buckets_are_read_from_the_later_meta_page() {
        let bolt = Bolt::parse(example()).unwrap();
        let bucket = bolt.bucket(&[b"a"]).unwrap().unwrap();
        let names: Vec<_> = bucket.buckets().map(|named| named.unwrap().0).collect();
        assert_eq!(names, [b"x", b"y"]);
        let small = bucket.bucket(b"y").unwrap().unwrap();
        assert_eq!(small.value(b"id"), Some(&[7][..]));
        assert!(bolt.bucket(&[b"b"]).unwrap().is_none());
        assert!(bolt.bucket(&[b"c"]).unwrap().is_none());
    }

    #[test]
    fn the_pages_of_a_branch_are_read_in_their_order() {
        let leaves = [("k", "1"), ("m", "2")].map(|(key, value)| (key, Put::Value(value.into())));
        let child = |id: u64| [vec![0; 8], id.to_le_bytes().to_vec()].concat();
        let mut branch = page(3, BRANCH, &[]);
        branch[10] = 2;
        branch.extend([child(4), child(5)].concat());
        let metas = [padded(meta_page(0, 6, 9)), padded(meta_page(1, 7, 3))].concat();
        let [one, two] = leaves.map(|item| padded(leaf(4, &[item])));
        let bytes = [metas, padded(page(2, 0x10, &[])), padded(branch), one, two].concat();

        let bolt = Bolt::parse(bytes).unwrap();
        let root = bolt.bucket(&[]).unwrap().unwrap();
        assert_eq!(root.value(b"k"), Some(&b"1"[..]));
        assert_eq!(root.value(b"m"), Some(&b"2"[..]));
    }

    #[test]
    fn a_page_that_leads_to_itself_ends() {
        let mut branch = page(3, BRANCH, &[]);
        branch[10] = 1;
        branch.extend([vec![0; 8], 3_u64.to_le_bytes().to_vec()].concat());
        let metas = [padded(meta_page(0, 6, 9)), padded(meta_page(1, 7, 3))].concat();
        let bytes = [metas, padded(page(2, 0x10, &[])), padded(branch)].concat();
        assert_eq!(
            Bolt::parse(bytes).unwrap().bucket(&[]).err(),
            Some(BoltError::Form)
        );
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused_and_never_a_panic() {
        let bytes = example();
        assert!(Bolt::parse(b"no database".to_vec()).is_err());
        for cut in (0..bytes.len()).step_by(97) {
            if let Ok(bolt) = Bolt::parse(bytes[..cut].to_vec()) {
                assert!(bolt.bucket(&[b"a"]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn a_damaged_meta_page_is_replaced_by_the_other() {
        let mut bytes = example();
        bytes[PAGE + PAGE_HEADER + 20] ^= 1;
        // The one before leads to a page that is not there.
        assert_eq!(
            Bolt::parse(bytes).unwrap().bucket(&[b"a"]).err(),
            Some(BoltError::Form)
        );
        let mut bytes = example();
        bytes[PAGE_HEADER + 20] ^= 1;
        assert!(
            Bolt::parse(bytes)
                .unwrap()
                .bucket(&[b"a"])
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn what_was_committed_meanwhile_is_noticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), example()).unwrap();
        let bolt = Bolt::read(file.path()).unwrap();
        assert!(bolt.is_current(file.as_file()).unwrap());
        file.as_file().write_all_at(&meta_page(0, 8, 3), 0).unwrap();
        assert!(!bolt.is_current(file.as_file()).unwrap());
    }
}
