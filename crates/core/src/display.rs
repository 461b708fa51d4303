//! The one reversible form in which bytes that a container controls are shown to people.
//!
//! A name can hold a newline and a forged log line, terminal escapes, right-to-left overrides, or bytes
//! that are no text at all. Wherever such bytes leave us (terminal, log, JSON, label, page) they go
//! through [`escape`]: backslash, control, non-UTF-8, bidirectional and zero-width characters become
//! `\\`, `\xNN` (bytes below 0x80 or not UTF-8) and `\u{NNNN}`. [`unescape`] gives the bytes back.

use std::fmt::Write as _;

/// Shows `bytes` in the reversible form.
pub fn escape(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(&mut shown, character);
        }
        for byte in chunk.invalid() {
            push_byte(&mut shown, *byte);
        }
    }
    shown
}

/// Shows a path relative to a container's root as people write it: with a leading slash.
pub fn path(relative: &[u8]) -> String {
    format!("/{}", escape(relative))
}

/// `text` in at most `limit` characters, cut in the middle: the ends of a path say most.
pub fn shorten(text: &str, limit: usize) -> String {
    let length = text.chars().count();
    if length <= limit {
        return text.to_owned();
    }
    let head = limit.saturating_sub(1) / 2;
    let tail = limit.saturating_sub(1).saturating_sub(head);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(length.saturating_sub(tail)).collect();
    format!("{start}…{end}")
}

fn push(shown: &mut String, character: char) {
    if character == '\\' {
        shown.push_str("\\\\");
    } else if let (true, Ok(byte)) = (character.is_ascii_control(), u8::try_from(character)) {
        push_byte(shown, byte);
    } else if is_deceptive(character) {
        let _infallible = write!(shown, "\\u{{{:04x}}}", u32::from(character));
    } else {
        shown.push(character);
    }
}

fn push_byte(shown: &mut String, byte: u8) {
    let _infallible = write!(shown, "\\x{byte:02x}");
}

/// Characters that change how others are shown, or are not shown themselves.
fn is_deceptive(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{9f}' // C1 controls
            | '\u{ad}' // soft hyphen
            | '\u{61c}' // Arabic letter mark
            | '\u{180e}' // Mongolian vowel separator
            | '\u{200b}'..='\u{200f}' // zero width, direction marks
            | '\u{2028}'..='\u{202e}' // line and paragraph separators, embeddings, overrides
            | '\u{2060}'..='\u{206f}' // word joiner, isolates, deprecated format characters
            | '\u{feff}' // byte order mark
            | '\u{fff9}'..='\u{fffb}' // interlinear annotation
            | '\u{e0000}'..='\u{e007f}' // tags
    )
}

/// The bytes behind a shown text; `None` when it is not one that [`escape`] makes.
pub fn unescape(shown: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(shown.len());
    let mut rest = shown;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        rest = if let Some(after) = escaped.strip_prefix('\\') {
            bytes.push(b'\\');
            after
        } else if let Some(after) = escaped.strip_prefix("u{") {
            let (digits, after) = after.split_once('}')?;
            let character = char::from_u32(u32::from_str_radix(digits, 16).ok()?)?;
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            after
        } else {
            let (digits, after) = escaped.strip_prefix('x')?.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            after
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn deceptive_bytes_are_shown_and_plain_text_is_left_alone() {
        assert_eq!(escape("täglich/日本".as_bytes()), "täglich/日本");
        assert_eq!(escape(b"a\nb\x1b[2K\\"), "a\\x0ab\\x1b[2K\\\\");
        assert_eq!(escape(b"\xff\xfe"), "\\xff\\xfe");
        assert_eq!(escape("gnp.\u{202e}exe".as_bytes()), "gnp.\\u{202e}exe");
        assert_eq!(path(b"usr/bin/evil"), "/usr/bin/evil");
    }

    proptest! {
        #[test]
        fn what_is_shown_gives_the_bytes_back(bytes: Vec<u8>) {
            let shown = escape(&bytes);
            prop_assert!(!shown.chars().any(|c| c.is_control() || is_deceptive(c)));
            prop_assert_eq!(unescape(&shown), Some(bytes));
        }
    }
}
