//! Reads a configuration file into a type. What the type does not know is refused with file, line,
//! column and what was expected; nothing is ignored.

use std::path::{Path, PathBuf};

use serde::de::{Deserialize as _, DeserializeOwned, Deserializer, Error as _};

use crate::capped;

/// Exit code of a refused configuration or policy (`EX_CONFIG` of sysexits).
pub const EXIT_REFUSED: u8 = 78;

/// No configuration of ours comes near this; a wrong path, such as a disk image, does.
const MAX_BYTES: u64 = 1 << 20;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not UTF-8.
    #[error("{}: not UTF-8 after byte {valid_up_to}", path.display())]
    Encoding {
        /// The file.
        path: PathBuf,
        /// Where the first wrong byte is.
        valid_up_to: usize,
    },
    /// The file is not what the program expects.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What was found and what was expected.
        message: String,
    },
}

/// Reads and parses the file at `path`.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let bytes = capped::read_file(path, MAX_BYTES).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let text = String::from_utf8(bytes).map_err(|error| ConfigError::Encoding {
        path: path.to_owned(),
        valid_up_to: error.utf8_error().valid_up_to(),
    })?;
    parse(&text, path)
}

/// Parses `text`, which was read from `path`.
pub fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, start);
        ConfigError::Refused {
            path: path.to_owned(),
            line,
            column,
            message: error.message().trim_end().replace('\n', "; "),
        }
    })
}

/// For paths that would mean another folder wherever the program is started.
pub fn absolute_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.is_absolute() {
        Ok(path)
    } else {
        let found = path.display();
        Err(D::Error::custom(format!(
            "expected an absolute path, found \"{found}\""
        )))
    }
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Sample {
        silent_after_seconds: u64,
    }

    fn refusal(text: &str) -> String {
        parse::<Sample>(text, Path::new("a.toml"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_configuration_that_fits_is_read() {
        let sample: Sample = parse("silent-after-seconds = 45\n", Path::new("a.toml")).unwrap();
        assert_eq!(sample.silent_after_seconds, 45);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_place_and_the_known_ones() {
        let refusal = refusal("silent-after-seconds = 45\n  silence = 1\n");
        assert!(refusal.starts_with("a.toml:2:3: "), "{refusal}");
        assert!(refusal.contains("silent-after-seconds"), "{refusal}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_what_was_expected() {
        let refusal = refusal("silent-after-seconds = \"soon\"\n");
        assert!(refusal.starts_with("a.toml:1:24: "), "{refusal}");
        assert!(refusal.contains("u64"), "{refusal}");
    }

    #[test]
    fn bad_syntax_and_a_key_twice_are_refused_with_their_line() {
        assert!(refusal("\n\nsilent-after-seconds 45").starts_with("a.toml:3:"));
        let twice = refusal("silent-after-seconds = 1\nsilent-after-seconds = 2");
        assert!(twice.starts_with("a.toml:2:"), "{twice}");
    }

    #[test]
    fn a_missing_file_and_one_that_is_not_text_are_refused_by_name() {
        let missing = load::<Sample>(Path::new("/nonexistent/a.toml"));
        assert!(matches!(missing, Err(ConfigError::Unreadable { .. })));

        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"a\xff").unwrap();
        let binary = load::<Sample>(file.path());
        assert!(matches!(
            binary,
            Err(ConfigError::Encoding { valid_up_to: 1, .. })
        ));
    }
}
