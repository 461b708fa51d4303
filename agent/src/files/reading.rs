//! How a file's bytes are got: through the page cache, and then as if nobody had read them, or around it.
//!
//! A scrub reads every file of a node once a day. Pages that it has brought into memory are given back;
//! pages that were there before belong to somebody's work and stay. Reading around the page cache shows what
//! the disk holds, where the page cache shows what runs: each can be tampered with alone.

use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_sys::page_cache;
use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, pread};

use super::Unread;

/// What one question about single pages covers.
const WINDOW_BYTES: u64 = 64 << 20;

/// Gaps of one file that are given back; a file with more is mostly in use, and the rest of it is left alone.
const MAX_GAPS: usize = 1_024;

/// Direct reads begin at multiples of this, in memory and in the file; no disk asks for more.
pub(super) const ALIGNMENT: usize = 4096;

/// Where bytes come from, and what is left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// The page cache; what was read stays there. For looks at what a container has just used.
    #[default]
    Cache,
    /// The page cache; what was not there before is given back.
    CacheGivenBack,
    /// The disk, where the file system allows it.
    Disk,
}

/// How files are read, and what that has cost.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Where bytes come from.
    pub source: Source,
    /// Bytes read so far; shared, so that whoever holds the budget sees it grow within one file.
    pub bytes: Arc<AtomicU64>,
    /// Files that were read through the page cache because their file system refuses anything else.
    pub not_direct: u64,
    /// Whether the file of now is read around the page cache.
    pub(super) is_direct: bool,
}

/// What is to be done once a file is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing.
    Leave,
    /// Give back these parts: offset and length.
    GiveBack(Vec<(u64, u64)>),
}

impl Reading {
    /// Before the first byte of a file of `size` bytes is read.
    pub(super) fn begin(&mut self, file: BorrowedFd<'_>, size: u64) -> After {
        let is_wanted = self.source == Source::Disk && size > 0;
        self.is_direct = is_wanted && set_flags(file, |flags| flags | OFlags::DIRECT).is_ok();
        if is_wanted && !self.is_direct {
            self.not_direct = self.not_direct.saturating_add(1);
        }
        if self.source == Source::Cache || self.is_direct {
            After::Leave
        } else {
            After::GiveBack(gaps(file, size))
        }
    }

    /// Reads a whole buffer around the page cache; `None` when the file system takes the flag and refuses
    /// the read. From then on the file is read through the page cache.
    pub(super) fn read_around(
        &mut self,
        file: BorrowedFd<'_>,
        chunk: &mut [u8],
        offset: u64,
    ) -> Result<Option<usize>, Unread> {
        loop {
            match pread(file, &mut *chunk, offset) {
                Ok(count) => return Ok(Some(count)),
                Err(Errno::INTR) => {}
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(Unread::refused("pread")(errno)),
            }
        }
        self.not_direct = self.not_direct.saturating_add(1);
        self.is_direct = false;
        set_flags(file, |flags| flags.difference(OFlags::DIRECT))
            .map_err(Unread::refused("fcntl"))?;
        Ok(None)
    }

