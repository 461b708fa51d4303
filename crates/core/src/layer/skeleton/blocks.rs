//! The structure of an archive as blocks, each written as what differs from one shortly before it: most
//! headers differ in a name, a size and a checksum that can be worked out. What comes out is what went
//! in, byte for byte; what the bytes mean is the tar reader's business.
//!
//! ```text
//! zeros     0                              up to the next boundary of 512 bytes
//! like      1..=3 (how many blocks back), plus 0x10 if its checksum was left out;
//!           runs: count, then each: bytes equal to the last run's end, length, bytes
//! literal   4, length (at most 512), bytes
//! ```
//! Numbers have variable length. Both sides know the position in the archive, and so the boundaries.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::ops::Range;

use crate::layer::codec::wide;
use crate::layer::header::BLOCK;

const ZEROS: u8 = 0;
const LITERAL: u8 = 4;
const WITHOUT_CHECKSUM: u8 = 0x10;

/// How many blocks back a block may refer: an extended header comes with a header and a body of its own.
const HISTORY: usize = 3;

/// Equal bytes between two runs that are worth a new run.
const GAP: usize = 3;

const CHECKSUM: Range<usize> = 148..156;

type Block = [u8; BLOCK];

/// The blocks that were written or read last, newest first.
#[derive(Debug)]
struct History(VecDeque<Block>);

impl History {
    fn new() -> Self {
        Self([[0; BLOCK]; HISTORY].into())
    }

    fn push(&mut self, block: &Block) {
        self.0.pop_back();
        self.0.push_front(*block);
    }
}

/// Writes an archive's structure.
#[derive(Debug)]
pub(super) struct BlockWriter<W> {
    out: W,
    history: History,
    /// Structure since the last boundary, or since the last content.
    unit: Vec<u8>,
    /// How far the archive is from the last boundary.
    offset: usize,
    encoded: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            history: History::new(),
            unit: Vec::with_capacity(BLOCK),
            offset: 0,
            encoded: Vec::with_capacity(2 * BLOCK),
        }
    }

    /// Bytes of the structure.
    pub(super) fn structure(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = BLOCK.saturating_sub(self.offset).min(bytes.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.unit.extend_from_slice(now);
            self.advance(now.len());
            bytes = later;
            if self.offset == 0 {
                self.end_unit()?;
            }
        }
        Ok(())
    }

    /// Bytes of the archive that are no structure.
    pub(super) fn pass(&mut self, length: usize) -> io::Result<()> {
        self.end_unit()?;
        self.advance(length);
        Ok(())
    }

    /// Where it writes to.
    pub(super) const fn out(&self) -> &W {
        &self.out
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.end_unit()?;
        Ok(self.out)
    }

    fn advance(&mut self, length: usize) {
        self.offset = self.offset.wrapping_add(length) % BLOCK;
    }

    fn end_unit(&mut self) -> io::Result<()> {
        if self.unit.is_empty() {
            return Ok(());
        }
        self.encoded.clear();
        if self.offset == 0 && self.unit.iter().all(|byte| *byte == 0) {
            self.encoded.push(ZEROS);
        } else if let Ok(block) = Block::try_from(self.unit.as_slice()) {
            self.put_block(block);
        } else {
            self.encoded.push(LITERAL);
            put(&mut self.encoded, self.unit.len());
            self.encoded.extend_from_slice(&self.unit);
        }
        self.unit.clear();
        self.out.write_all(&self.encoded)
    }

    fn put_block(&mut self, mut block: Block) {
        let mut flags = 0;
        if let Some(written) = block.get(CHECKSUM)
            && written == checksum(&block)
        {
            blank_checksum(&mut block);
            flags = WITHOUT_CHECKSUM;
        }
        let differing = |other: &Block| block.iter().zip(other).filter(|(a, b)| a != b).count();
        let nearest = self.history.0.iter().zip(1_u8..);
        if let Some((like, back)) = nearest.min_by_key(|(other, _)| differing(other)) {
            self.encoded.push(back | flags);
            put_runs(&mut self.encoded, &block, like);
        }
        self.history.push(&block);
    }
}

