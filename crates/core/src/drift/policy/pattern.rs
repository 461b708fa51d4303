//! Patterns for paths of a container, and for pod namespaces. Exact: a star stands for any bytes of one
//! name, two stars alone for any number of names, everything else for itself. No expressions: matching takes
//! time bounded by pattern times path, whatever either holds.

use crate::display;

/// Longest pattern: a path has at most 4,096 bytes, and the reversible form four characters for each.
const MAX_PATTERN: usize = 16 << 10;

/// Why a text is no pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Not from the root on.
    #[error("path does not begin with \"/\"")]
    Relative,
    /// Longer than any path in the reversible form.
    #[error("pattern is longer than {MAX_PATTERN} bytes")]
    TooLong,
    /// `//`, a slash at the end, or no name at all.
    #[error("an empty name; expected names between single slashes, and none after the last")]
    EmptyName,
    /// `.` or `..`: no path of a finding has one.
    #[error("\".\" and \"..\" are no names; expected the path as findings show it")]
    Dots,
    /// `**` beside other characters, which would mean something else to everybody.
    #[error("\"**\" stands for whole names; expected it alone between slashes")]
    StarsInName,
    /// A backslash that the reversible form does not have.
    #[error(
        "not in the reversible form; expected \\\\ for a backslash, \\xNN or \\u{{NNNN}} for other bytes"
    )]
    Escape,
    /// A name that cannot be.
    #[error("a name holds a slash or a zero byte")]
    Byte,
}

/// A pattern for absolute paths, matched on raw bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathPattern {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Name(NamePattern),
    /// `**`
    AnyNames,
}

impl PathPattern {
    /// Reads a pattern as people write it, in the reversible form.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        let names = text.strip_prefix('/').ok_or(PatternError::Relative)?;
        let parts = names.split('/').map(|name| match name {
            "" => Err(PatternError::EmptyName),
            "." | ".." => Err(PatternError::Dots),
            "**" => Ok(Part::AnyNames),
            _ if name.contains("**") => Err(PatternError::StarsInName),
            _ => NamePattern::parse(name).map(Part::Name),
        });
        Ok(Self {
            parts: parts.collect::<Result<_, _>>()?,
        })
    }

    /// The pattern of exactly this path, as [`parse`](Self::parse) reads it.
    pub fn literal(path: &[u8]) -> String {
        display::path(path).replace('*', "\\x2a")
    }

    /// Whether the pattern covers the whole of a path, which is relative to the root.
    pub fn matches(&self, path: &[u8]) -> bool {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        stars(
            (self.parts.len(), names.len()),
            |part| matches!(self.parts.get(part), Some(Part::AnyNames)),
            |part, name| match (self.parts.get(part), names.get(name)) {
                (Some(Part::Name(pattern)), Some(name)) => pattern.matches(name),
                _ => false,
            },
        )
    }
}

/// A pattern for one name, without slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamePattern {
    /// `None` is a star.
    parts: Vec<Option<u8>>,
}

impl NamePattern {
    /// Reads a pattern as people write it, in the reversible form.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        if text.is_empty() {
            return Err(PatternError::EmptyName);
        }
        let mut parts = Vec::new();
        for (number, literal) in text.split('*').enumerate() {
            if number > 0 {
                parts.push(None);
            }
            let bytes = display::unescape(literal).ok_or(PatternError::Escape)?;
            if bytes.contains(&b'/') || bytes.contains(&0) {
                return Err(PatternError::Byte);
            }
            parts.extend(bytes.into_iter().map(Some));
        }
        Ok(Self { parts })
    }

    /// Whether the pattern covers the whole of a name.
    pub fn matches(&self, name: &[u8]) -> bool {
        stars(
            (self.parts.len(), name.len()),
            |part| self.parts.get(part) == Some(&None),
            |part, byte| match (self.parts.get(part), name.get(byte)) {
                (Some(Some(due)), Some(byte)) => due == byte,
                _ => false,
            },
        )
    }
}

