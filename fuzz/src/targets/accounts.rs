//! Account files that a container wrote: the judgement is short and plain, and an entry that any C library
//! could read as root is critical, whatever stands around it.

use holdfast_core::drift::accounts::{AccountFile, judge};
use holdfast_core::finding::Severity;

use crate::parts::{joined, parts};
use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "accounts",
    check,
    max_bytes: 1 << 10,
    seeds,
    words: &[
        "root:x:0:0:root:/root:/bin/sh\n",
        ":0:",
        ":00:",
        ":+0:",
        ":-0:",
        "::",
        ":4294967296:",
        "+::",
        "+@group",
        ":!:",
        ":*:",
        "#",
        "\r\n",
    ],
    repair: as_it_is,
};

/// Longest note: three names of 40 characters, each in the reversible form, and the words around them.
const NOTE_CHARS: usize = 400;

fn check(input: &[u8]) {
    let [file, before, after, companion] = parts(input);
    let file = match file.first() {
        Some(b's') => AccountFile::Shadow,
        Some(b'g') => AccountFile::Group,
        Some(b'h') => AccountFile::Gshadow,
        _ => AccountFile::Passwd,
    };
    for companion in [None, Some(companion)] {
        let opinion = judge(file, Some(before), after, companion);
        assert_eq!(judge(file, Some(before), after, companion), opinion);
        assert!(!opinion.note.is_empty());
        assert!(
            opinion.note.chars().count() <= NOTE_CHARS,
            "{}",
            opinion.note
        );
        assert!(!opinion.note.chars().any(char::is_control));
        if file == AccountFile::Passwd && makes_root(before, after) {
            assert_eq!(opinion.severity, Severity::Critical, "{}", opinion.note);
        }
    }
}

/// Whether a line is new that a lenient reader could take for an account of uid 0.
fn makes_root(before: &[u8], after: &[u8]) -> bool {
    let lines = |text: &[u8]| -> Vec<Vec<u8>> {
        text.split(|byte| *byte == b'\n')
            .map(<[u8]>::to_vec)
            .collect()
    };
    let known = lines(before);
    let new = lines(after)
        .into_iter()
        .filter(|line| !known.contains(line));
    new.into_iter().any(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        fields.len() >= 4 && !line.starts_with(b"#") && could_be_zero(fields[2])
    })
}

/// As `strtoul` and worse: blanks, a sign, leading zeros, nothing at all, and a wrap at 2^32.
fn could_be_zero(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let text = text
        .strip_prefix(b"-")
        .or(text.strip_prefix(b"+"))
        .unwrap_or(text);
    let digits: Vec<u8> = text
        .iter()
        .copied()
        .take_while(u8::is_ascii_digit)
        .collect();
    let value = std::str::from_utf8(&digits).unwrap().parse::<u128>();
    digits.is_empty() || value.map_or(true, |value| value % (1 << 32) == 0)
}

fn seeds() -> Vec<Vec<u8>> {
    let root = "root:x:0:0:root:/root:/bin/sh\n";
    let app = "app:x:1000:1000::/:/sbin/nologin\n";
    let shadow = "root:*:19000:0:99999:7:::\n";
    let all = [root, app].concat();
    [
        ["p", root, &all, ""],
        [
            "p",
            root,
            "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n",
            "",
        ],
        ["p", &all, root, ""],
        [
            "p",
            root,
            "root:x:0:0:root:/root:/bin/sh\nx::00:0:::\n+::::::\n",
            "",
        ],
        [
            "s",
            shadow,
            "root:$6$a$b:19000:0:99999:7:::\napp:!:1:::::: \n",
            &all,
        ],
        [
            "g",
            "root:x:0:\n",
            "root:x:0:\nwheel:x:0:app\nusers:x:100:\n",
            "",
        ],
        ["h", "root:*::\n", "root:*::\nusers:!::\n", "root:x:0:\n"],
    ]
    .map(|parts| joined(&parts.map(str::as_bytes)))
    .to_vec()
}