/// What `block` has where `like` has something else.
fn put_runs(out: &mut Vec<u8>, block: &Block, like: &Block) {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (at, _) in block
        .iter()
        .zip(like)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
    {
        match runs.last_mut() {
            Some(run) if at.saturating_sub(run.end) <= GAP => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    put(out, runs.len());
    let mut end = 0;
    for run in runs {
        put(out, run.start.saturating_sub(end));
        put(out, run.len());
        end = run.end;
        out.extend_from_slice(block.get(run).unwrap_or_default());
    }
}

fn put(out: &mut Vec<u8>, number: usize) {
    crate::layer::codec::put_number(out, wide(number));
}

/// The checksum as nearly everybody writes it.
fn checksum(block: &Block) -> [u8; 8] {
    let (before, rest) = block.split_at(CHECKSUM.start);
    let others = before.iter().chain(rest.iter().skip(CHECKSUM.len()));
    let sum: u32 = others.map(|byte| u32::from(*byte)).sum();
    let text = format!("{:06o}\0 ", sum + 8 * u32::from(b' '));
    // Never more than six digits: the sum is below 512 × 255.
    text.as_bytes().first_chunk().copied().unwrap_or_default()
}

fn blank_checksum(block: &mut Block) {
    if let Some(field) = block.get_mut(CHECKSUM) {
        field.fill(0);
    }
}

/// Reads what [`BlockWriter`] wrote, unit by unit. Hostile bytes give some structure or an error; never
/// more than a block at a time.
#[derive(Debug)]
pub(super) struct BlockReader<R> {
    source: R,
    history: History,
}

impl<R: BufRead> BlockReader<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            history: History::new(),
        }
    }

    /// Writes the next unit to the front of `unit`, which takes a block, and gives its length: none at the
    /// end. `offset` says how far the archive is from its last boundary.
    pub(super) fn next(&mut self, offset: usize, unit: &mut [u8]) -> io::Result<usize> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(0);
        }
        let code = self.byte()?;
        let length = match code {
            ZEROS => BLOCK.saturating_sub(offset % BLOCK),
            LITERAL => self.number()?,
            _ => BLOCK,
        };
        let unit = unit.get_mut(..length).filter(|unit| !unit.is_empty());
        let unit = unit.ok_or(io::ErrorKind::InvalidData)?;
        match code {
            ZEROS => unit.fill(0),
            LITERAL => self.source.read_exact(unit)?,
            _ => unit.copy_from_slice(&self.block(code)?),
        }
        Ok(length)
    }

    fn block(&mut self, code: u8) -> io::Result<Block> {
        let back = usize::from(code & !WITHOUT_CHECKSUM).checked_sub(1);
        let like = back.and_then(|back| self.history.0.get(back));
        let mut block = *like.ok_or(io::ErrorKind::InvalidData)?;
        self.take_runs(&mut block)?;
        self.history.push(&block);
        if code & WITHOUT_CHECKSUM != 0 {
            let checksum = checksum(&block);
            if let Some(field) = block.get_mut(CHECKSUM) {
                field.copy_from_slice(&checksum);
            }
        }
        Ok(block)
    }

    fn take_runs(&mut self, block: &mut Block) -> io::Result<()> {
        let mut end = 0_usize;
        for _ in 0..self.number()? {
            let start = end.saturating_add(self.number()?);
            end = start.saturating_add(self.number()?);
            let run = block.get_mut(start..end);
            self.source
                .read_exact(run.ok_or(io::ErrorKind::InvalidData)?)?;
        }
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// A number of at most a block's length, in at most two bytes.
    fn number(&mut self) -> io::Result<usize> {
        let low = self.byte()?;
        let mut number = usize::from(low & 0x7f);
        if low & 0x80 != 0 {
            number |= usize::from(self.byte()?) << 7;
        }
        if number > BLOCK {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::layer::fixture::Tar;

    /// Pieces of an archive: structure, or the length of a content.
    fn written(pieces: &[Result<Vec<u8>, usize>]) -> Vec<u8> {
        let mut writer = BlockWriter::new(Vec::new());
        for piece in pieces {
            match piece {
                Ok(structure) => writer.structure(structure).unwrap(),
                Err(length) => writer.pass(*length).unwrap(),
            }
        }
        writer.finish().unwrap()
    }

    /// Reads as a tar reader does: structure as long as there should be some, then a content.
    fn read(encoded: &[u8], pieces: &[Result<Vec<u8>, usize>]) -> Vec<Result<Vec<u8>, usize>> {
        let (mut reader, mut offset) = (BlockReader::new(encoded), 0);
        let mut read = Vec::new();
        for piece in pieces {
            let piece = piece.as_ref().map_err(|length| *length);
            let again = piece.map(|structure| structure_of(&mut reader, offset, structure.len()));
            offset += again.as_ref().map_or_else(|length| *length, Vec::len);
            read.push(again);
        }
        assert_eq!(reader.next(offset, &mut [0; BLOCK]).unwrap(), 0);
        read
    }

    fn structure_of(reader: &mut BlockReader<&[u8]>, offset: usize, length: usize) -> Vec<u8> {
        let (mut bytes, mut unit) = (Vec::new(), [0; BLOCK]);
        while bytes.len() < length {
            let more = reader.next(offset + bytes.len(), &mut unit).unwrap();
            assert!(more > 0);
            bytes.extend_from_slice(&unit[..more]);
        }
        bytes
    }

    /// Structure behind structure is one piece.
    fn joined(pieces: Vec<Result<Vec<u8>, usize>>) -> Vec<Result<Vec<u8>, usize>> {
        let mut joined: Vec<Result<Vec<u8>, usize>> = Vec::new();
        for piece in pieces {
            match (joined.last_mut(), piece) {
                (Some(Ok(before)), Ok(structure)) => before.extend(structure),
                (_, piece) => joined.push(piece),
            }
        }
        joined
    }

    #[test]
    fn like_headers_take_a_few_bytes_each() {
        let mut archive = Tar::default();
        for number in 0..100 {
            archive = archive.file(&format!("usr/share/doc/package-{number}/copyright"), "");
        }
        let pieces = [Ok(archive.end())];
        let encoded = written(&pieces);
        assert_eq!(read(&encoded, &pieces), pieces);
        assert!(encoded.len() < 100 * 20, "{}", encoded.len());
    }

    proptest! {
        #[test]
        fn structure_survives_its_bytes(
            pieces in prop::collection::vec(prop_oneof![
                prop::collection::vec(any::<u8>(), 1..1200).prop_map(Ok),
                (1..3000_usize).prop_map(|length| Ok(vec![0; length])),
                (0..100_u8, 0..5_usize).prop_map(|(byte, blocks)| {
                    let mut block = [byte; BLOCK];
                    let sum = checksum(&block);
                    block[CHECKSUM].copy_from_slice(&sum);
                    Ok(block.repeat(blocks + 1))
                }),
                (1..3000_usize).prop_map(Err),
            ], 0..20),
        ) {
            let pieces = joined(pieces);
            let encoded = written(&pieces);
            prop_assert_eq!(read(&encoded, &pieces), pieces);
        }

        #[test]
        fn hostile_bytes_give_a_block_at_a_time_and_end(
            encoded in prop::collection::vec(any::<u8>(), 0..300),
            offset in 0..1000_usize,
        ) {
            let (mut reader, mut unit) = (BlockReader::new(encoded.as_slice()), [0; BLOCK]);
            let mut units = 0;
            while reader.next(offset, &mut unit).is_ok_and(|length| length > 0) {
                units += 1;
            }
            prop_assert!(units <= encoded.len());
        }
    }
}
