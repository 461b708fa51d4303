//! How containerd finds the directory that an entry goes into: symbolic links of the layer's own
//! directory are followed, none leads out of it, and the layers below are not looked at.
//!
//! Its rule (continuity's `fs.RootPath`) is not the kernel's: each link is replaced by its text and `..`
//! is then taken off the text, before the next link is followed. Where the two differ, a table placed by
//! the kernel's rule would put a file where none is. So the rule is followed here step by step, with the
//! kernel's own behaviour in its one system call, `lstat`, which follows links on the way too.

use crate::layer::TreeError;
use crate::layer::codec::wide;
use crate::layer::limits::{NAME_BYTES, PATH_BYTES};

/// containerd gives up after following more links than this for one path.
const TEXT_LINKS_LIMIT: usize = 255;

/// Linux gives up after following more links than this in one call.
const KERNEL_LINKS_LIMIT: usize = 40;

/// Steps of placing one layer. Real layers take a few for an entry; an image whose links lead through
/// each other ends here instead of holding a processor for hours.
const STEPS: u64 = 20_000_000;

/// Bytes of a path that cost one step more.
const BYTES_A_STEP: usize = 16;

/// What is at a path, links not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stat {
    Directory,
    Link(Vec<u8>),
    Other,
}

/// A layer's directory. Paths are relative to it and clean.
pub(super) trait View {
    fn stat(&self, path: &[u8]) -> Result<Option<Stat>, TreeError>;
}

/// Why a path leads nowhere.
#[derive(Debug)]
pub(super) enum Obstacle {
    NotADirectory,
    TooManyLinks,
    NameTooLong,
    /// An absolute link, or one with too many `..`, on the way of a single system call: containerd looked
    /// at the node's own files, which nobody can know later.
    OutsideLayer,
    TooMuchWork,
    Tree(TreeError),
}

impl From<TreeError> for Obstacle {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

/// Follows paths within one budget for the whole layer.
#[derive(Debug)]
pub(super) struct Resolver {
    steps: u64,
}

impl Resolver {
    pub(super) const fn new() -> Self {
        Self { steps: STEPS }
    }

    /// Takes `steps` off the budget.
    pub(super) fn spend(&mut self, steps: u64) -> Result<(), Obstacle> {
        self.steps = self.steps.checked_sub(steps).ok_or(Obstacle::TooMuchWork)?;
        Ok(())
    }

    /// Takes off what looking at `path` costs: the longer, the more.
    pub(super) fn step(&mut self, path: &[u8]) -> Result<(), Obstacle> {
        self.spend(wide(path.len() / BYTES_A_STEP).saturating_add(1))
    }

    /// The path, relative and clean, that `path` leads to. It need not exist.
    pub(super) fn root_path(&mut self, view: &impl View, path: &[u8]) -> Result<Vec<u8>, Obstacle> {
        let (mut path, mut links) = (path.to_vec(), 0);
        loop {
            let before = links;
            path = self.replace_links(view, &path, &mut links)?;
            if links == before {
                return Ok(rooted(&path));
            }
        }
    }

    /// Replaces each component that is a link by the link's text, once.
    fn replace_links(
        &mut self,
        view: &impl View,
        path: &[u8],
        links: &mut usize,
    ) -> Result<Vec<u8>, Obstacle> {
        // Nothing yet, for a relative path: there the text of a link replaces everything, as it stands.
        let mut at = path.starts_with(b"/").then(|| b"/".to_vec());
        for component in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            if *links > TEXT_LINKS_LIMIT {
                return Err(Obstacle::TooManyLinks);
            }
            let directory = at.as_deref().unwrap_or_default();
            let next = rooted(&join(directory, component));
            let stat = self.lstat(view, &next)?;
            let Some(Stat::Link(target)) = stat else {
                at = Some([b"/".as_slice(), &next].concat());
                continue;
            };
            *links = links.saturating_add(1);
            at = Some(match at {
                Some(directory) if !target.starts_with(b"/") => clean(&join(&directory, &target)),
                _ => target,
            });
        }
        Ok(at.unwrap_or_default())
    }

    /// What the system call says about `path`: links on the way are followed, the last one is not.
    fn lstat(&mut self, view: &impl View, path: &[u8]) -> Result<Option<Stat>, Obstacle> {
        self.step(path)?;
        if path.len() > PATH_BYTES {
            return Err(Obstacle::NameTooLong);
        }
        if path.is_empty() {
            return Ok(Some(Stat::Directory));
        }
        if let Some(stat) = view.stat(path)? {
            return Ok(Some(stat));
        }
        // What links on the way lead to, and then the rest of the path: mostly its first name ends it.
        let (mut ahead, mut rest) = (Vec::<Vec<u8>>::new(), components(path).peekable());
        let (mut at, mut links) = (Vec::new(), 0);
        while let Some(component) = ahead.pop().or_else(|| rest.next().map(<[u8]>::to_vec)) {
            self.step(&at)?;
            if component.len() > NAME_BYTES {
                return Err(Obstacle::NameTooLong);
            }
            if component == b".." {
                at = parent(&at).ok_or(Obstacle::OutsideLayer)?.to_vec();
                continue;
            }
            let next = join(&at, &component);
            let stat = view.stat(&next)?;
            if ahead.is_empty() && rest.peek().is_none() {
                return Ok(stat);
            }
            let target = match stat {
                None => return Ok(None),
                Some(Stat::Other) => return Err(Obstacle::NotADirectory),
                Some(Stat::Directory) => {
                    at = next;
                    continue;
                }
                Some(Stat::Link(target)) => target,
            };
            links += 1;
            if links > KERNEL_LINKS_LIMIT {
                return Err(Obstacle::TooManyLinks);
            }
            if target.starts_with(b"/") {
                return Err(Obstacle::OutsideLayer);
            }
            ahead.extend(components(&target).rev().map(<[u8]>::to_vec));
        }
        // Links on the way led to a directory by `..` alone.
        Ok(Some(Stat::Directory))
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|component| !component.is_empty() && *component != b".")
}

