//! Skeletons: a layer's archive with the contents of its files left out, as small as a few bytes an entry.
//! With the files that a node has unpacked, it gives the archive back, byte for byte; whether it does is
//! what the diff ID says. So a skeleton may come from anybody, and what it says is believed only when the
//! proof holds.
//!
//! ```text
//! make:   blob ─▶ table's pass ─┬─▶ FileTable                 prove:  skeleton ─▶ headers ─▶ Plan (placed as the
//!                               └─▶ Skeleton                          snapshotter does: which file is whose content)
//!                                                                     Plan + files on disk ─▶ archive ─▶ diff ID
//!                                                                                               └─▶ FileTable
//! ```
//! A skeleton names no path: the archive's own headers do, and placing says what survives of them. So it
//! cannot send a proof anywhere but to the files of the layer, and to each of them once.
//!
//! ```text
//! header     "hfskel\0", version, diff ID (32 bytes), then the length of each section (4 × u64)
//! structure  zstd: the archive without contents, in the coding of `blocks`
//! index      entries whose content is inline, ascending: number since the last one, length
//! inline     zstd: those contents, one behind the other
//! digests    SHA-256 of every file of the archive, in its order; may be missing
//! trailer    SHA-256 of everything before it: the skeleton's digest
//! ```
//! Inline are contents that the layer hides from a disk itself, by a later entry of the same path or by a
//! whiteout. For an entry that survives they are ignored: its content is what the disk has. The digests
//! prove nothing; when a proof fails they say which files to ask for.

mod archive;
mod blocks;
mod file;
mod make;
mod plan;
mod prove;
#[cfg(test)]
mod tests;

pub use file::{Skeleton, SkeletonError};
pub use make::{Digests, Made, Unmade, digests_of_blob, make};
pub use plan::Plan;
pub use prove::{Contents, Differing, Failure, Inode, ProofError, Unfit};

/// A skeleton of any sections, not compressed yet: a mutation of compressed ones goes no deeper than zstd.
#[cfg(feature = "fuzzing")]
pub fn assembled(
    diff_id: crate::digest::DiffId,
    structure: &[u8],
    index: &std::collections::BTreeMap<u64, u64>,
    inline: &[u8],
    digests: &[u8],
) -> Result<Skeleton, Unmade> {
    let packed = |section: &[u8]| -> std::io::Result<Vec<u8>> {
        let mut compressor = file::compressor()?;
        std::io::Write::write_all(&mut compressor, section)?;
        compressor.finish()
    };
    let sections = file::Sections {
        structure: &packed(structure)?,
        index,
        inline: &packed(inline)?,
        digests,
    };
    Ok(Skeleton::encode(diff_id, &sections)?)
}
