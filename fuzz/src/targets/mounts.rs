//! The kernel's mount table, which a container fills with paths and options of its choice: every line is read
//! as it was written, or the table is refused; and what is concluded from any table, also one that no kernel
//! shows, is bounded and the same each time.

use std::sync::Arc;

use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::layer::{Entry, ExpectedTree, Marker, MergedTree, Node};
use holdfast_core::mounts::table::{Limits, MountEntry, read};
use holdfast_core::mounts::{Declared, DeclaredMount, MAX_TOLD, Origin, View, conditions};

use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "mounts",
    check,
    max_bytes: 2 << 10,
    seeds,
    words: &[
        " - overlay overlay rw,",
        " - tmpfs tmpfs rw",
        " / / rw,relatime ",
        "shared:",
        "master:",
        "propagate_from:",
        "unbindable",
        "lowerdir=",
        "upperdir=",
        "workdir=",
        "metacopy=on",
        "redirect_dir=on",
        "context=\"u:c1,c2\"",
        "\\040",
        "\\134",
        "\\777",
        "0:97",
    ],
    repair: as_it_is,
};

const LIMITS: Limits = Limits {
    mounts: 30,
    bytes: 2 << 10,
};

fn check(table: &[u8]) {
    let Ok(entries) = read(table, LIMITS) else {
        assert!(read(table, LIMITS).is_err());
        return;
    };
    assert_eq!(read(table, LIMITS).unwrap(), entries);
    assert!(entries.len() <= LIMITS.mounts);
    let lines: Vec<&[u8]> = table.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), entries.len());
    for (line, entry) in lines.iter().zip(&entries) {
        assert_eq!(MountEntry::parse(line).as_ref(), Some(entry));
        check_entry(line, entry);
    }
    check_conclusions(entries);
}

/// Longest title of a condition: two paths and the words around them.
const TITLE_CHARS: usize = 400;

/// The second half of the table is another namespace of the same container.
fn check_conclusions(mut entries: Vec<MountEntry>) {
    let Some(first) = entries.first() else {
        return;
    };
    let (root, device, first_root) = (first.id, first.device, first.root.clone());
    let half = entries.len().div_ceil(2);
    let others = entries.split_off(half);
    let view = |entries| View {
        root,
        device,
        top: first_root.clone(),
        base: Vec::new(),
        entries,
    };
    let views = [view(entries), view(others)];
    let image = image();
    for declared in [Declared::default(), declared()] {
        let told = conditions(&image, &declared, &views, "w").unwrap();
        assert_eq!(conditions(&image, &declared, &views, "w").unwrap(), told);
        assert!(told.len() <= MAX_TOLD + 1);
        for condition in told {
            let title = condition.title;
            assert!(title.chars().count() <= TITLE_CHARS, "{title}");
            assert!(!title.chars().any(char::is_control), "{title}");
        }
    }
}

/// What the runtime was asked for.
fn declared() -> Declared {
    let mount = |destination: &str, kind: &str, options: &[&str], origin| DeclaredMount {
        destination: destination.into(),
        kind: kind.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        origin,
    };
    Declared {
        mounts: vec![
            mount("/proc", "proc", &["nosuid"], Origin::Record),
            mount(
                "/etc/../etc/hosts",
                "bind",
                &["rbind", "ro"],
                Origin::Record,
            ),
            mount("/bin/x", "bind", &["bind"], Origin::Bundle),
            mount("/sys/fs/cgroup", "cgroup", &[], Origin::Record),
        ],
        masked: vec![b"/proc/kcore".to_vec()],
        read_only: vec![b"/proc/sys".to_vec()],
        has_terminal: true,
        may_mount: true,
    }
}

/// A program, an account file, and a link on the way to both.
fn image() -> MergedTree {
    let entry = |node| Entry {
        node,
        mode: 0o755,
        uid: 0,
        gid: 0,
        xattrs: Vec::new(),
        hard_link: None,
    };
    let directory = entry(Node::Directory { opaque: false });
    let file = entry(Node::File {
        size: 1,
        digest: Digest::of(b"x"),
        marker: Marker::Elf,
    });
    let link = entry(Node::Symlink {
        target: b"usr/bin".to_vec(),
    });
    let entries = [
        ("", &directory),
        ("bin", &link),
        ("etc", &directory),
        ("etc/hosts", &file),
        ("etc/passwd", &file),
        ("usr", &directory),
        ("usr/bin", &directory),
        ("usr/bin/x", &file),
    ];
    let entries = entries.map(|(path, entry)| (path.as_bytes(), entry));
    let id = Digest::of(b"layer");
    let mut written = Vec::new();
    ExpectedTree::write(&mut written, ChainId(id), DiffId(id), entries).unwrap();
    let tree = ExpectedTree::open(written, ChainId(id)).unwrap();
    MergedTree::new(vec![Arc::new(tree)])
}

/// Nothing grows, and what is written again is read as the same.
fn check_entry(line: &[u8], entry: &MountEntry) {
    let options: usize = entry
        .super_options
        .iter()
        .map(|option| option.len() + 1)
        .sum();
    let held = entry.root.len() + entry.mount_point.len() + entry.fs_type.len() + options;
    assert!(held <= line.len());
    let tag = |name: &str, group: Option<u32>| {
        group.map_or_else(String::new, |group| format!("{name}:{group} "))
    };
    let written = [
        format!("{} {} {} ", entry.id, entry.parent, entry.device).as_bytes(),
        &escaped(&entry.root),
        b" ",
        &escaped(&entry.mount_point),
        if entry.is_read_only { b" ro " } else { b" rw " },
        tag("shared", entry.propagation.shared).as_bytes(),
        tag("master", entry.propagation.master).as_bytes(),
        b"- ",
        &escaped(&entry.fs_type),
        b" none x\n",
    ]
    .concat();
    let again = MountEntry::parse(&written).expect("what was read cannot be written");
    assert_eq!(again.super_options, [b"x".to_vec()]);
    let expected = MountEntry {
        super_options: again.super_options.clone(),
        ..entry.clone()
    };
    assert_eq!(again, expected);
}

/// As the kernel writes what would end a field.
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        other => vec![*other],
    };
    bytes.iter().flat_map(escape).collect()
}

fn seeds() -> Vec<Vec<u8>> {
    let root = "598 511 0:97 / / rw,relatime shared:3 master:7 - overlay overlay rw,lowerdir=/x\\054y:2/fs,upperdir=/u\\134,workdir=/w\n";
    let proc = "599 598 0:98 / /proc ro,nosuid - proc proc rw\n";
    let bound = "600 598 254:1 /var/lib/a\\040b /etc/ho\\011sts rw - ext4 /dev/vda1 rw,context=\"u:c1,c2\"\n";
    let gone = "601 598 254:1 /a//deleted /x rw unbindable - ext4 /dev/vda1 rw\n";
    [
        root,
        proc,
        bound,
        gone,
        &[root, proc, bound].concat(),
        "x\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
