//! The one strict tar reader: a stream in, entries and their contents out. It decides nothing about
//! names; what an entry means on a disk is `place`'s business.
//!
//! It accepts and refuses what Go's archive/tar does, with which containerd unpacks: ustar, star, GNU
//! long names, PAX headers. Where Go is lenient we are too (a missing end marker, a last entry without
//! its padding), because such an archive is unpacked, and what it unpacks to must be known. Sparse files
//! are refused by name until they can be expanded. Types that containerd refuses are only recorded: it
//! refuses when it comes to create them.

use std::io::{self, BufRead};

use crate::layer::codec::wide;
use crate::layer::header::{BLOCK, Header, text};
use crate::layer::limits::{HEADER_BYTES, PATH_BYTES};
use crate::layer::pax::Pax;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The stream could not be read.
    #[error("archive could not be read: {0}")]
    Io(#[from] io::Error),
    /// It ends inside a header or a file.
    #[error("archive ends inside an entry")]
    Truncated,
    /// A header is not what was written.
    #[error("header checksum does not match")]
    Checksum,
    /// A field is no number.
    #[error("header field {0} is no number")]
    Number(&'static str),
    /// A file with less than nothing in it.
    #[error("entry has a negative size")]
    NegativeSize,
    /// An extended header that cannot be read.
    #[error("extended header is malformed")]
    ExtendedHeader,
    /// Half an end marker, and then more.
    #[error("a block of zeros is followed by something else")]
    LoneZeroBlock,
    /// An extended header or long name beyond the limit.
    #[error("extended header or long name of more than {HEADER_BYTES} bytes")]
    HeaderTooLong,
    /// A path or link target beyond the limit.
    #[error("path or link target of more than {PATH_BYTES} bytes")]
    PathTooLong,
    /// More entries than the limit.
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    /// A file written with its holes left out.
    #[error("unsupported: sparse")]
    Sparse,
}

/// Reads an archive entry by entry, at most `limit` of them.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    source: R,
    limit: u64,
    entries: u64,
    /// What is left of the entry's content, and the padding behind it.
    body: u64,
    padding: u64,
    has_ended: bool,
}

/// What headers say about the next entry before its own header comes.
#[derive(Debug, Default)]
struct Announced {
    extended: Vec<u8>,
    name: Vec<u8>,
    link: Vec<u8>,
}

impl<R: BufRead> TarReader<R> {
    pub(super) const fn new(source: R, limit: u64) -> Self {
        Self {
            source,
            limit,
            entries: 0,
            body: 0,
            padding: 0,
            has_ended: false,
        }
    }

    /// The next entry; what is left of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Header>, TarError> {
        let mut announced = Announced::default();
        while let Some(header) = self.next_header()? {
            self.open_body(&header)?;
            match header.flag {
                b'x' => {
                    announced.extended = self.special()?;
                    // Refused where it stands, even if nothing follows that it could be about.
                    Pax::parse(&announced.extended)?;
                }
                b'L' => announced.name = text(&self.special()?).to_vec(),
                b'K' => announced.link = text(&self.special()?).to_vec(),
                // containerd handles it as an entry of its own; what was announced is forgotten.
                b'g' => return self.global(header).map(Some),
                _ => return self.complete(header, announced).map(Some),
            }
        }
        self.has_ended = true;
        Ok(None)
    }

    /// Hands the content of the entry to `sink`, piece by piece.
    pub(super) fn content(&mut self, mut sink: impl FnMut(&[u8])) -> Result<(), TarError> {
        while self.body > 0 {
            let available = self.source.fill_buf()?;
            if available.is_empty() {
                return Err(TarError::Truncated);
            }
            let length = usize::try_from(self.body)
                .unwrap_or(usize::MAX)
                .min(available.len());
            sink(available.get(..length).unwrap_or_default());
            self.source.consume(length);
            self.body = self.body.saturating_sub(wide(length));
        }
        Ok(())
    }

    /// Reads what comes behind the end, and says how long it is without the zeros at its end. A
    /// well-formed archive has nothing there but zeros.
    pub(super) fn drain(&mut self) -> Result<u64, TarError> {
        let (mut seen, mut last) = (0_u64, 0_u64);
        loop {
            let available = self.source.fill_buf()?;
            if available.is_empty() {
                return Ok(last);
            }
            if let Some(index) = available.iter().rposition(|byte| *byte != 0) {
                last = seen.saturating_add(wide(index)).saturating_add(1);
            }
            let length = available.len();
            seen = seen.saturating_add(wide(length));
            self.source.consume(length);
        }
    }

    /// The next header block; none at the end, with or without its marker.
    fn next_header(&mut self) -> Result<Option<Header>, TarError> {
        self.content(|_skipped| {})?;
        if self.has_ended || !self.skip_padding()? {
            return Ok(None);
        }
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block != [0; BLOCK] {
            return Header::parse(&block).map(Some);
        }
        match self.block()? {
            None => Ok(None),
            Some(second) if second == [0; BLOCK] => Ok(None),
            Some(_) => Err(TarError::LoneZeroBlock),
        }
    }

    /// Skips padding; false when the archive ends in it.
    fn skip_padding(&mut self) -> Result<bool, TarError> {
        self.body = std::mem::take(&mut self.padding);
        match self.content(|_zeros| {}) {
            Err(TarError::Truncated) => {
                self.body = 0;
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// A block; none at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0_usize;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let available = self.source.fill_buf()?;
            if available.is_empty() && filled == 0 {
                return Ok(None);
            }
            if available.is_empty() {
                return Err(TarError::Truncated);
            }
            let length = available.len().min(rest.len());
            for (to, from) in rest.iter_mut().zip(available) {
                *to = *from;
            }
            self.source.consume(length);
            filled = filled.saturating_add(length);
        }
        Ok(Some(block))
    }

    fn open_body(&mut self, header: &Header) -> Result<(), TarError> {
        self.body = header.body()?;
        self.padding = self.body.wrapping_neg() % wide(BLOCK);
        Ok(())
    }

    /// The content of a header that only says something about the next entry.
    fn special(&mut self) -> Result<Vec<u8>, TarError> {
        if self.body > wide(HEADER_BYTES) {
            return Err(TarError::HeaderTooLong);
        }
        let mut bytes = Vec::new();
        self.content(|piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    fn global(&mut self, mut header: Header) -> Result<Header, TarError> {
        let extended = self.special()?;
        if let Some(name) = Pax::parse(&extended)?.global_name()? {
            header.name = name;
        }
        self.admit(header)
    }

    /// Joins a header with what was announced for it.
    fn complete(&mut self, mut header: Header, announced: Announced) -> Result<Header, TarError> {
        let extended = Pax::parse(&announced.extended)?;
        extended.apply(&mut header)?;
        if !announced.name.is_empty() {
            header.name = announced.name;
        }
        if !announced.link.is_empty() {
            header.link = announced.link;
        }
        if header.flag == 0 {
            // Archives older than the directory type mark one by its slash.
            let is_directory = header.name.ends_with(b"/");
            header.flag = if is_directory { b'5' } else { b'0' };
        }
        self.open_body(&header)?;
        if header.flag == b'S' || extended.is_sparse() {
            return Err(TarError::Sparse);
        }
        self.admit(header)
    }

    /// The last step of every entry: the limits.
    fn admit(&mut self, header: Header) -> Result<Header, TarError> {
        self.entries = self.entries.saturating_add(1);
        if self.entries > self.limit {
            return Err(TarError::TooManyEntries(self.limit));
        }
        if header.name.len() > PATH_BYTES || header.link.len() > PATH_BYTES {
            return Err(TarError::PathTooLong);
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
