//! The form in which foreign bytes are shown: reversible, and nothing in it deceives a terminal.

use holdfast_core::display::{escape, shorten, unescape};

use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "display",
    check,
    max_bytes: 512,
    seeds,
    words: &[
        "\\x",
        "\\u{",
        "}",
        "\\\\",
        "\u{202e}",
        "\u{200b}",
        "\u{1b}[2K",
    ],
    repair: as_it_is,
};

fn check(bytes: &[u8]) {
    let shown = escape(bytes);
    assert!(!shown.chars().any(char::is_control));
    assert!(shown.len() <= bytes.len() * 8);
    assert_eq!(unescape(&shown).as_deref(), Some(bytes));
    let text = String::from_utf8_lossy(bytes);
    if let Some(meant) = unescape(&text) {
        assert!(meant.len() <= text.len());
        assert_eq!(unescape(&escape(&meant)), Some(meant));
    }
    for limit in [0, 1, 2, 7] {
        assert!(shorten(&text, limit).chars().count() <= limit.max(1));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "usr/bin/évil".as_bytes(),
        b"a\nb\x1b[2K\\x41\xff\xfe",
        "gnp.\u{202e}exe\u{200b}\u{e0041}".as_bytes(),
        br"\x0a\u{202e}\\\u{zz}\x",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}