/// `directory/name`, or what there is of it.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        name.to_vec()
    } else {
        [directory, name].join(&b'/')
    }
}

/// The directory of a relative path; none for the root.
pub(super) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.is_empty() {
        return None;
    }
    let slash = path.iter().rposition(|byte| *byte == b'/');
    Some(
        slash
            .and_then(|slash| path.get(..slash))
            .unwrap_or_default(),
    )
}

/// `path` without `.`, empty components, and `..` as far as there is something to take off.
pub(super) fn clean(path: &[u8]) -> Vec<u8> {
    let is_rooted = path.starts_with(b"/");
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in components(path) {
        if component != b".." {
            kept.push(component);
        } else if kept.last().is_some_and(|last| *last != b"..") {
            kept.pop();
        } else if !is_rooted {
            kept.push(component);
        }
    }
    let text = kept.join(&b'/');
    if is_rooted {
        [b"/".as_slice(), &text].concat()
    } else {
        text
    }
}

/// `path` cleaned as one that starts at the root, without its slash.
pub(super) fn rooted(path: &[u8]) -> Vec<u8> {
    let mut path = clean(&[b"/".as_slice(), path].concat());
    path.remove(0);
    path
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Links by path; what ends in a slash is a directory, everything else a file.
    struct Disk(BTreeMap<Vec<u8>, Stat>);

    impl View for Disk {
        fn stat(&self, path: &[u8]) -> Result<Option<Stat>, TreeError> {
            Ok(self.0.get(path).cloned())
        }
    }

    fn disk(lines: &[&str]) -> Disk {
        let stat = |line: &&str| match line.split_once(" -> ") {
            Some((path, target)) => (path.into(), Stat::Link(target.into())),
            None => match line.strip_suffix('/') {
                Some(path) => (path.into(), Stat::Directory),
                None => ((*line).into(), Stat::Other),
            },
        };
        Disk(lines.iter().map(stat).collect())
    }

    fn follow(disk: &Disk, path: &str) -> Result<String, Obstacle> {
        let path = Resolver::new().root_path(disk, path.as_bytes())?;
        Ok(String::from_utf8(path).unwrap())
    }

    #[test]
    fn names_are_cleaned_as_text() {
        for (written, cleaned) in [
            ("", ""),
            ("./", ""),
            ("/", "/"),
            ("a//b/./c/", "a/b/c"),
            ("../../x", "../../x"),
            ("/../x", "/x"),
            ("a/../..", ".."),
            ("a/b/../../c", "c"),
        ] {
            assert_eq!(clean(written.as_bytes()), cleaned.as_bytes(), "{written}");
        }
        assert_eq!(rooted(b"../../etc/passwd"), b"etc/passwd");
    }

    #[test]
    fn links_are_followed_within_the_layer() {
        let disk = disk(&[
            "usr/",
            "usr/bin/",
            "bin -> usr/bin",
            "sbin -> /usr/bin",
            "up -> ../../../usr",
            "usr/local -> ../bin",
            "gone -> nowhere/at/all",
            "file",
        ]);
        for (path, leads_to) in [
            ("usr/bin/", "usr/bin"),
            ("bin/", "usr/bin"),
            ("sbin", "usr/bin"),
            ("up/bin", "usr/bin"),
            ("usr/local/", "usr/bin"),
            ("gone/x", "nowhere/at/all/x"),
            ("../../bin", "usr/bin"),
            ("missing/bin", "missing/bin"),
            ("/", ""),
            ("", ""),
        ] {
            assert_eq!(follow(&disk, path).unwrap(), leads_to, "{path}");
        }
        assert_eq!(follow(&disk, "./bin/").unwrap(), "usr/bin");
        assert!(matches!(
            follow(&disk, "file/x"),
            Err(Obstacle::NotADirectory)
        ));
    }

    #[test]
    fn dots_behind_a_link_are_taken_off_its_text() {
        // The kernel would go to d/e, then up to d; containerd takes `..` off the text "l".
        let disk = disk(&["a -> l", "l -> d/e", "d/", "d/e/"]);
        assert_eq!(follow(&disk, "a/../x").unwrap(), "x");
        assert_eq!(follow(&disk, "l/../x").unwrap(), "d/x");
    }

    #[test]
    fn a_loop_is_refused() {
        let disk = disk(&["a -> b", "b -> a"]);
        assert!(matches!(follow(&disk, "a/x"), Err(Obstacle::TooManyLinks)));
    }

    #[test]
    fn what_depends_on_the_nodes_own_files_is_refused() {
        let disk = disk(&["a -> /b", "b -> /c", "c/"]);
        assert!(matches!(follow(&disk, "a/x"), Err(Obstacle::OutsideLayer)));
        assert_eq!(follow(&disk, "b/x").unwrap(), "c/x");
    }

    #[test]
    fn endless_work_ends() {
        let refused = |steps: u64, path: &[u8]| {
            let followed = Resolver { steps }.root_path(&disk(&[]), path);
            matches!(followed, Err(Obstacle::TooMuchWork))
        };
        let deep = vec![b"d".as_slice(); 20].join(&b'/');
        assert!(refused(10, &deep));
        assert!(!refused(1000, &deep));
        // A thousand levels by their whole paths are a million names.
        assert!(refused(1000, &[b'n'; 200].repeat(100)));
        assert!(refused(100_000, &vec![b"d".as_slice(); 2000].join(&b'/')));
    }
}
