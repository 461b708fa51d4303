//! Image patterns with the semantics of policy-controller, which people's policies are written for.
//!
//! `*` stands for any characters but a slash, `**` for any at all, everything else for itself, and a
//! pattern covers the whole name. No regular expressions: matching takes time linear in pattern times
//! name, whatever either holds.

/// Longest pattern; a repository and a tag together have at most some 640 characters.
const MAX_GLOB: usize = 1024;

/// Why a text is no image pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// No characters.
    #[error("glob is empty")]
    Empty,
    /// Far longer than any name.
    #[error("glob is longer than {MAX_GLOB} bytes")]
    TooLong,
    /// A character that no name has: most likely a regular expression.
    #[error("glob may hold only A-Z, a-z, 0-9, '-', '_', ':', '/', '.', '@' and '*'")]
    Character,
}

/// A pattern for image references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Byte(u8),
    /// `*`
    WithinSlashes,
    /// `**`
    Anything,
}

impl Glob {
    /// Reads a pattern. `*` and `*/*` alone mean Docker Hub's official and other images.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        let text = match text {
            "*" => "index.docker.io/library/*",
            "*/*" => "index.docker.io/*/*",
            other => other,
        };
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:/.@*".contains(&byte);
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > MAX_GLOB {
            return Err(GlobError::TooLong);
        }
        if !text.bytes().all(is_allowed) {
            return Err(GlobError::Character);
        }
        let mut parts = Vec::with_capacity(text.len());
        for byte in text.bytes() {
            match (byte, parts.last_mut()) {
                // From the left, two by two: `***` is `**` and `*`.
                (b'*', Some(last)) if *last == Part::WithinSlashes => *last = Part::Anything,
                (b'*', _) => parts.push(Part::WithinSlashes),
                (other, _) => parts.push(Part::Byte(other)),
            }
        }
        Ok(Self { parts })
    }

    /// Whether the pattern covers the whole of `name`.
    ///
    /// Advances all places of the pattern that the name could have reached, byte by byte, so there is
    /// no backtracking that a name could make explode.
    pub fn matches(&self, name: &str) -> bool {
        let mut reached = vec![false; self.parts.len().saturating_add(1)];
        if let Some(start) = reached.first_mut() {
            *start = true;
        }
        let mut next = vec![false; reached.len()];
        self.skip_stars(&mut reached);
        for byte in name.bytes() {
            self.advance(&reached, &mut next, byte);
            self.skip_stars(&mut next);
            std::mem::swap(&mut reached, &mut next);
        }
        reached.last() == Some(&true)
    }

    /// One byte further, from every place reached.
    fn advance(&self, reached: &[bool], next: &mut [bool], byte: u8) {
        next.fill(false);
        for (at, (part, _)) in self
            .parts
            .iter()
            .zip(reached)
            .enumerate()
            .filter(|(_, (_, is_reached))| **is_reached)
        {
            let to = match *part {
                Part::Byte(due) if due == byte => at.saturating_add(1),
                Part::Anything => at,
                Part::WithinSlashes if byte != b'/' => at,
                Part::Byte(_) | Part::WithinSlashes => continue,
            };
            if let Some(place) = next.get_mut(to) {
                *place = true;
            }
        }
    }

    /// A star may stand for nothing: its place reaches the next one.
    fn skip_stars(&self, reached: &mut [bool]) {
        let mut before = false;
        for (at, place) in reached.iter_mut().enumerate() {
            *place |= before;
            let is_star = matches!(
                self.parts.get(at),
                Some(Part::WithinSlashes | Part::Anything)
            );
            before = *place && is_star;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(glob: &str, name: &str) -> bool {
        Glob::parse(glob).unwrap().matches(name)
    }

    #[test]
    fn a_pattern_is_refused_when_it_is_empty_too_long_or_an_expression() {
        for (text, due) in [
            ("", GlobError::Empty),
            (".+", GlobError::Character),
            ("^a$", GlobError::Character),
            ("[a-z]*", GlobError::Character),
            ("r.example/a b", GlobError::Character),
            ("r.example/ä", GlobError::Character),
            (&"a".repeat(MAX_GLOB + 1), GlobError::TooLong),
        ] {
            assert_eq!(Glob::parse(text), Err(due), "{text}");
        }
    }

    #[test]
    fn three_stars_cross_slashes() {
        assert!(matches("a***b", "a/x/b"));
        assert!(matches("a****b", "ab"));
    }

    #[test]
    fn a_pattern_of_stars_takes_linear_time() {
        let glob = "*a".repeat(400);
        assert!(!matches(&glob, &format!("{}b", "a".repeat(1000))));
        assert!(matches(&glob, &"a".repeat(1000)));
    }

    /// The obvious recursive definition.
    fn reference(parts: &[Part], name: &[u8]) -> bool {
        match (parts.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((Part::Byte(due), rest)), Some((byte, name))) => {
                due == byte && reference(rest, name)
            }
            (None, Some(_)) | (Some((Part::Byte(_), _)), None) => false,
            (Some((star, rest)), consumed) => {
                reference(rest, name)
                    || consumed.is_some_and(|(byte, name)| {
                        (*star == Part::Anything || *byte != b'/') && reference(parts, name)
                    })
            }
        }
    }

    proptest! {
        #[test]
        fn matching_is_as_defined(glob in "[a/*.]{1,8}", name in "[a/.]{0,8}") {
            // Alone these two are shorthands. They are too many to reject them all in a long run.
            if glob == "*" || glob == "*/*" {
                return Ok(());
            }
            let glob = Glob::parse(&glob).unwrap();
            prop_assert_eq!(glob.matches(&name), reference(&glob.parts, name.as_bytes()));
        }
    }
}
