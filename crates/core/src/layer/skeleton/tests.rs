//! Proofs over layers with every feature, over generated ones, over tampered disks, and of skeletons that
//! were made to deceive. A disk here is what the ordinary placing says, with contents by their digests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use proptest::prelude::*;

use super::file::Sections;
use super::*;
use crate::digest::{DiffId, Digest};
use crate::layer::fixture::{Tar, header, record, sealed, stack};
use crate::layer::{ExpectedTree, FileTable, Limits, Node, Snapshotter, place};

/// The unpacked files: contents by path, and which of them are one inode.
#[derive(Clone, Debug, Default)]
struct Disk {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    linked: HashMap<Vec<u8>, u64>,
    open: Vec<u8>,
    opened: Vec<String>,
    is_over: bool,
}

impl Disk {
    fn set(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.into(), content.into());
        self
    }

    fn without(mut self, path: &str) -> Self {
        self.files.remove(path.as_bytes());
        self
    }
}

impl Contents for Disk {
    fn open(&mut self, path: &[u8], size: u64) -> Result<Option<Inode>, Unfit> {
        if self.is_over {
            return Err(Unfit::Stopped);
        }
        self.opened.push(path.escape_ascii().to_string());
        self.open = self.files.get(path).ok_or(Unfit::Missing)?.clone();
        if u64::try_from(self.open.len()).unwrap() != size {
            return Err(Unfit::Size);
        }
        let number = self.linked.get(path).copied();
        Ok(number.map(|number| Inode { device: 1, number }))
    }

    fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<usize, Unfit> {
        let rest = &self.open[usize::try_from(offset).unwrap()..];
        // Short reads, as a disk may give them.
        let length = rest.len().min(buf.len()).min(700);
        buf[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

fn make_of(archive: &[u8], digests: Digests) -> Made {
    let digest = Digest::of(archive);
    make(
        || Ok(archive),
        digest,
        DiffId(digest),
        &Limits::default(),
        digests,
    )
    .unwrap()
}

fn skeleton_of(archive: &[u8]) -> Skeleton {
    make_of(archive, Digests::Carried).skeleton.unwrap()
}

/// What the layer is unpacked to.
fn disk_of(archive: &[u8], parents: &[Arc<ExpectedTree>]) -> Disk {
    let contents: HashMap<Digest, Vec<u8>> = contents(archive)
        .into_iter()
        .map(|content| (Digest::of(&content), content))
        .collect();
    let table = make_of(archive, Digests::LeftOut).table;
    let mut disk = Disk::default();
    for (path, entry) in place(&table, Snapshotter::Overlayfs, parents)
        .unwrap()
        .iter()
    {
        if let Node::File { digest, .. } = &entry.node {
            disk.files.insert(path, contents[digest].clone());
        }
    }
    disk
}

/// The contents of all files of an archive, read by somebody else's reader.
fn contents(archive: &[u8]) -> Vec<Vec<u8>> {
    // It insists on an end that may be missing.
    let whole = [archive, &[0; 2048]].concat();
    let mut reader = tar::Archive::new(whole.as_slice());
    let entries = reader.entries().unwrap().map(|entry| {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry.unwrap(), &mut content).unwrap();
        content
    });
    entries.collect()
}

fn prove(
    skeleton: &Skeleton,
    parents: &[Arc<ExpectedTree>],
    disk: &mut Disk,
) -> Result<FileTable, ProofError> {
    Plan::of(skeleton, parents, &Limits::default())?.prove(disk)
}

/// Makes and proves; the table must be the very same.
#[track_caller]
fn assert_proved(archive: &[u8], parents: &[Arc<ExpectedTree>]) {
    let made = make_of(archive, Digests::LeftOut);
    let skeleton = made.skeleton.unwrap();
    let mut disk = disk_of(archive, parents);
    let proved = prove(&skeleton, parents, &mut disk).unwrap();
    assert_eq!(proved.encoded(), made.table.encoded());
    assert_eq!(proved.digest(), made.table.digest());
}

fn failure(result: Result<FileTable, ProofError>) -> Vec<(String, Unfit)> {
    match result {
        Err(ProofError::Failed(failure)) => {
            assert_eq!(
                failure.total,
                u64::try_from(failure.differing.len()).unwrap()
            );
            let named = failure.differing.iter();
            named
                .map(|file| (file.path.escape_ascii().to_string(), file.unfit))
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

/// Every type of entry, names of every form, extended headers, contents of every length about a block's.
fn sample() -> Vec<u8> {
    let long = "n".repeat(90);
    let mut tar = Tar::default()
        .directory("./")
        .directory("bin/")
        .file("bin/tool", "\x7fELF and more")
        .hard_link("bin/again", "bin/tool")
        .symlink("sbin", "bin")
        .file("sbin/through-a-link", "x")
        .file("/absolute", "y")
        .file("./dotted/../dotted", "z")
        .char_device("dev/null", 1, 3)
        .owned(b'6', "pipe", 0o600, (1, 2))
        .extended(&[(b"SCHILY.xattr.user.x", b"1\n2"), (b"mtime", b"1.5")])
        .file("noted", "n")
        .entry(
            b'L',
            "././@LongLink",
            "",
            format!("deep/{long}\0").as_bytes(),
        )
        .file("deep/cut", "content of a long name")
        .entry(b'g', "g", "", &record(b"comment", b"x"))
        .file("missing/parents/of/this", "p")
        .file(".wh.other", "");
    for length in [0, 1, 511, 512, 513, 1024, 200_000] {
        tar = tar.file(&format!("of/{length}"), &"c".repeat(length));
    }
    tar.end()
}

#[test]
fn the_proof_gives_the_very_table_that_the_blob_gives() {
    assert_proved(&sample(), &[]);
}

#[test]
fn compression_of_the_blob_is_of_no_account() {
    let archive = sample();
    let blob = zstd::encode_all(archive.as_slice(), 3).unwrap();
    let diff_id = DiffId(Digest::of(&archive));
    let made = make(
        || Ok(blob.as_slice()),
        Digest::of(&blob),
        diff_id,
        &Limits::default(),
        Digests::Carried,
    );
    assert_eq!(made.unwrap().skeleton.unwrap(), skeleton_of(&archive));
}

#[test]
fn an_upper_layer_is_proved_over_its_parents() {
    let below = Tar::default()
        .directory("etc/")
        .file("etc/old", "old")
        .file("etc/kept", "kept")
        .end();
    let above = Tar::default()
        .file("etc/.wh.old", "")
        .file("etc/new", "new")
        .end();
    assert_proved(&above, &stack(&[below]).unwrap());
}

#[test]
fn padding_trailing_bytes_and_a_cut_end_come_back_as_they_were() {
    let mut dirty = Tar::default().file("a", "abc").file("b", "b").end();
    dirty[512 + 100] = 7; // in the padding of `a`
    dirty.extend_from_slice(b"behind the end");
    assert_proved(&dirty, &[]);
    let mut cut = Tar::default().file("a", "abc").file("b", "b").0;
    cut.truncate(cut.len() - 511); // the last padding is missing
    assert_proved(&cut, &[]);
    let zeros = [Tar::default().file("a", "abc").end(), vec![0; 9000]].concat();
    assert_proved(&zeros, &[]);
}

#[test]
fn contents_that_the_layer_hides_itself_are_inline_and_only_these() {
    let archive = Tar::default()
        .file("twice", "first")
        .file("once", "once")
        .file("gone", "gone")
        .directory("d")
        .file("d/below", "below")
        .file("twice", "second, which stays")
        .file(".wh.gone", "")
        .file("./d/", "a file takes the directory's place")
        .end();
    let skeleton = skeleton_of(&archive);
    assert_eq!(skeleton.index(), [(0, 5), (2, 4), (4, 5)]);
    assert_proved(&archive, &[]);
}

#[test]
fn a_layer_without_hidden_contents_is_read_once() {
    let mut opened = 0;
    for (archive, times) in [
        (Tar::default().file("a", "a").file("b", "b").end(), 1),
        (Tar::default().file("a", "a").file("a", "b").end(), 2),
    ] {
        let digest = Digest::of(&archive);
        let before = opened;
        let open = || {
            opened += 1;
            Ok(archive.as_slice())
        };
        let limits = Limits::default();
        make(open, digest, DiffId(digest), &limits, Digests::LeftOut).unwrap();
        assert_eq!(opened - before, times);
    }
}

#[test]
fn a_file_that_differs_fails_the_proof_and_is_named() {
    let archive = sample();
    let skeleton = skeleton_of(&archive);
    let disk = disk_of(&archive, &[]);
    let tampered = disk
        .clone()
        .set("bin/tool", "\x7fELF and evil")
        .set("bin/again", "\x7fELF and evil")
        .set("noted", "longer")
        .without("absolute");
    assert_eq!(
        failure(prove(&skeleton, &[], &mut tampered.clone())),
        [
            // Of hard links, the first name.
            ("bin/again".to_owned(), Unfit::Content),
            ("absolute".to_owned(), Unfit::Missing),
            ("noted".to_owned(), Unfit::Size),
        ]
    );
    let digest = Digest::of(b"\x7fELF and more");
    let Err(ProofError::Failed(failed)) = prove(&skeleton, &[], &mut tampered.clone()) else {
        panic!("the proof held");
    };
    assert_eq!(failed.differing[0].digest, Some(digest));
    // With the genuine contents in place of what differs, the table is proved.
    let genuine = tampered
        .set("bin/tool", "\x7fELF and more")
        .set("bin/again", "\x7fELF and more")
        .set("noted", "n")
        .set("absolute", "y");
    let table = make_of(&archive, Digests::LeftOut).table;
    let proved = prove(&skeleton, &[], &mut genuine.clone()).unwrap();
    assert_eq!(proved.encoded(), table.encoded());
}

#[test]
fn without_digests_a_failed_proof_names_only_what_cannot_be_read() {
    let archive = sample();
    let skeleton = make_of(&archive, Digests::LeftOut).skeleton.unwrap();
    assert!(!skeleton.has_digests());
    let tampered = disk_of(&archive, &[]).set("noted", "m");
    assert_eq!(failure(prove(&skeleton, &[], &mut tampered.clone())), []);
    let missing = tampered.without("absolute");
    let named = failure(prove(&skeleton, &[], &mut missing.clone()));
    assert_eq!(named, [("absolute".to_owned(), Unfit::Missing)]);
}

#[test]
fn inline_content_of_a_file_that_survives_is_not_used() {
    let archive = Tar::default().file("tool", "genuine").end();
    let honest = skeleton_of(&archive);
    let inline = zstd::encode_all(b"genuine".as_slice(), 3).unwrap();
    let structure = honest.section(0).to_vec();
    let digests = honest.section(3).to_vec();
    let hiding = Skeleton::encode(
        honest.diff_id(),
        &Sections {
            structure: &structure,
            index: &BTreeMap::from([(0, 7)]),
            inline: &inline,
            digests: &digests,
        },
    )
    .unwrap();
    let disk = disk_of(&archive, &[]);
    assert!(prove(&hiding, &[], &mut disk.clone()).is_ok());
    let tampered = disk.set("tool", "evil...");
    assert_eq!(
        failure(prove(&hiding, &[], &mut tampered.clone())),
        [("tool".to_owned(), Unfit::Content)]
    );
}

#[test]
fn a_hidden_content_that_is_not_inline_is_not_reassemblable() {
    let archive = Tar::default().file("a", "first").file("a", "second").end();
    let honest = skeleton_of(&archive);
    for index in [BTreeMap::new(), BTreeMap::from([(0, 4)])] {
        let without = Skeleton::encode(
            honest.diff_id(),
            &Sections {
                structure: honest.section(0),
                index: &index,
                inline: honest.section(2),
                digests: &[],
            },
        )
        .unwrap();
        let mut disk = disk_of(&archive, &[]);
        let refused = prove(&without, &[], &mut disk);
        assert!(
            matches!(&refused, Err(ProofError::NotReassemblable(path)) if path == b"a"),
            "{refused:?}"
        );
        assert_eq!(disk.opened.len(), 0);
    }
}

/// A header of a file that is said to be this long; its content is left to the prover.
fn claimed(name: &str, size: usize) -> [u8; 512] {
    header(b'0', name, "", size)
}

/// A skeleton of headers alone.
fn forged(headers: impl IntoIterator<Item = [u8; 512]>) -> Skeleton {
    let mut out = file::compressor().unwrap();
    let mut writer = blocks::BlockWriter::new(&mut out);
    for header in headers {
        writer.structure(&header).unwrap();
    }
    writer.structure(&[0; 1024]).unwrap();
    writer.finish().unwrap();
    Skeleton::encode(
        DiffId(Digest::of(b"some layer")),
        &Sections {
            structure: &out.finish().unwrap(),
            index: &BTreeMap::new(),
            inline: &[],
            digests: &[],
        },
    )
    .unwrap()
}

#[test]
fn a_skeleton_that_names_one_large_file_again_and_again_stops_at_once() {
    const GIGABYTE: usize = 1 << 30;
    let mut disk = Disk::default();
    // By the same name: all but the last are hidden and had to be inline.
    let same = forged((0..50).map(|_| claimed("large", GIGABYTE)));
    let refused = prove(&same, &[], &mut disk);
    assert!(
        matches!(refused, Err(ProofError::NotReassemblable(_))),
        "{refused:?}"
    );
    // By a hundred thousand names: no archive is that large.
    let many = forged((0..100_000).map(|n| claimed(&format!("large-{n}"), GIGABYTE)));
    let refused = prove(&many, &[], &mut disk);
    assert!(
        matches!(refused, Err(ProofError::TooLarge(_))),
        "{refused:?}"
    );
    assert_eq!(disk.opened.len(), 0);
}

#[test]
fn one_inode_gives_its_content_once() {
    let headers = (0..1000).map(|n| claimed(&format!("large-{n}"), 512));
    let skeleton = forged(headers);
    let mut disk = Disk::default();
    for n in 0..1000 {
        disk.files
            .insert(format!("large-{n}").into_bytes(), vec![7; 512]);
        disk.linked.insert(format!("large-{n}").into_bytes(), 9);
    }
    let named = failure(prove(&skeleton, &[], &mut disk));
    assert_eq!(named.len(), 999);
    assert!(named.iter().all(|(_, unfit)| *unfit == Unfit::Reused));
    // The proof itself ended with the second name.
    assert_eq!(disk.opened[..2], ["large-0", "large-1"]);
    assert_eq!(disk.opened[2], "large-0");
}

#[test]
fn a_skeleton_of_another_layer_fails_and_proves_nothing() {
    let archive = sample();
    let honest = skeleton_of(&archive);
    let other = Skeleton::encode(
        DiffId(Digest::of(b"the layer that is asked for")),
        &Sections {
            structure: honest.section(0),
            index: &BTreeMap::new(),
            inline: honest.section(2),
            digests: honest.section(3),
        },
    )
    .unwrap();
    let mut disk = disk_of(&archive, &[]);
    assert_eq!(failure(prove(&other, &[], &mut disk)), []);
}

#[test]
fn names_lead_nowhere_but_into_the_snapshot() {
    let archive = Tar::default()
        .file("../../etc/passwd", "p")
        .symlink("out", "/etc")
        .file("out/shadow", "s")
        .symlink("up", "../../..")
        .file("up/hosts", "h")
        .end();
    let mut disk = disk_of(&archive, &[]);
    prove(&skeleton_of(&archive), &[], &mut disk).unwrap();
    disk.opened.sort();
    assert_eq!(disk.opened, ["etc/passwd", "etc/shadow", "hosts"]);
}

#[test]
fn a_proof_that_nobody_waits_for_says_nothing_about_the_disk() {
    let archive = sample();
    let mut disk = disk_of(&archive, &[]);
    disk.is_over = true;
    let stopped = prove(&skeleton_of(&archive), &[], &mut disk);
    assert!(matches!(stopped, Err(ProofError::Stopped)), "{stopped:?}");
}

#[test]
fn a_layer_beyond_the_limits_is_refused_before_a_file_is_opened() {
    let archive = sample();
    let skeleton = skeleton_of(&archive);
    for limits in [
        Limits {
            uncompressed_bytes: 10_000,
            ..Limits::default()
        },
        Limits {
            entries: 3,
            ..Limits::default()
        },
        Limits {
            table_bytes: 500,
            ..Limits::default()
        },
    ] {
        assert!(Plan::of(&skeleton, &[], &limits).is_err(), "{limits:?}");
    }
}

#[test]
fn a_damaged_skeleton_is_refused_whichever_byte_it_is() {
    let skeleton = skeleton_of(&Tar::default().file("a", "1").file("a", "2").end());
    let encoded = skeleton.encoded();
    for at in 0..encoded.len() {
        let mut damaged = encoded.to_vec();
        damaged[at] ^= 0x10;
        assert!(Skeleton::decode(damaged).is_err(), "byte {at}");
        assert!(Skeleton::decode(encoded[..at].to_vec()).is_err());
    }
    let longer = [encoded, b"\0"].concat();
    assert!(Skeleton::decode(longer).is_err());
    assert_eq!(Skeleton::decode(encoded.to_vec()).unwrap(), skeleton);
}

/// What one entry of a generated layer does.
fn entry() -> impl Strategy<Value = Tar> {
    let name = prop::sample::select(vec![
        "a", "b", "d", "d/a", "d/b", "./d/a", "/b", "d/e/f", "l", "l/a", "d/../a", "h",
    ]);
    let content = prop_oneof![
        Just(String::new()),
        "[a-z]{1,20}",
        (0..3_usize, 0..3_usize).prop_map(|(blocks, more)| "x".repeat(blocks * 512 + more)),
    ];
    prop_oneof![
        6 => (name.clone(), content).prop_map(|(name, content)| Tar::default().file(name, &content)),
        2 => name.clone().prop_map(|name| Tar::default().directory(name)),
        1 => (name.clone(), name.clone()).prop_map(|(name, to)| Tar::default().symlink(name, to)),
        1 => (name.clone(), name.clone()).prop_map(|(name, to)| Tar::default().hard_link(name, to)),
        1 => prop::sample::select(vec![".wh.a", "d/.wh.b", "d/.wh..wh..opq"])
            .prop_map(|name| Tar::default().file(name, "")),
        1 => (name, any::<u8>()).prop_map(|(name, byte)| {
            let mut block = header(b'0', name, "", 3);
            block[500] = byte; // what no reader looks at
            Tar::default()
                .extended(&[(b"SCHILY.xattr.user.x", &[byte])])
                .header(&sealed(block))
                .body(b"abc")
        }),
    ]
}

fn layer() -> impl Strategy<Value = Vec<u8>> {
    let entries = prop::collection::vec(entry(), 0..12);
    let tail = prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(any::<u8>(), 0..700),
        1 => (0..2000_usize).prop_map(|length| vec![0; length]),
    ];
    (entries, tail).prop_map(|(entries, tail)| {
        let bytes = entries.into_iter().flat_map(|entry| entry.0).collect();
        [Tar(bytes).end(), tail].concat()
    })
}

proptest! {
    #[test]
    fn whatever_can_be_unpacked_can_be_proved(archive in layer(), above in any::<bool>()) {
        let below = Tar::default().directory("d/").file("d/a", "below").file("b", "below").end();
        let parents = if above { stack(&[below]).unwrap() } else { Vec::new() };
        let made = make_of(&archive, Digests::Carried);
        if place(&made.table, Snapshotter::Overlayfs, &parents).is_ok() {
            let mut disk = disk_of(&archive, &parents);
            let skeleton = made.skeleton.unwrap();
            let again = Skeleton::decode(skeleton.encoded().to_vec()).unwrap();
            let proved = prove(&again, &parents, &mut disk).unwrap();
            prop_assert_eq!(proved.encoded(), made.table.encoded());
        }
    }

    #[test]
    fn whatever_file_is_tampered_with_fails_the_proof_and_is_named(
        archive in layer(),
        which in any::<prop::sample::Index>(),
    ) {
        let made = make_of(&archive, Digests::Carried);
        if place(&made.table, Snapshotter::Overlayfs, &[]).is_ok() {
            let mut disk = disk_of(&archive, &[]);
            let with_content = disk.files.iter().filter(|(_, content)| !content.is_empty());
            let paths: Vec<Vec<u8>> = with_content.map(|(path, _)| path.clone()).collect();
            if paths.is_empty() {
                return Ok(());
            }
            // All names of a hard link: the proof may read any of them.
            let genuine = disk.files[&paths[which.index(paths.len())]].clone();
            for content in disk.files.values_mut().filter(|content| **content == genuine) {
                content[0] ^= 1;
            }
            let named = failure(prove(&made.skeleton.unwrap(), &[], &mut disk));
            prop_assert!(!named.is_empty());
            prop_assert!(named.iter().all(|(_, unfit)| *unfit == Unfit::Content));
        }
    }

    #[test]
    fn hostile_skeletons_are_refused_or_fail_but_never_panic(
        archive in layer(),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let honest = skeleton_of(&archive);
        let mut structure = zstd::decode_all(honest.section(0)).unwrap();
        let at = cut.index(structure.len());
        for (to, from) in structure[at..].iter_mut().zip(&noise) {
            *to = *from;
        }
        let forged = Skeleton::encode(
            honest.diff_id(),
            &Sections {
                structure: &zstd::encode_all(structure.as_slice(), 3).unwrap(),
                index: &honest.index().iter().copied().collect(),
                inline: honest.section(2),
                digests: honest.section(3),
            },
        )
        .unwrap();
        let mut disk = Disk::default();
        let limits = Limits { uncompressed_bytes: 1 << 20, ..Limits::default() };
        if let Ok(plan) = Plan::of(&forged, &[], &limits)
            && let Ok(table) = plan.prove(&mut disk)
        {
            prop_assert_eq!(table.diff_id(), DiffId(Digest::of(&archive)));
        }
    }
}
