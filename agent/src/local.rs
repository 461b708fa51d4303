//! Opens a directory of the node by its path without asking a file system that may never answer: FUSE and
//! network mounts, whose server is somebody's program or somebody's machine.
//!
//! The path is walked name by name. Each step only pins (`O_PATH`), and before the next name is looked up in
//! a mount that was just entered, the node's own mount table says what that mount is. The mount itself is
//! not asked: even `statfs` is answered by its server.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

/// Symbolic links followed in one path, as in Linux.
const MAX_LINKS: usize = 40;

/// Names of one path with all its links.
const MAX_STEPS: usize = 1_000;

/// Longest line of the mount table; an overlay of 500 layers with a path of a page each.
const MAX_LINE_BYTES: u64 = 4 << 20;

/// Most bytes of the mount table: the kernel allows 100,000 mounts in a namespace.
const MAX_TABLE_BYTES: u64 = 64 << 20;

/// Mounts whose type is remembered; with more, all are asked for again.
const MAX_REMEMBERED: usize = 1_024;

/// Tells mounts apart for ever: the plain id is given again (since Linux 6.8).
const MNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// Types that a program or another machine answers for, without the part behind a dot.
const FOREIGN_TYPES: &[&[u8]] = &[
    b"fuse",
    b"fuseblk",
    b"virtiofs",
    b"nfs",
    b"nfs4",
    b"cifs",
    b"smb3",
    b"smbfs",
    b"9p",
    b"ceph",
    b"afs",
    b"coda",
    b"lustre",
    b"beegfs",
    b"gpfs",
    b"orangefs",
    b"panfs",
    b"vboxsf",
    b"autofs",
];

/// The same by the number that `statfs` gives.
const FOREIGN_MAGICS: &[u64] = &[
    0x6573_5546, // FUSE
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0102_1997, // 9P
    0x00c3_6400, // Ceph
    0x5346_414f, // AFS
    0x7375_7245, // Coda
    0x0bd0_0bd0, // Lustre
    0x1983_0326, // BeeGFS
    0x4750_4653, // GPFS
    0x2003_0528, // OrangeFS
    0x786f_4256, // VirtualBox
    0x0187,      // autofs
];

/// Why a directory is not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLocal {
    /// The kernel said no.
    #[error("{0}")]
    Refused(#[from] Errno),
    /// The path leads into a mount of this type.
    #[error("foreign file system: {0}")]
    Foreign(String),
}

/// Pins the directory at an absolute `path`; links are followed. Never for a path that a container chose.
pub fn directory(path: &Path) -> Result<OwnedFd, NotLocal> {
    let mut walk = Walk::begin()?;
    let mut ahead = names(path.as_os_str().as_bytes());
    let (mut links, mut steps) = (0, 0);
    while let Some(name) = ahead.pop() {
        steps += 1;
        if steps > MAX_STEPS {
            return Err(Errno::NAMETOOLONG.into());
        }
        let Some(target) = walk.step(&name)? else {
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP.into());
        }
        if target.starts_with(b"/") {
            walk = Walk::begin()?;
        }
        ahead.extend(names(&target));
    }
    walk.end()
}

/// Whether a type in a mount table is one that may never answer.
pub fn is_foreign_type(fs_type: &[u8]) -> bool {
    let name = fs_type.split(|byte| *byte == b'.').next();
    name.is_some_and(|name| FOREIGN_TYPES.contains(&name))
}

/// Whether the number of a file system's type is one of these.
pub fn is_foreign_magic(magic: u64) -> bool {
    FOREIGN_MAGICS.contains(&(magic & 0xffff_ffff))
}

/// The names of a path, the first one last.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    let names = path.split(|byte| *byte == b'/').rev();
    names
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Where the walk is.
struct Walk {
    at: OwnedFd,
    mount: u64,
}

impl Walk {
    /// At the node's root, which we run from.
    fn begin() -> Result<Self, NotLocal> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let at = openat(CWD, c"/", flags, Mode::empty())?;
        let (mount, _) = seen(&at, StatxFlags::MNT_ID)?;
        Ok(Self { at, mount })
    }

    /// Goes one name further; gives the target when a link stands there.
    fn step(&mut self, name: &[u8]) -> Result<Option<Vec<u8>>, NotLocal> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = openat(&self.at, name, flags, Mode::empty())?;
        let (mount, file_type) = seen(&next, StatxFlags::MNT_ID)?;
        if mount != self.mount {
            refuse_foreign(&next, mount)?;
        }
        if file_type == FileType::Symlink {
            let target = readlinkat(&next, c"", Vec::new())?;
            return Ok(Some(target.into_bytes()));
        }
        (self.at, self.mount) = (next, mount);
        Ok(None)
    }

    fn end(self) -> Result<OwnedFd, NotLocal> {
        let (_, file_type) = seen(&self.at, StatxFlags::MNT_ID)?;
        if file_type == FileType::Directory {
            Ok(self.at)
        } else {
            Err(Errno::NOTDIR.into())
        }
    }
}

