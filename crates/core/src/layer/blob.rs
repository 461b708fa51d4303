//! A layer blob as a stream of its uncompressed bytes, both digests taken on the way in one pass. It
//! says what the digests are; whether they are the right ones is the caller's question.
//!
//! gzip with any number of members, zstd with any number of frames, or plain: told apart by their first
//! bytes, as containerd does, not by what a manifest says about them.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::digest::{DiffId, Digest};
use crate::layer::codec::wide;

/// Large enough that a call a piece costs nothing, small enough that a piece is still in the cache when
/// it is hashed a second time.
const BUFFER: usize = 128 << 10;

/// Bytes looked at to tell what the blob is.
const PEEK: usize = 8;

/// log2 of the largest zstd window accepted: 128 MiB, which `zstd --ultra -22` uses and beyond which zstd
/// itself asks for a further option. It is memory that an image makes us allocate.
const WINDOW_LOG_MAX: u32 = 27;

/// The uncompressed bytes of a blob.
pub(super) struct Blob<R: Read> {
    decoder: Decoder<R>,
    buffer: Vec<u8>,
    /// The part of `buffer` that was not handed out yet.
    unread: std::ops::Range<usize>,
    sha256: Sha256,
    length: u64,
    limit: u64,
    stopped: Option<Stop>,
}

/// Why the stream ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The blob itself could not be read.
    Source,
    /// What it holds cannot be decompressed.
    Compression,
    /// It holds more than the limit.
    Limit,
}

enum Decoder<R: Read> {
    Plain(Compressed<R>),
    Gzip(Box<MultiGzDecoder<Compressed<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Compressed<R>>>),
}

type Compressed<R> = BufReader<Hashed<io::Chain<io::Cursor<Vec<u8>>, R>>>;

/// The blob as it is stored; whatever is read from it is hashed.
struct Hashed<R> {
    source: R,
    sha256: Sha256,
    has_failed: bool,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.source.read(buf) {
                Ok(length) => {
                    self.sha256.update(buf.get(..length).unwrap_or_default());
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.has_failed = true;
                    return Err(error);
                }
            }
        }
    }
}

impl<R: Read> Blob<R> {
    /// Begins to read a blob, of which at most `limit` uncompressed bytes are accepted.
    pub(super) fn open(mut source: R, limit: u64) -> io::Result<Self> {
        let mut first = Vec::with_capacity(PEEK);
        source.by_ref().take(wide(PEEK)).read_to_end(&mut first)?;
        let is_gzip = first.starts_with(&[0x1f, 0x8b, 0x08]);
        let is_zstd = first.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || matches!(first[..], [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _]);
        let compressed = BufReader::with_capacity(
            BUFFER,
            Hashed {
                source: io::Cursor::new(first).chain(source),
                sha256: Sha256::new(),
                has_failed: false,
            },
        );
        let decoder = if is_gzip {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(compressed)))
        } else if is_zstd {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(compressed)?;
            decoder.window_log_max(WINDOW_LOG_MAX)?;
            Decoder::Zstd(Box::new(decoder))
        } else {
            Decoder::Plain(compressed)
        };
        Ok(Self {
            decoder,
            buffer: vec![0; BUFFER],
            unread: 0..0,
            sha256: Sha256::new(),
            length: 0,
            limit,
            stopped: None,
        })
    }

    /// Why the last read failed.
    pub(super) const fn stopped(&self) -> Option<Stop> {
        self.stopped
    }

    /// The digest of the blob and the diff ID, once everything was read. Decoders stop only where the
    /// blob ends, so nothing can hide behind what they read.
    pub(super) fn finish(mut self) -> io::Result<(Digest, DiffId)> {
        let diff_id = DiffId(Digest::from_sha256(self.sha256.clone().finalize().into()));
        Ok((self.digest_of_rest()?, diff_id))
    }

    /// The digest of the blob, when what it holds is of no more interest.
    pub(super) fn digest_of_rest(&mut self) -> io::Result<Digest> {
        let compressed = self.decoder.compressed();
        loop {
            let length = compressed.fill_buf()?.len();
            if length == 0 {
                let sha256 = compressed.get_ref().sha256.clone();
                return Ok(Digest::from_sha256(sha256.finalize().into()));
            }
            compressed.consume(length);
        }
    }

    /// Fills the buffer as far as it goes: digests are quicker over large pieces.
    fn refill(&mut self) -> io::Result<()> {
        let mut filled = 0_usize;
        while let Some(rest) = self
            .buffer
            .get_mut(filled..)
            .filter(|rest| !rest.is_empty())
        {
            match self.decoder.read(rest) {
                Ok(0) => break,
                Ok(length) => filled = filled.saturating_add(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.stop(error)),
            }
        }
        self.unread = 0..filled;
        self.length = self.length.saturating_add(wide(filled));
        if self.length > self.limit {
            self.stopped = Some(Stop::Limit);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.sha256
            .update(self.buffer.get(..filled).unwrap_or_default());
        Ok(())
    }
}

impl<R: Read> Blob<R> {
    fn stop(&mut self, error: io::Error) -> io::Error {
        let is_source = self.decoder.compressed().get_ref().has_failed;
        self.stopped = Some(if is_source {
            Stop::Source
        } else {
            Stop::Compression
        });
        error
    }
}

impl<R: Read> Read for Blob<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buf)?;
        self.consume(length);
        Ok(length)
    }
}

impl<R: Read> BufRead for Blob<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread.is_empty() {
            self.refill()?;
        }
        Ok(self.buffer.get(self.unread.clone()).unwrap_or_default())
    }

    fn consume(&mut self, length: usize) {
        self.unread.start = self
            .unread
            .start
            .saturating_add(length)
            .min(self.unread.end);
    }
}

impl<R: Read> Decoder<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(plain) => plain.read(buf),
            Self::Gzip(gzip) => gzip.read(buf),
            Self::Zstd(zstd) => zstd.read(buf),
        }
    }

    fn compressed(&mut self) -> &mut Compressed<R> {
        match self {
            Self::Plain(plain) => plain,
            Self::Gzip(gzip) => gzip.get_mut(),
            Self::Zstd(zstd) => zstd.get_mut(),
        }
    }
}