/// Matches a row of parts, some of which stand for any number of items, with a row of items: back to the last
/// star alone, which is enough, so that no row makes it explode.
fn stars(
    (parts, items): (usize, usize),
    is_star: impl Fn(usize) -> bool,
    fits: impl Fn(usize, usize) -> bool,
) -> bool {
    let (mut part, mut item) = (0, 0);
    let mut last_star: Option<(usize, usize)> = None;
    while item < items {
        if part < parts && is_star(part) {
            last_star = Some((part, item));
            part += 1;
        } else if part < parts && fits(part, item) {
            part += 1;
            item += 1;
        } else if let Some((star, taken)) = last_star {
            last_star = Some((star, taken + 1));
            part = star + 1;
            item = taken + 1;
        } else {
            return false;
        }
    }
    (part..parts).all(is_star)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        PathPattern::parse(pattern)
            .unwrap()
            .matches(path.as_bytes())
    }

    #[test]
    fn a_star_stays_within_a_name_and_two_cross_names() {
        for (pattern, path, due) in [
            ("/etc/app.conf", "etc/app.conf", true),
            ("/etc/app.conf", "etc/app.confx", false),
            ("/etc/app.conf", "etc/appxconf", false),
            ("/etc/*", "etc/a", true),
            ("/etc/*", "etc/a/b", false),
            ("/etc/*", "etc", false),
            ("/etc/a*z/x", "etc/az/x", true),
            ("/etc/a*z/x", "etc/a/z/x", false),
            ("/etc/*.conf", "etc/.conf", true),
            ("/etc/**", "etc/a/b/c", true),
            ("/etc/**", "etc", true),
            ("/etc/**", "etcx/a", false),
            ("/**", "a", true),
            ("/**/x", "x", true),
            ("/**/x", "a/b/x", true),
            ("/**/x", "a/b/yx", false),
            ("/a/**/b/**/c", "a/b/b/x/c", true),
            ("/a/**/b/**/c", "a/b/c/d", false),
            ("/a/**/**/c", "a/c", true),
            // No expressions: these stand for themselves, as pages of some frameworks are named.
            ("/app/[id].js", "app/[id].js", true),
            ("/app/[id].js", "app/i.js", false),
            ("/app/?", "app/a", false),
            ("/app/{a,b}", "app/a", false),
        ] {
            assert_eq!(matches(pattern, path), due, "{pattern} against {path}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_written_as_findings_show_them() {
        for path in [
            b"a/\xff\xfe".as_slice(),
            b"a/\n",
            b"a/\\",
            b"a/*",
            "a/gnp.\u{202e}exe".as_bytes(),
        ] {
            let pattern = PathPattern::literal(path);
            let parsed = PathPattern::parse(&pattern).unwrap();
            assert!(parsed.matches(path), "{pattern}");
            assert!(!parsed.matches(b"a/b"), "{pattern}");
        }
        let star = PathPattern::parse("/a/*").unwrap();
        assert!(star.matches(b"a/\xff\n"));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for (text, due) in [
            ("", PatternError::Relative),
            ("etc/x", PatternError::Relative),
            ("**", PatternError::Relative),
            ("/", PatternError::EmptyName),
            ("/etc/", PatternError::EmptyName),
            ("//etc", PatternError::EmptyName),
            ("/etc/./x", PatternError::Dots),
            ("/etc/../x", PatternError::Dots),
            ("/etc/**.conf", PatternError::StarsInName),
            ("/etc/a**", PatternError::StarsInName),
            ("/etc/***", PatternError::StarsInName),
            ("/etc/\\n", PatternError::Escape),
            ("/etc/\\x2", PatternError::Escape),
            ("/etc/\\", PatternError::Escape),
            ("/etc/\\x2f", PatternError::Byte),
            ("/etc/\\x00", PatternError::Byte),
            (
                &format!("/{}", "a".repeat(MAX_PATTERN)),
                PatternError::TooLong,
            ),
        ] {
            assert_eq!(PathPattern::parse(text), Err(due), "{text}");
        }
    }

    #[test]
    fn a_pattern_of_stars_takes_bounded_time() {
        let pattern = format!("/{}b", "*a".repeat(4_000));
        assert!(!matches(&pattern, &"a".repeat(4_096)));
        let pattern = format!("{}/z", "/**/a".repeat(1_000));
        assert!(!matches(&pattern, &"a/".repeat(2_000)));
    }

    /// The obvious recursive definition.
    fn reference(pattern: &[&str], path: &[&str]) -> bool {
        fn name(pattern: &[u8], text: &[u8]) -> bool {
            match (pattern.split_first(), text.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), consumed) => {
                    name(rest, text) || consumed.is_some_and(|(_, text)| name(pattern, text))
                }
                (Some((due, rest)), Some((byte, text))) => due == byte && name(rest, text),
                (None, Some(_)) | (Some(_), None) => false,
            }
        }
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), consumed) => {
                reference(rest, path) || consumed.is_some_and(|(_, path)| reference(pattern, path))
            }
            (Some((due, rest)), Some((at, path))) => {
                name(due.as_bytes(), at.as_bytes()) && reference(rest, path)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(
            // No name holds two stars beside each other but `**` itself, so that no case is thrown away.
            pattern in proptest::collection::vec("\\*\\*|\\*|\\*?([ab]\\*?){1,3}", 1..5),
            path in proptest::collection::vec("[ab]{1,3}", 1..5),
        ) {
            let text = format!("/{}", pattern.join("/"));
            let pattern: Vec<&str> = pattern.iter().map(String::as_str).collect();
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            prop_assert_eq!(matches(&text, &path.join("/")), reference(&pattern, &names));
        }

        #[test]
        fn every_path_is_its_own_pattern(path in proptest::collection::vec("[^/\0]{1,5}", 1..4)) {
            prop_assume!(path.iter().all(|name| name != "." && name != ".."));
            let path = path.join("/");
            let pattern = PathPattern::literal(path.as_bytes());
            prop_assert!(PathPattern::parse(&pattern).unwrap().matches(path.as_bytes()));
        }
    }
}
