//! Which pages of a file are in memory: `cachestat(2)` (Linux 6.5), and `mincore(2)` where it is missing.
//!
//! Neither reads the file or changes what is in memory. To whoever may not write a file `mincore` says
//! "in memory" of every page of it, so its answer can be too high, never too low.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

/// The same number on every architecture that Linux has added it to.
const SYS_CACHESTAT: libc::c_long = 451;

/// `struct cachestat_range` of `linux/mman.h`.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of `linux/mman.h`.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// How many pages of the part of a file that begins at `offset` and has `length` bytes are in memory.
#[expect(unsafe_code, reason = "no safe crate has cachestat")]
pub fn cached_pages(file: impl AsFd, offset: u64, length: u64) -> io::Result<u64> {
    let range = Range { offset, length };
    let mut counts = Counts::default();
    let file = file.as_fd().as_raw_fd();
    // SAFETY: both structures have the kernel's layout and live until the call has returned; the kernel
    // reads the first and writes the second, and keeps neither. The descriptor is borrowed, so it is open.
    let done = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file,
            &raw const range,
            &raw mut counts,
            0_u32,
        )
    };
    if done == 0 {
        Ok(counts.cached)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Bytes of a page.
#[expect(
    unsafe_code,
    reason = "a constant of the running kernel, of which libc's functions are all unsafe"
)]
pub fn page_bytes() -> u64 {
    // SAFETY: takes a number and gives one.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// For each page of the part of a file that begins at `offset`, a multiple of the page, and has `length`
/// bytes: whether it is in memory.
pub fn resident(file: impl AsFd, offset: u64, length: usize) -> io::Result<Vec<bool>> {
    if length == 0 {
        return Ok(Vec::new());
    }
    let window = Window::map(file, offset, length)?;
    window.resident()
}

/// A part of a file in the address space. Nothing here reads or writes it, so a file that is cut meanwhile
/// cannot send a signal.
struct Window {
    start: *mut libc::c_void,
    length: usize,
}

impl Window {
    #[expect(
        unsafe_code,
        reason = "no safe crate maps a file without reading it being a promise"
    )]
    fn map(file: impl AsFd, offset: u64, length: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        let file = file.as_fd().as_raw_fd();
        // SAFETY: with a null address and without MAP_FIXED the kernel chooses a place that nothing else
        // uses; with PROT_NONE nobody can read or write through it. Wrong arguments are an error.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_NONE,
                libc::MAP_SHARED,
                file,
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, length })
    }

    #[expect(unsafe_code, reason = "no safe crate has mincore")]
    fn resident(&self) -> io::Result<Vec<bool>> {
        let page = usize::try_from(page_bytes()).unwrap_or(4096);
        let mut pages = vec![0_u8; self.length.div_ceil(page)];
        // SAFETY: the range is exactly the one that `map` got from the kernel and still owns; the vector
        // has a byte for each of its pages, which is what the kernel writes.
        let done = unsafe { libc::mincore(self.start, self.length, pages.as_mut_ptr()) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(pages.iter().map(|page| page & 1 == 1).collect())
    }
}

impl Drop for Window {
    #[expect(unsafe_code, reason = "the other half of mmap")]
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping that `map` made; nobody else has the address,
        // and it is given back once.
        let _done = unsafe { libc::munmap(self.start, self.length) };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    const PAGES: u64 = 64;

    /// A file on a disk: on a tmpfs every page is always in memory.
    fn file() -> std::fs::File {
        let mut file = tempfile::tempfile_in("/var/tmp").unwrap();
        let bytes = usize::try_from(PAGES * page_bytes()).unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        file.sync_all().unwrap();
        file
    }

    /// Both answers; the first may be missing on an old kernel, and then says what the second says.
    fn in_memory(file: &std::fs::File) -> (u64, u64) {
        let length = PAGES * page_bytes();
        let resident = resident(file, 0, usize::try_from(length).unwrap()).unwrap();
        let by_mincore = u64::try_from(resident.iter().filter(|page| **page).count()).unwrap();
        let by_cachestat = cached_pages(file, 0, length);
        (by_cachestat.unwrap_or(by_mincore), by_mincore)
    }

    #[test]
    fn both_calls_see_what_is_in_memory_and_what_is_not() {
        let file = file();
        assert_eq!(in_memory(&file), (PAGES, PAGES));

        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        assert_eq!(in_memory(&file), (0, 0));
    }

    #[test]
    fn the_answer_is_page_by_page() {
        let file = file();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        // Without readahead, which would bring the neighbours too.
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let mut byte = [0];
        for page in 16..24 {
            rustix::io::pread(&file, &mut byte, page * page_bytes()).unwrap();
        }

        let resident = resident(&file, 0, usize::try_from(PAGES * page_bytes()).unwrap()).unwrap();
        let there: Vec<usize> = (0..resident.len()).filter(|page| resident[*page]).collect();
        assert_eq!(there, (16..24).collect::<Vec<usize>>());
        assert_eq!(in_memory(&file), (8, 8));
    }

    #[test]
    fn what_cannot_be_asked_is_an_error() {
        let path =
            rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        assert!(cached_pages(&path, 0, 1).is_err());
        assert!(resident(&path, 0, 1).is_err());
        assert!(resident(&path, 0, 0).unwrap().is_empty());
    }
}
