//! Where an archive's bytes come from. The reader says which of them are the content of a file, so that
//! what is kept beside the table (its skeleton) comes from the same pass. Nothing here parses.

use std::io::{self, BufRead, BufReader, Read};

use crate::layer::blob::Blob;

/// What the bytes of an archive are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Headers and what they announce, padding, the end and what is behind it.
    Structure,
    /// A piece of a file: `length` bytes of the archive, which are those from `offset` on.
    Content {
        /// The entry, counted from 0.
        entry: u64,
        offset: u64,
        length: u64,
    },
}

/// An archive's bytes.
pub(super) trait Source: BufRead {
    /// The bytes from here on are this. Structure at the beginning.
    fn enter(&mut self, _part: Part) {}
}

impl Source for &[u8] {}
impl<R: Read> Source for BufReader<R> {}
impl<R: Read> Source for Blob<R> {}

impl<S: Source> Source for &mut S {
    fn enter(&mut self, part: Part) {
        (**self).enter(part);
    }
}

/// Who is shown the bytes of an archive while they pass.
pub(super) trait Passing {
    /// Bytes of the archive's structure.
    fn structure(&mut self, _bytes: &[u8]) {}

    /// Bytes of the content of an entry.
    fn content(&mut self, _entry: u64, _bytes: &[u8]) {}
}

/// Nobody.
impl Passing for () {}

/// A source whose bytes are shown to somebody.
pub(super) struct Shown<'a, S, P> {
    source: S,
    to: &'a mut P,
    part: Part,
}

impl<'a, S, P> Shown<'a, S, P> {
    pub(super) const fn new(source: S, to: &'a mut P) -> Self {
        Self {
            source,
            to,
            part: Part::Structure,
        }
    }
}

impl<S: Source, P: Passing> Source for Shown<'_, S, P> {
    fn enter(&mut self, part: Part) {
        self.part = part;
        self.source.enter(part);
    }
}

impl<S: BufRead, P: Passing> Read for Shown<'_, S, P> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buf)?;
        self.consume(length);
        Ok(length)
    }
}

impl<S: BufRead, P: Passing> BufRead for Shown<'_, S, P> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        // What was filled is still there: this reads nothing.
        if let Ok(filled) = self.source.fill_buf() {
            let consumed = filled.get(..length).unwrap_or_default();
            match self.part {
                Part::Structure => self.to.structure(consumed),
                Part::Content { entry, .. } => self.to.content(entry, consumed),
            }
        }
        self.source.consume(length);
    }
}
