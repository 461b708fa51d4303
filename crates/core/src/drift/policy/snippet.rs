//! A policy with ready-made exceptions for changes as they are now, for a person who has decided that they may
//! stay: exact, and as strict as an exception can be.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::PathPattern;
use super::document::{API_VERSION, KIND, MAX_EXCEPTIONS};
use super::exception::{CAPABILITY, Needs};
use super::rules::needs;
use crate::digest::Digest;
use crate::display;
use crate::drift::{Change, ChangeKind};
use crate::layer::{Entry, Node};

/// Why a change has no exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoException {
    /// What a redirect shows is not what its digest names.
    #[error("a planted redirect cannot be excused")]
    Redirected,
    /// Only an exact content excuses it, and it has none.
    #[error("only a file with its content can be excused here")]
    NoContent,
    /// The policy is full.
    #[error("a policy holds {MAX_EXCEPTIONS} exceptions at most")]
    TooMany,
}

/// A policy that is being written.
#[derive(Debug)]
pub struct Snippet {
    text: String,
    image: Digest,
    reason: String,
    expires: Timestamp,
    written: usize,
}

impl Snippet {
    /// For one image; `name` is made one that policies may have.
    pub fn new(name: &str, image: Digest, reason: &str, expires: Timestamp) -> Self {
        let is_allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name: String = name.chars().filter(is_allowed).take(100).collect();
        let text = format!(
            "apiVersion: {API_VERSION}\nkind: {KIND}\nmetadata:\n  name: \"except-{name}\"\n\
             spec:\n  match:\n    images: [\"**\"]\n  exceptions:\n"
        );
        Self {
            text,
            image,
            reason: quoted(reason),
            expires,
            written: 0,
        }
    }

    /// Adds an exception for a change as it is judged by default.
    pub fn add(&mut self, change: &Change) -> Result<(), NoException> {
        if change.kind == ChangeKind::Redirected {
            return Err(NoException::Redirected);
        }
        let content = content(change.actual.as_ref());
        let is_exact = content.starts_with("sha256:");
        if needs(change) == Needs::ExactContent && !is_exact {
            return Err(NoException::NoContent);
        }
        if self.written == MAX_EXCEPTIONS {
            return Err(NoException::TooMany);
        }
        self.written += 1;
        let path = quoted(&PathPattern::literal(&change.path));
        let (image, content) = (self.image, quoted(&content));
        let _infallible = write!(
            self.text,
            "    - image: {image}\n      path: {path}\n      content: {content}\n"
        );
        if let Some(actual) = &change.actual {
            self.state(actual);
        }
        let (reason, expires) = (&self.reason, self.expires);
        let _infallible = writeln!(
            self.text,
            "      reason: {reason}\n      expires: \"{expires}\""
        );
        Ok(())
    }

    /// The document, if it has an exception.
    pub fn finish(self) -> Option<String> {
        (self.written > 0).then_some(self.text)
    }

    fn state(&mut self, actual: &Entry) {
        // Linux has no modes of links.
        if !matches!(actual.node, Node::Symlink { .. }) {
            let mode = actual.mode & 0o7777;
            let _infallible = writeln!(self.text, "      mode: \"{mode:04o}\"");
        }
        let Entry { uid, gid, .. } = actual;
        let _infallible = writeln!(self.text, "      owner: \"{uid}:{gid}\"");
        let mut xattrs = actual.xattrs.iter();
        if let Some((_, value)) =
            xattrs.find(|(name, value)| name == CAPABILITY && !value.is_empty())
        {
            let value = hex::encode(value);
            let _infallible = writeln!(self.text, "      capability: \"{value}\"");
        }
    }
}

fn content(actual: Option<&Entry>) -> String {
    match actual.map(|actual| &actual.node) {
        None => "removed".to_owned(),
        Some(Node::File { digest, .. }) => digest.to_string(),
        Some(Node::Symlink { target }) if !target.is_empty() => {
            format!("link:{}", display::escape(target))
        }
        Some(_) => "any".to_owned(),
    }
}

/// A text in double quotes: what the reversible form leaves has nothing else to escape.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            other if other.is_control() => quoted.push(' '),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
