//! What kind of file a path is, and how bad a change of it is by default (DESIGN section 5). Pure names and
//! numbers: what a policy excuses is decided elsewhere.
//!
//! The caches of Python modules are programs here: what they are depends on the module beside them, and
//! [`super::bytecode`] knows.

use super::{Change, ChangeKind, Class};
use crate::finding::Severity;
use crate::layer::{Entry, Marker, Node};

/// What kind of file `entry` at `path` is: the first class that fits.
///
/// A symbolic link has this class by its own name; [`judge`] adds what it leads to.
pub fn classify(path: &[u8], entry: &Entry) -> Class {
    let runs = match &entry.node {
        Node::CharDevice { .. } | Node::BlockDevice { .. } => return Class::DeviceNode,
        // Directories decide nothing themselves; the files in them do.
        Node::Directory { .. } => return class_of_place(path),
        Node::File { marker, .. } => entry.mode & 0o111 != 0 || *marker != Marker::None,
        // A socket has x bits by habit, a link always.
        Node::Symlink { .. } | Node::Fifo | Node::Socket | Node::Whiteout => false,
    };
    // A link in place of a directory of trust anchors decides where they are.
    let stands_for_a_tree =
        matches!(entry.node, Node::Symlink { .. }) && is_trust_anchor(&[path, b"/"].concat());
    if is_trust_anchor(path) || stands_for_a_tree {
        Class::TrustAnchor
    } else if runs || is_named_like_a_program(path) {
        Class::Program
    } else {
        class_of_place(path)
    }
}

/// The class of what the symbolic link at `path` leads to where that cannot be seen: in a volume, or not there
/// yet. Its name says what it would be; a link among programs is run by the name that the link has.
pub fn classify_unseen(path: &[u8], link: &Entry, target: &[u8]) -> Class {
    let class = classify(target, link);
    if PROGRAM_TREES.iter().any(|tree| is_below(path, tree)) {
        class.min(Class::Program)
    } else {
        class
    }
}

/// Whether nothing at `path` can matter unless it is a device, runs, or is named as if it did: there, the
/// first bytes of a file decide, and its content need not be hashed.
pub fn is_volatile_unless_it_runs(path: &[u8]) -> bool {
    class_of_place(path) == Class::Volatile && is_harmless_unless_it_runs(path)
}

/// Whether nothing in the name of `path` makes it more than data.
pub fn is_harmless_unless_it_runs(path: &[u8]) -> bool {
    !is_trust_anchor(path) && !is_named_like_a_program(path)
}

/// How bad a change is by default; `entry` is what is there now, else what was. `None`: no finding.
///
/// [`ChangeKind::Moved`] stands for moved *onto* a path of the image; to a new path it is as bad as added.
pub const fn severity(kind: ChangeKind, class: Class, entry: &Entry) -> Option<Severity> {
    use ChangeKind::{Added, Metadata, Modified, Moved, Redirected, Removed};
    use Class::{BytecodeCache, Configuration, Data, DeviceNode, Program, TrustAnchor, Volatile};
    use Severity::{Critical, Info, Warning};

    match (class, kind) {
        // First: a planted redirect is critical in a volatile place too.
        (_, Redirected)
        | (DeviceNode | Program, Modified | Moved)
        | (TrustAnchor, Added | Modified | Moved | Removed) => Some(Critical),
        (Volatile, _) => None,
        (DeviceNode, Added) if matches!(entry.node, Node::BlockDevice { .. }) => Some(Warning),
        (DeviceNode, Removed | Metadata)
        | (TrustAnchor, Metadata)
        | (Program, Added | Removed | Metadata)
        | (BytecodeCache, Added | Modified | Moved)
        | (Configuration, _)
        | (Data, Modified | Moved | Removed) => Some(Warning),
        (DeviceNode, Added) | (BytecodeCache, Removed | Metadata) | (Data, Added | Metadata) => {
            Some(Info)
        }
    }
}

