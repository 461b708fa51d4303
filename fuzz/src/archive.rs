//! Archives for seeds, valid or not, and the checksums that a mutated one needs. Knows the format from the
//! `tar` crate, not from our reader.

use tar::Header;

const BLOCK: usize = 512;

/// An archive that is being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Archive(Vec<u8>);

impl Archive {
    /// A ustar header of this type, and what follows it.
    pub(crate) fn entry(self, flag: u8, name: &str, link: &str, body: &[u8]) -> Self {
        self.header(&header(flag, name, link, body.len()), body)
    }

    /// This header, and what follows it.
    pub(crate) fn header(mut self, header: &Header, body: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(body);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", content.as_bytes())
    }

    /// Extended headers for the next entry.
    pub(crate) fn extended(self, records: &[(&str, &[u8])]) -> Self {
        self.entry(b'x', "PaxHeaders/x", "", &records_of(records))
    }

    /// The end marker.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 2 * BLOCK]);
        self.0
    }

    /// Without the end marker.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}

/// A ustar header: mode 0644, owner 0:0.
pub(crate) fn header(flag: u8, name: &str, link: &str, size: usize) -> Header {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    old.linkflag = [flag];
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(u64::try_from(size).unwrap());
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    header
}

/// The content of an extended header.
pub(crate) fn records_of(records: &[(&str, &[u8])]) -> Vec<u8> {
    let record = |(key, value): &(&str, &[u8])| {
        let rest = key.len() + value.len() + 3;
        let with_digits = |digits: usize| rest + digits;
        let digits = (1..8).find(|digits| with_digits(*digits).to_string().len() == *digits);
        let length = with_digits(digits.unwrap()).to_string();
        [length.as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
    };
    records.iter().flat_map(record).collect()
}

/// Gives each header of a mutated archive the checksum that it needs.
pub(crate) fn seal(archive: &mut [u8]) {
    let mut rest = archive;
    while let Some((block, behind)) = rest.split_first_chunk_mut::<BLOCK>() {
        let mut skipped = 0;
        if *block != [0; BLOCK] {
            let mut header = Header::new_old();
            *header.as_mut_bytes() = *block;
            header.set_cksum();
            *block = *header.as_bytes();
            if !matches!(header.as_old().linkflag, [b'1'..=b'6']) {
                let size = usize::try_from(header.entry_size().unwrap_or(0)).unwrap_or(0);
                skipped = size.checked_next_multiple_of(BLOCK).unwrap_or(0);
            }
        }
        rest = behind.get_mut(skipped..).unwrap_or_default();
    }
}
