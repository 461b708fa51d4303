//! Files of a layer that were changed last, by their ctime: where an ordinary write shows first. It orders
//! the work and proves nothing; whoever can write the disk beneath the file system changes no time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;

use jiff::Timestamp;
use rustix::fs::FileType;

use super::open::file_type;
use super::walk::{At, Buffers, Next, Visitor, walk};
use super::{Pass, Root, Unread};

/// Regular files below `root` whose ctime is later than `since`, the newest `count` of them, newest first.
pub fn newest(root: &Root, pass: Pass<'_>, since: Option<Timestamp>, count: usize) -> Vec<Vec<u8>> {
    let mut visit = Newest {
        since: since.map(|since| (since.as_second(), 0)),
        count,
        kept: BinaryHeap::new(),
    };
    let Ok(_entries) = walk(root, &mut Buffers::default(), pass, &mut visit);
    let newest_first = visit.kept.into_sorted_vec().into_iter();
    newest_first.map(|Reverse((_, path))| path).collect()
}

/// Seconds and nanoseconds.
type Time = (i64, u32);

struct Newest {
    since: Option<Time>,
    count: usize,
    /// The oldest one that is kept is on top.
    kept: BinaryHeap<Reverse<(Time, Vec<u8>)>>,
}

impl Visitor for Newest {
    type Error = Infallible;

    fn visit(&mut self, at: &At<'_>) -> Result<Next, Infallible> {
        match file_type(at.stat) {
            FileType::Directory => return Ok(Next::Below),
            FileType::RegularFile => {}
            _ => return Ok(Next::Past),
        }
        let changed = (at.stat.stx_ctime.tv_sec, at.stat.stx_ctime.tv_nsec);
        if self.since.is_none_or(|since| changed >= since) {
            self.kept.push(Reverse((changed, at.path.to_vec())));
            if self.kept.len() > self.count {
                self.kept.pop();
            }
        }
        Ok(Next::Past)
    }

    /// The compare says what cannot be read.
    fn unread(&mut self, _path: &[u8], _reason: Unread) {}
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::files::{MAX_ENTRIES, Rehash};

    #[test]
    fn what_was_changed_last_comes_first_and_only_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("d")).unwrap();
        for name in ["a", "d/b", "c", "e"] {
            fs::write(at(name), name).unwrap();
        }
        let ctime = |name: &str| {
            use std::os::unix::fs::MetadataExt as _;
            let metadata = fs::metadata(at(name)).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        // Until the clock of the file system has made a step.
        for name in ["c", "d/b"] {
            let before = ctime("e").max(ctime("c"));
            while ctime(name) <= before {
                fs::write(at(name), name).unwrap();
            }
        }
        let root = Root::open(folder.path()).unwrap();
        let pass = Pass {
            budget: u64::MAX,
            now: Timestamp::UNIX_EPOCH,
            rehash: Rehash::All,
            max_entries: MAX_ENTRIES,
            is_over: &|| false,
        };
        assert_eq!(newest(&root, pass, None, 2), [&b"d/b"[..], b"c"]);
        assert_eq!(newest(&root, pass, None, 10).len(), 4);
        let later = Timestamp::now() + jiff::SignedDuration::from_secs(10);
        assert!(newest(&root, pass, Some(later), 10).is_empty());
    }
}