/// Mount id and type of a pinned file, from what the kernel has at hand.
fn seen(fd: &OwnedFd, id: StatxFlags) -> Result<(u64, FileType), Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(fd, c"", flags, StatxFlags::TYPE | id)?;
    if stat.stx_mask & id.bits() == 0 {
        return Err(Errno::NOTSUP);
    }
    let file_type = FileType::from_raw_mode(stat.stx_mode.into());
    Ok((stat.stx_mnt_id, file_type))
}

/// The mounts that were asked for, by their unique id, with the type of foreign ones. A node has a few, and
/// every scan opens every layer of every container.
static KNOWN: Mutex<BTreeMap<u64, Option<String>>> = Mutex::new(BTreeMap::new());

fn refuse_foreign(entered: &OwnedFd, mount: u64) -> Result<(), NotLocal> {
    let unique = seen(entered, MNT_ID_UNIQUE).ok().map(|(id, _)| id);
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let remembered = unique.and_then(|id| known().get(&id).cloned());
    let foreign = remembered.map_or_else(|| foreign_type_of(mount), Ok)?;
    if let Some(id) = unique {
        let mut known = known();
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(id, foreign.clone());
    }
    foreign.map_or(Ok(()), |foreign| Err(NotLocal::Foreign(foreign)))
}

/// The type of a mount when it is foreign. One that the table does not have has just gone.
fn foreign_type_of(mount: u64) -> Result<Option<String>, Errno> {
    let io = |error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let table = File::open("/proc/self/mountinfo").map_err(io)?;
    let mut table = BufReader::new(table.take(MAX_TABLE_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut table)
            .take(MAX_LINE_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(io)?;
        if length == 0 {
            return Err(Errno::STALE);
        }
        if let Some((id, fs_type)) = parse(&line)
            && id == mount
        {
            let shown = || String::from_utf8_lossy(fs_type).into_owned();
            return Ok(is_foreign_type(fs_type).then(shown));
        }
    }
}

/// Id and type of one line of a mount table.
fn parse(line: &[u8]) -> Option<(u64, &[u8])> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    fields.find(|field| *field == b"-")?;
    Some((id, fields.next()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn network_and_user_space_file_systems_are_foreign_by_name_and_by_number() {
        for foreign in [
            "fuse",
            "fuse.sshfs",
            "fuseblk",
            "nfs4",
            "cifs",
            "9p",
            "ceph",
        ] {
            assert!(is_foreign_type(foreign.as_bytes()), "{foreign}");
        }
        for local in [
            "ext4", "xfs", "btrfs", "overlay", "tmpfs", "zfs", "fusectl", "nfsd",
        ] {
            assert!(!is_foreign_type(local.as_bytes()), "{local}");
        }
        // As `statfs` of a 64-bit system gives the number of CIFS: its sign may be extended.
        for foreign in [0x6573_5546, 0x6969, 0xff53_4d42, 0xffff_ffff_ff53_4d42] {
            assert!(is_foreign_magic(foreign), "{foreign:#x}");
        }
        for local in [0xef53, 0x5846_5342, 0x9123_683e, 0x794c_7630, 0x0102_1994] {
            assert!(!is_foreign_magic(local), "{local:#x}");
        }
    }

    #[test]
    fn a_path_through_links_leads_where_the_kernel_leads() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        symlink("a", at("relative")).unwrap();
        symlink(at("a/b"), at("absolute")).unwrap();
        symlink("../absolute/..", at("a/up")).unwrap();
        for path in ["relative/b/..", "absolute/..", "a/up", "./a//."] {
            let opened = File::from(directory(&at(path)).unwrap());
            let there = std::fs::metadata(at("a")).unwrap();
            assert_eq!(opened.metadata().unwrap().ino(), there.ino(), "{path}");
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        symlink("loop", at("loop")).unwrap();
        let refused = |name: &str| directory(&at(name)).map(|_fd| ());
        assert_eq!(refused("file"), Err(Errno::NOTDIR.into()));
        assert_eq!(refused("file/x"), Err(Errno::NOTDIR.into()));
        assert_eq!(refused("none"), Err(Errno::NOENT.into()));
        assert_eq!(refused("loop"), Err(Errno::LOOP.into()));
    }

    #[test]
    fn a_line_of_a_mount_table_says_its_type_behind_the_dash() {
        let line = b"36 35 98:0 /a\\040- /mnt rw,noatime shared:1 - fuse.x name rw\n";
        assert_eq!(parse(line), Some((36, b"fuse.x".as_slice())));
        assert_eq!(parse(b"36 35 98:0 / /mnt rw"), None);
    }
}
