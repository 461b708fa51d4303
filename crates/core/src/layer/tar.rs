//! The one strict tar reader: a stream in, entries and their contents out. It decides nothing about
//! names; what an entry means on a disk is `place`'s business.
//!
//! It accepts and refuses what Go's archive/tar does, with which containerd unpacks: ustar, star, GNU
//! long names, PAX headers. Where Go is lenient we are too (a missing end marker, a last entry without
//! its padding), because such an archive is unpacked, and what it unpacks to must be known. Sparse files
//! are handed out with their holes. Types that containerd refuses (the old sparse one is among them) are
//! only recorded: it refuses when it comes to create them.

use std::io;

use crate::layer::Limits;
use crate::layer::codec::wide;
use crate::layer::header::{BLOCK, Header, text};
use crate::layer::limits::HEADER_BYTES;
use crate::layer::pax::Pax;
use crate::layer::source::{Part, Source};
use crate::layer::sparse::{self, Lines, Region};

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
    /// More entries than the limit.
    #[error("more than {0} entries")]
    TooManyEntries(u64),
    /// A map of holes that cannot be, or that does not fit what was written.
    #[error("sparse file is malformed")]
    Sparse,
    /// Holes, or a map of them, beyond the limit.
    #[error("sparse file is too large")]
    SparseTooLarge,
}

/// What holes are filled with, a piece at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Reads an archive entry by entry, at most `limit` of them.
#[derive(Debug)]
pub(super) struct TarReader<R> {
    source: R,
    limit: u64,
    entries: u64,
    /// What is left of the entry's content, and the padding behind it.
    body: u64,
    padding: u64,
    /// Of a sparse file: what was written of it, and its length.
    sparse: Option<(u64, Vec<Region>)>,
    /// Bytes of holes that may still be handed out. A header of 1 KiB can ask for eight exbibytes.
    holes: u64,
    has_ended: bool,
}

/// What headers say about the next entry before its own header comes.
#[derive(Debug, Default)]
struct Announced {
    extended: Vec<u8>,
    name: Vec<u8>,
    link: Vec<u8>,
}

impl<R: Source> TarReader<R> {
    pub(super) const fn new(source: R, limits: &Limits) -> Self {
        Self {
            source,
            limit: limits.entries,
            entries: 0,
            body: 0,
            padding: 0,
            sparse: None,
            holes: limits.uncompressed_bytes,
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

    /// Hands the content of the entry to `sink`, piece by piece, holes filled with zeros.
    pub(super) fn content(&mut self, mut sink: impl FnMut(&[u8])) -> Result<(), TarError> {
        let Some((size, regions)) = self.sparse.take() else {
            return self.passed(0, self.body, &mut sink);
        };
        let mut at = 0;
        for Region { offset, length } in regions {
            self.hole(offset.saturating_sub(at), &mut sink)?;
            if length > self.body {
                return Err(TarError::Sparse); // less was written than the map says
            }
            self.passed(offset, length, &mut sink)?;
            at = offset.saturating_add(length);
        }
        self.hole(size.saturating_sub(at), &mut sink)?;
        if self.body > 0 {
            return Err(TarError::Sparse); // more was written than the map says
        }
        Ok(())
    }

    fn hole(&mut self, length: u64, mut sink: impl FnMut(&[u8])) -> Result<(), TarError> {
        let left = self.holes.checked_sub(length);
        self.holes = left.ok_or(TarError::SparseTooLarge)?;
        let mut rest = length;
        while rest > 0 {
            let piece = usize::try_from(rest).unwrap_or(usize::MAX).min(ZEROS.len());
            sink(ZEROS.get(..piece).unwrap_or_default());
            rest = rest.saturating_sub(wide(piece));
        }
        Ok(())
    }

    /// Hands on `length` bytes that belong at `offset` of the file.
    fn passed(
        &mut self,
        offset: u64,
        length: u64,
        sink: impl FnMut(&[u8]),
    ) -> Result<(), TarError> {
        self.source.enter(Part::Content {
            entry: self.entries.saturating_sub(1),
            offset,
            length,
        });
        let read = self.written(length, sink);
        self.source.enter(Part::Structure);
        read
    }

    /// Hands on `length` bytes of what was written.
    fn written(&mut self, length: u64, mut sink: impl FnMut(&[u8])) -> Result<(), TarError> {
        let end = self.body.saturating_sub(length);
        while self.body > end {
            let available = self.source.fill_buf()?;
            if available.is_empty() {
                return Err(TarError::Truncated);
            }
            let length = usize::try_from(self.body.saturating_sub(end))
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
        self.sparse = None;
        self.written(self.body, |_skipped| {})?;
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
        match self.written(self.body, |_zeros| {}) {
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
        self.written(self.body, |piece| bytes.extend_from_slice(piece))?;
        Ok(bytes)
    }

    /// Go's reader gives a global header's name and attributes alone, so a whiteout of this type is root's.
    fn global(&mut self, header: Header) -> Result<Header, TarError> {
        let extended = self.special()?;
        let name = Pax::parse(&extended)?.global_name()?;
        self.admit(Header {
            flag: header.flag,
            name: name.unwrap_or(header.name),
            ..Header::default()
        })
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
        if header.flag == b'S' {
            self.sparse = Some(self.old_sparse(&mut header)?);
        } else if let Some(announced) = extended.sparse()? {
            self.sparse = Some(self.sparse(&mut header, announced)?);
        }
        self.admit(header)
    }

    /// The map of an old sparse file: in its header, and in blocks that its size does not count.
    fn old_sparse(&mut self, header: &mut Header) -> Result<(u64, Vec<Region>), TarError> {
        // Star has the type too, and another map.
        let mut map = header.old_map.take().ok_or(TarError::Sparse)?;
        while map.is_extended {
            map.extend(&self.block()?.ok_or(TarError::Truncated)?)?;
        }
        map.regions()
    }

    /// The map that an extended header announced, and the name and size that it gave.
    fn sparse(
        &mut self,
        header: &mut Header,
        announced: sparse::Announced,
    ) -> Result<(u64, Vec<Region>), TarError> {
        if let Some(name) = announced.name {
            header.name = name;
        }
        if let Some(size) = announced.size {
            header.size = size;
        }
        let map = match announced.map {
            Some(map) => map,
            None => self.lines()?.finish(),
        };
        if header.is_alone() {
            return Err(TarError::Sparse);
        }
        map.regions(header.size)
    }

    /// The map in front of the content.
    fn lines(&mut self) -> Result<Lines, TarError> {
        let mut lines = Lines::default();
        loop {
            let mut block = Vec::with_capacity(BLOCK);
            if self.body < wide(BLOCK) {
                return Err(TarError::Sparse);
            }
            self.written(wide(BLOCK), |piece| block.extend_from_slice(piece))?;
            if lines.take(&block)? {
                return Ok(lines);
            }
        }
    }

    /// The last step of every entry: how many there are.
    fn admit(&mut self, header: Header) -> Result<Header, TarError> {
        self.entries = self.entries.saturating_add(1);
        if self.entries > self.limit {
            return Err(TarError::TooManyEntries(self.limit));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