    /// Bytes have been read.
    pub(super) fn has_read(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl After {
    /// The file was read, or given up.
    pub(super) fn end(self, file: BorrowedFd<'_>) {
        let Self::GiveBack(gaps) = self else { return };
        for (offset, length) in gaps {
            // Advice: a kernel that does not take it keeps the pages, as it keeps anybody's.
            let _advice = fadvise(file, offset, NonZeroU64::new(length), Advice::DontNeed);
        }
    }
}

fn set_flags(file: BorrowedFd<'_>, change: impl FnOnce(OFlags) -> OFlags) -> Result<(), Errno> {
    fcntl_setfl(file, change(fcntl_getfl(file)?))
}

/// The parts of a file that are not in memory. Nothing where nobody can say: then all of it may be in use.
fn gaps(file: BorrowedFd<'_>, size: u64) -> Vec<(u64, u64)> {
    let page = page_cache::page_bytes();
    let pages = size.div_ceil(page);
    match page_cache::cached_pages(file, 0, size) {
        _ if size == 0 => Vec::new(),
        Ok(cached) if cached >= pages => Vec::new(),
        Ok(0) => vec![(0, pages.saturating_mul(page))],
        // Some are, or an older kernel: page by page.
        Ok(_) | Err(_) => gaps_by_page(file, size, page),
    }
}

fn gaps_by_page(file: BorrowedFd<'_>, size: u64, page: u64) -> Vec<(u64, u64)> {
    let mut gaps: Vec<(u64, u64)> = Vec::new();
    let mut offset = 0_u64;
    while offset < size && gaps.len() < MAX_GAPS {
        let length = WINDOW_BYTES.min(size.saturating_sub(offset));
        let window = usize::try_from(length).unwrap_or(usize::MAX);
        let Ok(resident) = page_cache::resident(file, offset, window) else {
            return gaps;
        };
        let mut at = offset;
        for is_resident in resident {
            if !is_resident {
                extend(&mut gaps, at, page);
            }
            at = at.saturating_add(page);
        }
        offset = offset.saturating_add(WINDOW_BYTES);
    }
    gaps.truncate(MAX_GAPS);
    gaps
}

fn extend(gaps: &mut Vec<(u64, u64)>, at: u64, page: u64) {
    match gaps.last_mut() {
        Some((start, length)) if start.saturating_add(*length) == at => {
            *length = length.saturating_add(page);
        }
        _ => gaps.push((at, page)),
    }
}

/// The part of a buffer that direct reads can use.
pub(super) fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let before = buffer.as_ptr().align_offset(ALIGNMENT);
    let rest = buffer.get_mut(before..).unwrap_or_default();
    let length = rest.len() - rest.len() % ALIGNMENT;
    rest.get_mut(..length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsFd as _;

    use super::*;

    const PAGES: u64 = 512;

    fn file() -> File {
        // A disk: on a tmpfs every page is always in memory.
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        let bytes = usize::try_from(PAGES * page_cache::page_bytes()).unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        file.sync_all().unwrap();
        file
    }

    fn size() -> u64 {
        PAGES * page_cache::page_bytes()
    }

    fn forget(file: &File) {
        fadvise(file, 0, None, Advice::DontNeed).unwrap();
    }

    fn touch(file: &File, pages: std::ops::Range<u64>) {
        fadvise(file, 0, None, Advice::Random).unwrap();
        let mut byte = [0];
        for page in pages {
            pread(file, &mut byte, page * page_cache::page_bytes()).unwrap();
        }
    }

    fn resident(file: &File) -> Vec<u64> {
        let all = page_cache::resident(file, 0, usize::try_from(size()).unwrap()).unwrap();
        let there = (0..).zip(all).filter(|(_, is_resident)| *is_resident);
        there.map(|(page, _)| page).collect()
    }

    fn read_as(file: &File, source: Source) {
        let mut reading = Reading {
            source,
            ..Reading::default()
        };
        let after = reading.begin(file.as_fd(), size());
        let mut bytes = vec![0; usize::try_from(size()).unwrap()];
        pread(file, &mut bytes, 0).unwrap();
        after.end(file.as_fd());
    }

    #[test]
    fn pages_that_were_in_memory_stay_there() {
        let file = file();
        assert_eq!(resident(&file).len(), 512);
        read_as(&file, Source::CacheGivenBack);
        assert_eq!(resident(&file).len(), 512);
    }

    #[test]
    fn pages_that_a_scrub_has_brought_are_given_back() {
        let file = file();
        forget(&file);
        read_as(&file, Source::CacheGivenBack);
        assert_eq!(resident(&file), [0_u64; 0]);
        read_as(&file, Source::Cache);
        assert_eq!(resident(&file).len(), 512);
    }

    #[test]
    fn of_a_file_that_is_partly_in_memory_only_the_rest_is_given_back() {
        let file = file();
        forget(&file);
        touch(&file, 100..120);
        let before = resident(&file);
        assert_eq!(before, (100..120).collect::<Vec<_>>());
        read_as(&file, Source::CacheGivenBack);
        assert_eq!(resident(&file), before);
    }

    #[test]
    fn an_older_kernel_is_asked_page_by_page() {
        let file = file();
        forget(&file);
        touch(&file, 7..9);
        let page = page_cache::page_bytes();
        let gaps = gaps_by_page(file.as_fd(), size(), page);
        assert_eq!(gaps, [(0, 7 * page), (9 * page, (PAGES - 9) * page)]);
    }

    #[test]
    fn where_nobody_can_say_nothing_is_given_back() {
        let path = rustix::fs::open("/", OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(gaps(path.as_fd(), size()), []);
        assert_eq!(gaps(file().as_fd(), 0), []);
    }

    #[test]
    fn a_direct_buffer_begins_and_ends_at_blocks() {
        let mut buffer = vec![0; 3 * ALIGNMENT + 100];
        let aligned = aligned(buffer.get_mut(1..).unwrap());
        assert_eq!(aligned.as_ptr().align_offset(ALIGNMENT), 0);
        assert!(aligned.len() >= 2 * ALIGNMENT && aligned.len().is_multiple_of(ALIGNMENT));
    }
}