/// Whether whoever runs this file gains a right: set-id bits, or file capabilities.
pub fn is_privileged(entry: &Entry) -> bool {
    matches!(entry.node, Node::File { .. })
        && (entry.mode & 0o6000 != 0
            || entry
                .xattrs
                .iter()
                .any(|(name, _)| name == b"security.capability"))
}

/// Makes a change of a difference; `None` where it is not worth a finding.
///
/// The class is the worst of what the path was, what it is, and `lent`: what symbolic links at this path
/// led to before and after.
pub fn judge(
    path: &[u8],
    kind: ChangeKind,
    expected: Option<&Entry>,
    actual: Option<&Entry>,
    lent: &[Class],
) -> Option<Change> {
    let entry = actual.or(expected)?;
    let is_privileged = actual.is_some_and(is_privileged);
    let own = [expected, actual]
        .into_iter()
        .flatten()
        .map(|entry| classify(path, entry));
    let is_own_volatile = own.clone().all(|class| class == Class::Volatile);
    // A link in a volatile place matters when it leads to something that runs or decides; a link elsewhere
    // does not become harmless because it leads into a volatile place.
    let counts =
        |class: &Class| *class <= Class::Program || (!is_own_volatile && *class != Class::Volatile);
    let (severity, class) = own
        .chain(lent.iter().copied().filter(counts))
        .map(|class| (severity(kind, class, entry), class))
        .max_by_key(|(severity, class)| (*severity, std::cmp::Reverse(*class)))?;
    let severity = if is_privileged {
        Severity::Critical
    } else {
        severity?
    };
    Some(Change {
        path: path.to_vec(),
        kind,
        class,
        severity,
        privileged: is_privileged,
        expected: expected.cloned(),
        actual: actual.cloned(),
        note: None,
        ruled: None,
    })
}

/// Makes a change of a difference in the directory of an unpacked layer. Nothing writes there after the
/// unpacking, so whatever differs was tampered with, in every class.
pub fn judge_in_layer(
    path: &[u8],
    kind: ChangeKind,
    expected: Option<&Entry>,
    actual: Option<&Entry>,
) -> Change {
    let class = [expected, actual]
        .into_iter()
        .flatten()
        .map(|entry| classify(path, entry))
        .min()
        .unwrap_or(Class::Data);
    Change {
        path: path.to_vec(),
        kind,
        class,
        severity: Severity::Critical,
        privileged: actual.is_some_and(is_privileged),
        expected: expected.cloned(),
        actual: actual.cloned(),
        note: None,
        ruled: None,
    }
}

fn class_of_place(path: &[u8]) -> Class {
    if VOLATILE_TREES.iter().any(|tree| is_below(path, tree)) {
        Class::Volatile
    } else if is_below(path, b"etc") || path == b"etc" || has_suffix(path, CONFIGURATION_SUFFIXES) {
        Class::Configuration
    } else {
        Class::Data
    }
}

/// Places that every service writes to.
const VOLATILE_TREES: &[&[u8]] = &[b"tmp", b"var/tmp", b"run", b"var/log", b"var/cache"];

/// Where a shell looks for programs.
const PROGRAM_TREES: &[&[u8]] = &[
    b"bin",
    b"sbin",
    b"usr/bin",
    b"usr/sbin",
    b"usr/local/bin",
    b"usr/local/sbin",
];

const CONFIGURATION_SUFFIXES: &[&[u8]] = &[b"conf", b"yaml", b"json", b"toml", b"ini"];

/// Suffixes of what an interpreter runs. A compiled Python file is one until its own rule comes.
const PROGRAM_SUFFIXES: &[&[u8]] = &[
    b"sh", b"bash", b"py", b"pl", b"rb", b"php", b"phtml", b"js", b"mjs", b"cjs", b"lua", b"tcl",
    b"jsp", b"jar", b"war", b"class", b"wasm", b"ps1", b"so", b"pyc", b"pyo",
];

