//! Image references and the patterns that select them: a name means one image, written again it means the
//! same, and a pattern matches what its letters say.

use holdfast_core::reference::Reference;
use holdfast_core::trust::policy::Glob;

use crate::parts::{joined, parts};
use crate::{Target, as_it_is};

pub(super) const TARGET: Target = Target {
    name: "reference",
    check,
    max_bytes: 300,
    seeds,
    words: &[
        "docker.io/",
        "index.docker.io/",
        "library/",
        "localhost",
        ":latest",
        "@sha256:",
        "[::1]:5000",
        "**",
        "*/*",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ],
    repair: as_it_is,
};

fn check(input: &[u8]) {
    let [name, pattern] = parts(input).map(String::from_utf8_lossy);
    if let Ok(reference) = name.parse::<Reference>() {
        check_reference(&name, &reference);
    }
    if let Ok(glob) = Glob::parse(&pattern) {
        assert!(!pattern.is_empty());
        // How long trying takes grows with the power of the stars.
        let stars = pattern.matches('*').count();
        if stars <= 4 && !matches!(&*pattern, "*" | "*/*") {
            assert_eq!(
                glob.matches(&name),
                matches(pattern.as_bytes(), name.as_bytes())
            );
        }
    }
}

fn check_reference(name: &str, reference: &Reference) {
    let written = reference.to_string();
    let again: Reference = written.parse().expect("its own text is refused");
    assert_eq!(again.to_string(), written);
    assert_eq!(again.repository(), reference.repository());
    assert!(written.bytes().all(|byte| byte.is_ascii_graphic()));
    let path = reference.repository().path();
    assert!(
        path.split('/').all(|part| !matches!(part, "" | "." | "..")),
        "{path}"
    );
    if let Some(digest) = reference.digest() {
        assert!(name.ends_with(&digest.to_string()));
    }
}

/// The same by trying everything; patterns and names are short here.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let Some((first, after)) = pattern.split_first() else {
        return name.is_empty();
    };
    if *first != b'*' {
        return name.first() == Some(first) && matches(after, &name[1..]);
    }
    let anything = after.strip_prefix(b"*");
    let within = name.iter().take_while(|byte| **byte != b'/').count();
    let longest = anything.map_or(within, |_| name.len());
    (0..=longest).any(|length| matches(anything.unwrap_or(after), &name[length..]))
}

fn seeds() -> Vec<Vec<u8>> {
    let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let pinned = format!("r.example:5000/team/app:1.4@{digest}");
    [
        ["busybox", "*"],
        ["docker.io/library/nginx:1.27", "index.docker.io/**"],
        [&pinned, "r.example:5000/*/app**"],
        ["localhost/a_b-c.d", "localhost/*_*"],
        ["user/app", "*/*"],
        [digest, "sha256:**"],
    ]
    .map(|parts| joined(&parts.map(str::as_bytes)))
    .to_vec()
}
