//! Extended attributes of overlayfs: whoever plants one is seen, and no value hides another attribute.

use holdfast_core::digest::Digest;
use holdfast_core::layer::{Marker, Node};
use holdfast_core::overlay::{Meaning, XattrPrefix, is_compared, meaning, planted};

use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "xattrs",
    check,
    max_bytes: 512,
    seeds,
    words: &[
        "trusted.overlay.",
        "user.overlay.",
        "redirect",
        "metacopy",
        "opaque",
        "whiteout",
        "whiteouts",
        "origin",
        "impure",
        "nlink",
        "uuid",
        "protattr",
        "overlay.",
        "security.selinux",
        "security.capability",
        "=y\0",
        "=x\0",
    ],
    repair: as_it_is,
};

type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The first byte says what has the attributes; then `NAME=VALUE`, each up to its NUL.
fn check(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else {
        return;
    };
    let pair = |text: &[u8]| {
        let equals = text.iter().position(|byte| *byte == b'=')?;
        Some((text[..equals].to_vec(), text[equals + 1..].to_vec()))
    };
    let xattrs: Xattrs = rest.split(|byte| *byte == 0).filter_map(pair).collect();
    let node = node(*kind);
    for (prefix, text) in [
        (XattrPrefix::Trusted, "trusted.overlay."),
        (XattrPrefix::User, "user.overlay."),
    ] {
        let read = meaning(&node, &xattrs, prefix);
        check_meaning(&node, &xattrs, read, text);
        check_planted(&node, &xattrs, planted(&node, &xattrs, prefix), text);
        for (name, _) in &xattrs {
            let is_overlay =
                name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
            let is_label = name == b"security.selinux";
            assert!(is_compared(name, prefix) || is_overlay || is_label);
        }
    }
}

fn has(xattrs: &Xattrs, prefix: &str, name: &str) -> bool {
    let full = format!("{prefix}{name}");
    xattrs.iter().any(|(other, _)| other == full.as_bytes())
}

fn check_meaning(node: &Node, xattrs: &Xattrs, meaning: Meaning, prefix: &str) {
    let has = |name| has(xattrs, prefix, name);
    let is_device = matches!(
        node,
        Node::CharDevice { major: 0, minor: 0 } | Node::Whiteout
    );
    assert_eq!(is_device, is_device && meaning == Meaning::Whiteout);
    if !is_device && (has("redirect") || has("metacopy")) {
        assert_eq!(meaning, Meaning::Redirected);
    }
    if meaning == Meaning::Opaque {
        assert!(has("opaque") && node.is_directory());
    }
    let is_marked = has("whiteout") && matches!(node, Node::File { size: 0, .. });
    if meaning != Meaning::Redirected && !is_device {
        assert_eq!(meaning == Meaning::Whiteout, is_marked);
    }
}

fn check_planted(node: &Node, xattrs: &Xattrs, planted: Option<&[u8]>, prefix: &str) {
    let is_due = |(name, value): &(Vec<u8>, Vec<u8>)| {
        let opaque = format!("{prefix}opaque");
        let is_opaque = name == opaque.as_bytes() && value == b"y" && node.is_directory();
        name.starts_with(prefix.as_bytes()) && !is_opaque
    };
    assert_eq!(planted.is_some(), xattrs.iter().any(is_due));
}

fn node(kind: u8) -> Node {
    let file = |size| Node::File {
        size,
        digest: Digest::of(b""),
        marker: Marker::None,
    };
    match kind % 8 {
        0 => Node::Directory { opaque: false },
        1 => file(0),
        2 => file(1),
        3 => Node::CharDevice { major: 0, minor: 0 },
        4 => Node::CharDevice { major: 0, minor: 1 },
        5 => Node::Symlink {
            target: b"t".to_vec(),
        },
        6 => Node::Whiteout,
        _ => Node::Fifo,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "\0trusted.overlay.opaque=y\0security.selinux=l\0",
        "\0trusted.overlay.opaque=x\0trusted.overlay.impure=y\0",
        "\0trusted.overlay.redirect=/a\0trusted.overlay.origin=\u{1}\0",
        "\x01trusted.overlay.whiteout=\0",
        "\x02trusted.overlay.metacopy=\0user.overlay.redirect=a\0",
        "\0trusted.overlay.overlay.opaque=y\0user.overlay.opaque=y\0",
        "\x03trusted.overlay.redirect=/a\0",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