fn is_named_like_a_program(path: &[u8]) -> bool {
    has_suffix(path, PROGRAM_SUFFIXES)
        || is_versioned_library(path)
        || has_component(path, b"__pycache__")
}

/// `libz.so.1.3`: the suffix that counts is before the version.
fn is_versioned_library(path: &[u8]) -> bool {
    let mut name = file_name(path);
    while let Some((last, rest)) = name.split_last() {
        if !last.is_ascii_digit() && *last != b'.' {
            break;
        }
        name = rest;
    }
    name.ends_with(b".so")
}

/// Files that decide who may do what, or what is loaded and run, by path.
const ANCHOR_FILES: &[&[u8]] = &[
    // accounts and their rights
    b"etc/passwd",
    b"etc/shadow",
    b"etc/group",
    b"etc/gshadow",
    b"etc/subuid",
    b"etc/subgid",
    b"etc/sudoers",
    b"etc/doas.conf",
    b"etc/nsswitch.conf",
    b"etc/shells",
    // what the dynamic loader puts into every program
    b"etc/ld.so.preload",
    b"etc/ld.so.conf",
    b"etc/environment",
    // certificate authorities outside the trees below
    b"etc/ca-certificates.conf",
    b"etc/ssl/cert.pem",
    b"etc/ssl/ca-bundle.pem",
    // schedules and start
    b"etc/anacrontab",
    b"etc/at.allow",
    b"etc/at.deny",
    b"etc/inittab",
    // shells
    b"etc/profile",
    b"etc/bashrc",
    b"etc/bash.bashrc",
    b"etc/bash.bash_logout",
    b"etc/zshrc",
    b"etc/zshenv",
    b"etc/zprofile",
    b"etc/csh.cshrc",
    b"etc/csh.login",
];

const ANCHOR_TREES: &[&[u8]] = &[
    b"etc/sudoers.d",
    b"etc/doas.d",
    b"etc/pam.d",
    b"etc/security",
    b"etc/ld.so.conf.d",
    b"etc/ssl/certs",
    b"etc/pki",
    b"etc/ca-certificates",
    b"usr/share/ca-certificates",
    b"usr/share/pki/ca-trust-source",
    b"usr/local/share/ca-certificates",
    b"var/spool/cron",
    b"var/spool/at",
    b"etc/systemd",
    b"lib/systemd",
    b"usr/lib/systemd",
    b"usr/local/lib/systemd",
    b"etc/init",
    b"etc/init.d",
    b"etc/ssh",
    b"etc/profile.d",
    b"etc/zsh",
    b"etc/fish",
];

/// `etc/cron.d/…`, `etc/crontab`, `etc/crontabs/…`; `etc/rc.local`, `etc/rc3.d/…`.
const ANCHOR_PREFIXES: &[&[u8]] = &[b"etc/cron", b"etc/rc"];

/// Wherever somebody's home is.
const ANCHOR_NAMES: &[&[u8]] = &[
    b"authorized_keys",
    b"authorized_keys2",
    b".bashrc",
    b".bash_profile",
    b".bash_login",
    b".bash_logout",
    b".bash_aliases",
    b".profile",
    b".zshrc",
    b".zshenv",
    b".zprofile",
    b".zlogin",
    b".cshrc",
    b".tcshrc",
    b".kshrc",
    b".mkshrc",
    b".login",
    b"config.fish",
];

/// Modules that every Python interpreter runs at its start.
const ANCHOR_MODULES: &[&[u8]] = &[b"sitecustomize", b"usercustomize"];

fn is_trust_anchor(path: &[u8]) -> bool {
    let name = file_name(path);
    let stem = name.split(|byte| *byte == b'.').next().unwrap_or(name);
    ANCHOR_FILES.contains(&path)
        || ANCHOR_TREES.iter().any(|tree| is_below(path, tree))
        || ANCHOR_PREFIXES
            .iter()
            .any(|prefix| path.starts_with(prefix))
        || ANCHOR_NAMES.contains(&name)
        || has_component(path, b".ssh")
        || has_suffix(path, &[b"pth"])
        || ANCHOR_MODULES.contains(&stem)
        || ANCHOR_MODULES
            .iter()
            .any(|module| has_component(path, module))
}

fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// Whether a directory on the way to `path` has this name.
fn has_component(path: &[u8], name: &[u8]) -> bool {
    let mut components = path.rsplit(|byte| *byte == b'/');
    components.next();
    components.any(|component| component == name)
}

/// Whether the name ends in a dot and one of `suffixes`, in any case: web servers match `.PHP` too.
fn has_suffix(path: &[u8], suffixes: &[&[u8]]) -> bool {
    let mut parts = file_name(path).rsplitn(2, |byte| *byte == b'.');
    match (parts.next(), parts.next()) {
        (Some(suffix), Some(_stem)) => suffixes
            .iter()
            .any(|known| suffix.eq_ignore_ascii_case(known)),
        _ => false,
    }
}

fn is_below(path: &[u8], tree: &[u8]) -> bool {
    path.strip_prefix(tree)
        .is_some_and(|rest| rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn entry(node: Node, mode: u32) -> Entry {
        Entry {
            node,
            mode,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        }
    }

    fn file(content: &[u8], mode: u32) -> Entry {
        let node = Node::File {
            size: u64::try_from(content.len()).unwrap(),
            digest: Digest::of(content),
            marker: Marker::of(content),
        };
        entry(node, mode)
    }

    fn class_of(path: &str) -> Class {
        classify(path.as_bytes(), &file(b"text", 0o644))
    }

    #[test]
    fn trust_anchors_are_known_by_path_and_by_name() {
        for path in [
            "etc/passwd",
            "etc/sudoers.d/app",
            "etc/pam.d/su",
            "etc/ld.so.preload",
            "etc/ld.so.conf.d/x.conf",
            "etc/ssl/certs/ca-certificates.crt",
            "etc/cron.daily/run",
            "etc/crontab",
            "etc/crontabs/root",
            "var/spool/cron/crontabs/root",
            "etc/systemd/system/x.service",
            "usr/lib/systemd/system/x.service",
            "etc/rc.local",
            "etc/rc3.d/S01x",
            "etc/ssh/sshd_config",
            "home/app/.ssh/id_ed25519",
            "home/app/authorized_keys",
            "home/app/.bashrc",
            "etc/profile",
            "etc/profile.d/x.sh",
            "usr/lib/python3/dist-packages/x.pth",
            "usr/lib/python3/dist-packages/sitecustomize.py",
            "usr/lib/python3/dist-packages/usercustomize/__init__.py",
        ] {
            assert_eq!(class_of(path), Class::TrustAnchor, "{path}");
        }
        for path in [
            "etc/passwd-",
            "opt/etc/passwd",
            "etc/hosts",
            "etc/ssl/openssl.cnf",
        ] {
            assert_ne!(class_of(path), Class::TrustAnchor, "{path}");
        }
    }

    #[test]
    fn programs_are_known_by_mode_marker_and_name() {
        let classed =
            |path: &str, content: &[u8], mode| classify(path.as_bytes(), &file(content, mode));
        assert_eq!(classed("opt/x", b"text", 0o744), Class::Program);
        assert_eq!(classed("tmp/x", b"\x7fELF", 0o644), Class::Program);
        assert_eq!(classed("tmp/x", b"#!/bin/sh", 0o600), Class::Program);
        assert_eq!(classed("srv/logo.gif", b"GIF <?php", 0o644), Class::Program);
        for path in [
            "opt/app/mod.py",
            "srv/up.PHP",
            "lib/libz.so",
            "lib/libz.so.1.3",
            "opt/__pycache__/x",
            "opt/x.pyc",
            "tmp/x.js",
        ] {
            assert_eq!(class_of(path), Class::Program, "{path}");
        }
        for path in [
            "opt/sh",
            "opt/solar.so.txt",
            "opt/x.txt",
            "py/x",
            "opt/a.1.3",
        ] {
            assert_eq!(class_of(path), Class::Data, "{path}");
        }
    }

    #[test]
    fn places_decide_the_rest() {
        assert_eq!(class_of("tmp/x"), Class::Volatile);
        assert_eq!(class_of("var/log/app.log"), Class::Volatile);
        assert_eq!(class_of("tmp/x.conf"), Class::Volatile);
        assert_eq!(class_of("tmpfile"), Class::Data);
        assert_eq!(class_of("etc/hosts"), Class::Configuration);
        assert_eq!(class_of("opt/app.yaml"), Class::Configuration);
        assert_eq!(class_of("opt/app.conf"), Class::Configuration);
        assert_eq!(class_of("opt/conf"), Class::Data);
        let directory = |path: &str| {
            classify(
                path.as_bytes(),
                &entry(Node::Directory { opaque: false }, 0o755),
            )
        };
        assert_eq!(directory("etc/ssh/x"), Class::Configuration);
        assert_eq!(directory("opt/x"), Class::Data);
        assert_eq!(directory("tmp"), Class::Data);
        assert_eq!(directory("tmp/x"), Class::Volatile);
        let socket = entry(Node::Socket, 0o755);
        assert_eq!(classify(b"run/x.sock", &socket), Class::Volatile);
        assert_eq!(classify(b"opt/x.sock", &socket), Class::Data);
    }

    #[test]
    fn the_table_is_the_designs() {
        use ChangeKind::{Added, Metadata, Modified, Removed};
        use Severity::{Critical, Info, Warning};
        let at = |class| {
            [Added, Modified, Removed, Metadata]
                .map(|kind| severity(kind, class, &entry(Node::Fifo, 0o644)))
        };
        let (c, w, i) = (Some(Critical), Some(Warning), Some(Info));
        assert_eq!(at(Class::DeviceNode), [i, c, w, w]);
        assert_eq!(at(Class::TrustAnchor), [c, c, c, w]);
        assert_eq!(at(Class::Program), [w, c, w, w]);
        assert_eq!(at(Class::BytecodeCache), [w, w, i, i]);
        assert_eq!(at(Class::Volatile), [None; 4]);
        assert_eq!(at(Class::Configuration), [w, w, w, w]);
        assert_eq!(at(Class::Data), [i, w, w, i]);
        let block = entry(Node::BlockDevice { major: 8, minor: 0 }, 0o660);
        assert_eq!(severity(Added, Class::DeviceNode, &block), w);
        assert_eq!(severity(ChangeKind::Redirected, Class::Volatile, &block), c);
    }

    #[test]
    fn a_set_id_bit_or_a_capability_is_critical_everywhere() {
        let judged = |path: &str, kind, actual: &Entry| {
            judge(path.as_bytes(), kind, None, Some(actual), &[])
                .map(|c| (c.severity, c.privileged))
        };
        let critical = Some((Severity::Critical, true));
        assert_eq!(
            judged("tmp/x", ChangeKind::Added, &file(b"", 0o4755)),
            critical
        );
        assert_eq!(
            judged("tmp/x", ChangeKind::Metadata, &file(b"", 0o2644)),
            critical
        );
        let capable = Entry {
            xattrs: vec![(b"security.capability".to_vec(), vec![1])],
            ..file(b"", 0o644)
        };
        assert_eq!(judged("opt/x", ChangeKind::Added, &capable), critical);
        let set_gid_directory = entry(Node::Directory { opaque: false }, 0o2755);
        assert_eq!(
            judged("opt/x", ChangeKind::Added, &set_gid_directory),
            Some((Severity::Info, false))
        );
        assert_eq!(judged("tmp/x", ChangeKind::Added, &file(b"", 0o644)), None);
    }

    #[test]
    fn a_change_has_the_worse_class_of_before_and_after() {
        let judged = |expected: &Entry, actual: &Entry| {
            judge(
                b"opt/x",
                ChangeKind::Modified,
                Some(expected),
                Some(actual),
                &[],
            )
            .map(|change| (change.class, change.severity))
        };
        let (program, data) = (file(b"#!/bin/sh", 0o755), file(b"text", 0o644));
        let critical = Some((Class::Program, Severity::Critical));
        assert_eq!(judged(&program, &data), critical);
        assert_eq!(judged(&data, &program), critical);
        assert_eq!(judged(&data, &data), Some((Class::Data, Severity::Warning)));
    }

    #[test]
    fn a_link_borrows_the_class_of_what_it_leads_to_and_never_hides_in_a_volatile_one() {
        let link = entry(
            Node::Symlink {
                target: b"x".to_vec(),
            },
            0o777,
        );
        let judged = |path: &str, kind, lent: &[Class]| {
            judge(path.as_bytes(), kind, Some(&link), Some(&link), lent)
                .map(|change| (change.class, change.severity))
        };
        assert_eq!(
            judged(
                "usr/bin/tool",
                ChangeKind::Modified,
                &[Class::Program, Class::Volatile]
            ),
            Some((Class::Program, Severity::Critical))
        );
        assert_eq!(
            judged("opt/x", ChangeKind::Modified, &[Class::Volatile]),
            Some((Class::Data, Severity::Warning))
        );
        assert_eq!(judged("tmp/x", ChangeKind::Modified, &[Class::Data]), None);
        assert_eq!(
            judged("tmp/x", ChangeKind::Added, &[Class::TrustAnchor]),
            Some((Class::TrustAnchor, Severity::Critical))
        );
    }

    #[test]
    fn a_link_in_place_of_a_tree_of_trust_anchors_is_one_and_a_directory_is_not() {
        let link = entry(
            Node::Symlink {
                target: b"x".to_vec(),
            },
            0o777,
        );
        let directory = entry(Node::Directory { opaque: false }, 0o755);
        for path in [&b"root/.ssh"[..], b"etc/sudoers.d", b"etc/ssl/certs"] {
            assert_eq!(classify(path, &link), Class::TrustAnchor);
            assert!(classify(path, &directory) > Class::TrustAnchor);
        }
        assert_eq!(classify(b"root/ssh", &link), Class::Data);
    }

    #[test]
    fn a_link_to_what_cannot_be_seen_is_a_program_where_programs_are_looked_for() {
        let link = entry(
            Node::Symlink {
                target: b"/data/x".to_vec(),
            },
            0o777,
        );
        let unseen =
            |path: &str, target: &str| classify_unseen(path.as_bytes(), &link, target.as_bytes());
        assert_eq!(unseen("usr/bin/x", "data/x"), Class::Program);
        assert_eq!(unseen("bin/x", "root/.bashrc"), Class::TrustAnchor);
        assert_eq!(unseen("opt/x", "data/x"), Class::Data);
        assert_eq!(unseen("opt/x", "data/x.sh"), Class::Program);
    }

    #[test]
    fn in_a_layer_everything_is_critical() {
        let change = judge_in_layer(b"tmp/x", ChangeKind::Added, None, Some(&file(b"", 0o644)));
        assert_eq!(
            (change.class, change.severity),
            (Class::Volatile, Severity::Critical)
        );
    }

    #[test]
    fn only_the_first_bytes_decide_in_a_volatile_place_unless_the_name_does() {
        assert!(is_volatile_unless_it_runs(b"var/log/app.log"));
        assert!(!is_volatile_unless_it_runs(b"tmp/x.py"));
        assert!(!is_volatile_unless_it_runs(b"tmp/.ssh/authorized_keys"));
        assert!(!is_volatile_unless_it_runs(b"opt/x"));
    }
}
