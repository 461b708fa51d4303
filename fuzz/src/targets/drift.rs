//! What a container did to its files, whatever it named them: every change is told, in bounded and plain words,
//! in an order that does not depend on that of the scan; and what gives a right is critical.

use std::collections::BTreeMap;

use holdfast_core::digest::Digest;
use holdfast_core::drift::class::judge;
use holdfast_core::drift::compare::compare;
use holdfast_core::drift::group::{Changes, MASS_CHANGE, conditions};
use holdfast_core::drift::{Change, Class};
use holdfast_core::finding::{Basis, Condition, Detail, Severity};
use holdfast_core::layer::{Entry, Marker, Node};

use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "drift",
    check,
    max_bytes: 1 << 10,
    seeds,
    words: &[
        "etc/passwd\0",
        "etc/shadow\0",
        "etc/ld.so.preload\0",
        "etc/cron.d/",
        "root/.ssh/authorized_keys\0",
        "usr/bin/",
        "usr/lib/",
        "tmp/",
        "var/log/",
        "run/",
        ".sh\0",
        ".pyc\0",
        ".pth\0",
        "__pycache__/",
        ".conf\0",
        "\u{202e}",
        "\n",
    ],
    repair: as_it_is,
};

/// Longest title: a path, a workload and the words around them.
const TITLE_CHARS: usize = 400;

/// Paths up to their NUL, each behind two bytes that say what was there and what is.
fn check(input: &[u8]) {
    let mut changes: BTreeMap<&[u8], Change> = BTreeMap::new();
    for line in input.split(|byte| *byte == 0) {
        let Some((&[before, now], path)) = line.split_first_chunk() else {
            continue;
        };
        if let Some(change) = change(path, entry(before).as_ref(), entry(now).as_ref()) {
            changes.insert(path, change);
        }
    }
    let mut in_order: Vec<&Change> = changes.values().collect();
    let told = told(&in_order);
    in_order.reverse();
    assert_eq!(told, self::told(&in_order));
    let total: u64 = told.iter().map(count).sum();
    assert_eq!(u64::try_from(changes.len()), Ok(total), "a change is lost");
    let worst = changes.values().map(|change| change.severity).max();
    assert_eq!(told.iter().map(|condition| condition.severity).max(), worst);
    for condition in told {
        let title = condition.title;
        assert!(title.chars().count() <= TITLE_CHARS, "{title}");
        assert!(!title.chars().any(char::is_control), "{title}");
    }
}

fn change(path: &[u8], before: Option<&Entry>, now: Option<&Entry>) -> Option<Change> {
    let kind = compare(path, before, now);
    assert_eq!(kind.is_none(), compare(path, now, before).is_none());
    let change = judge(path, kind?, before, now, &[]);
    let has_right = |entry: &Entry| {
        let is_file = matches!(entry.node, Node::File { .. });
        is_file && (entry.mode & 0o6000 != 0 || !entry.xattrs.is_empty())
    };
    if now.is_some_and(has_right) {
        let severity = change.as_ref().map(|change| change.severity);
        assert_eq!(severity, Some(Severity::Critical));
    }
    assert!(change.as_ref().is_none_or(|change| change.path == path));
    change
}

fn told(changes: &[&Change]) -> Vec<Condition> {
    let mut all = Changes::default();
    for change in changes {
        all.push((*change).clone());
    }
    conditions(all, "shop/api", Some(Basis::LocalBlob))
}

/// How many changes a condition stands for.
fn count(condition: &Condition) -> u64 {
    let Detail::FileDrift(drift) = &condition.detail else {
        panic!("{condition:?}");
    };
    let listed = u64::try_from(drift.changes.len()).unwrap();
    assert!(listed <= drift.changes_total);
    let is_one_class = drift
        .changes
        .iter()
        .all(|change| change.class != Class::Program);
    assert!(is_one_class || listed == 1 || drift.changes_total > MASS_CHANGE);
    drift.changes_total
}

/// What a byte stands for; nothing for every eighth.
fn entry(byte: u8) -> Option<Entry> {
    let file = |content: u8, marker| Node::File {
        size: 1,
        digest: Digest::of(&[content]),
        marker,
    };
    let node = match byte % 8 {
        0 => return None,
        1 => file(byte >> 6, Marker::None),
        2 => file(byte >> 6, Marker::Elf),
        3 => Node::Directory {
            opaque: byte >> 7 != 0,
        },
        4 => Node::Symlink {
            target: vec![b'a', byte >> 6],
        },
        5 => Node::CharDevice { major: 1, minor: 3 },
        6 => Node::BlockDevice { major: 8, minor: 0 },
        _ => Node::Fifo,
    };
    let modes = [0o644, 0o755, 0o4755, 0o2640];
    let mode = modes[usize::from(byte >> 3) % modes.len()];
    let capability = (b"security.capability".to_vec(), vec![1]);
    Some(Entry {
        node,
        mode,
        uid: 0,
        gid: 0,
        xattrs: if byte >> 5 == 1 {
            vec![capability]
        } else {
            Vec::new()
        },
        hard_link: None,
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let program = |number: u8| [b"\x08\x0ausr/bin/", [b'a' + number].as_slice(), b"\0"].concat();
    vec![
        b"\x01\x09etc/passwd\0\x08\x0ausr/bin/evil\0\x02\x08usr/lib/a.so\0".to_vec(),
        b"\x08\x11tmp/set-id\0\x08\x21tmp/capable\0\x08\x05dev/null\0\x08\x06dev/sda\0".to_vec(),
        b"\x03\x04bin\0\x01\x41etc/a.conf\0\x08\x01var/log/x\0\x08\x01a\n\x1b[2J\xff\0".to_vec(),
        (0..25).flat_map(program).collect(),
    ]
}
