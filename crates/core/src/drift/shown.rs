//! How a change reads: the sentence for the person who is woken, and the record in the document. Bounded,
//! in the reversible form, and deciding nothing.

use super::{Change, ChangeKind, Class};
use crate::digest::Digest;
use crate::display::{self, shorten};
use crate::finding::{FileChange, FileState};
use crate::layer::{Entry, Node};

/// About how much text a change is.
pub(super) fn weight(change: &FileChange) -> usize {
    let state = |state: &FileState| {
        let target = state.target.as_ref().map_or(0, String::len);
        let xattrs: usize = state
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len() + 8)
            .sum();
        200 + target + xattrs
    };
    let states: usize = [&change.expected, &change.actual]
        .into_iter()
        .flatten()
        .map(state)
        .sum();
    let ruled = change.policy.as_ref().map_or(0, |ruled| {
        let expired = ruled.expired.as_ref();
        let expired = expired.map_or(0, |expired| 80 + expired.exception.len());
        40 + expired + ruled.rule.as_ref().map_or(0, String::len)
    });
    let note = change.note.as_ref().map_or(0, String::len);
    120 + change.path.len() + states + note + ruled
}

impl From<&Change> for FileChange {
    fn from(change: &Change) -> Self {
        Self {
            path: display::path(&change.path),
            change: change.kind,
            class: change.class,
            severity: change.severity,
            expected: change.expected.as_ref().map(FileState::from),
            actual: change.actual.as_ref().map(FileState::from),
            note: change.note.clone(),
            policy: change.ruled.clone(),
        }
    }
}

/// Attributes of one file that a finding shows, and the bytes of a value; a container may set hundreds of
/// 64 KiB.
const MAX_XATTRS: usize = 32;
const MAX_XATTR_BYTES: usize = 256;

impl From<&Entry> for FileState {
    fn from(entry: &Entry) -> Self {
        let (mut sha256, mut size, mut target, mut device) = (None, None, None, None);
        match &entry.node {
            Node::File {
                size: length,
                digest,
                ..
            } => {
                sha256 = Some(digest.encoded());
                size = Some(*length);
            }
            Node::Symlink { target: path } => target = Some(display::escape(path)),
            Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
                device = Some(format!("{major}:{minor}"));
            }
            Node::Directory { .. } | Node::Fifo | Node::Socket | Node::Whiteout => {}
        }
        Self {
            node_type: entry.node.type_name().to_owned(),
            sha256,
            size,
            target,
            device,
            mode: format!("{:04o}", entry.mode & 0o7777),
            uid: entry.uid,
            gid: entry.gid,
            xattrs: entry
                .xattrs
                .iter()
                .take(MAX_XATTRS)
                .map(shown_xattr)
                .collect(),
        }
    }
}

fn shown_xattr((name, value): &(Vec<u8>, Vec<u8>)) -> (String, String) {
    let shown = if value.len() > MAX_XATTR_BYTES {
        Digest::of(value).to_string()
    } else {
        hex::encode(value)
    };
    (display::escape(name), shown)
}

/// The longest workload in a title; with the longest path and words a title stays near 120 characters.
pub(crate) const MAX_WORKLOAD: usize = 36;
pub(crate) const MAX_PATH: usize = 44;
const MAX_NOTE: usize = 60;

pub(super) fn title(change: &Change, workload: &str) -> String {
    let path = shorten(&display::path(&change.path), MAX_PATH);
    if let Some(note) = &change.note
        && change.kind != ChangeKind::Moved
    {
        let note = shorten(note, MAX_NOTE);
        return format!("{note} in {path} of {workload}");
    }
    let noun = noun(change.class).0;
    match change.kind {
        ChangeKind::Redirected => {
            format!("{path} in {workload} is redirected to other content by a planted attribute")
        }
        ChangeKind::Added if change.privileged => {
            format!("New set-id or capable program {path} in {workload}")
        }
        ChangeKind::Metadata if change.privileged => {
            format!("{path} in {workload} has a set-id bit or a capability and was changed")
        }
        ChangeKind::Added => format!("New {noun} {path} in {workload}, not in the image"),
        ChangeKind::Modified => format!(
            "{} {path} in {workload} differs from the image",
            capital(noun)
        ),
        ChangeKind::Moved => format!(
            "{} {path} in {workload} has the content of another file of the image",
            capital(noun)
        ),
        ChangeKind::Removed => format!(
            "{} {path} of the image was removed in {workload}",
            capital(noun)
        ),
        ChangeKind::Metadata => {
            format!("Mode, owner or attributes of {noun} {path} changed in {workload}")
        }
    }
}

pub(super) fn layer_title(change: &Change, workload: &str) -> String {
    let path = shorten(&display::path(&change.path), MAX_PATH);
    let act = match change.kind {
        ChangeKind::Added => "was added",
        ChangeKind::Removed => "is missing",
        ChangeKind::Metadata => "has another mode, owner or attribute",
        ChangeKind::Redirected => "is redirected",
        ChangeKind::Modified | ChangeKind::Moved => "was modified",
    };
    format!("Layer file {path} of {workload} {act} on the node's disk")
}

pub(super) fn blank_title(change: &Change, workload: &str) -> String {
    let path = shorten(&display::path(&change.path), MAX_PATH);
    format!("Layer file {path} of {workload} has lost its content in a power cut")
}

/// A class in titles: one and many.
pub(super) const fn noun(class: Class) -> (&'static str, &'static str) {
    match class {
        Class::DeviceNode => ("device node", "device nodes"),
        Class::TrustAnchor => ("trust anchor", "trust anchors"),
        Class::Program => ("program", "programs"),
        Class::BytecodeCache => ("bytecode cache", "bytecode caches"),
        Class::Volatile => ("volatile file", "volatile files"),
        Class::Configuration => ("configuration file", "configuration files"),
        Class::Data => ("data file", "data files"),
    }
}

fn capital(noun: &str) -> String {
    let mut letters = noun.chars();
    letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Marker;

    fn file(content: &[u8], mode: u32) -> Entry {
        Entry {
            node: Node::File {
                size: u64::try_from(content.len()).unwrap(),
                digest: Digest::of(content),
                marker: Marker::of(content),
            },
            mode,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        }
    }

    fn added(path: &str, mode: u32) -> Change {
        let entry = file(b"x", mode);
        super::super::class::judge(path.as_bytes(), ChangeKind::Added, None, Some(&entry), &[])
            .unwrap()
    }

    #[test]
    fn titles_are_short_sentences_without_control_characters() {
        let mut change = added("usr/bin/ok.log\nseverity=info", 0o755);
        assert_eq!(
            title(&change, "shop/api"),
            "New program /usr/bin/ok.log\\x0aseverity=info in shop/api, not in the image"
        );
        change.path = b"etc/passwd".to_vec();
        change.note = Some("uid 0 account toor added".to_owned());
        assert_eq!(
            title(&change, "shop/api"),
            "uid 0 account toor added in /etc/passwd of shop/api"
        );
        let longest = title(
            &added(&"L".repeat(255), 0o755),
            &shorten(&"w".repeat(300), 36),
        );
        assert!(longest.chars().count() <= 130, "{longest}");
        assert!(longest.contains('…'));
    }

    #[test]
    fn a_file_is_shown_with_what_its_type_has() {
        let shown = FileState::from(&Entry {
            xattrs: vec![
                (b"user.a\n".to_vec(), vec![0, 255]),
                (b"user.b".to_vec(), vec![0; 300]),
            ],
            ..file(b"x", 0o4755)
        });
        assert_eq!((shown.mode.as_str(), shown.size), ("4755", Some(1)));
        assert_eq!(shown.sha256, Some(Digest::of(b"x").encoded()));
        assert_eq!(shown.xattrs["user.a\\x0a"], "00ff");
        assert_eq!(shown.xattrs["user.b"], Digest::of(&[0; 300]).to_string());
        let device = FileState::from(&Entry {
            node: Node::BlockDevice { major: 8, minor: 1 },
            ..file(b"", 0o660)
        });
        assert_eq!(device.device.as_deref(), Some("8:1"));
        assert_eq!((device.sha256, device.size), (None, None));
    }
}
