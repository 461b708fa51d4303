//! What containerd unpacks, compared with what the product expects of it: every entry of every snapshot
//! directory, in both directions, for both snapshotters. Where containerd refuses a layer, so must we.
//!
//! `HOLDFAST_UNPACK_STACKS` says how many generated stacks of layers are tried, `HOLDFAST_UNPACK_SEED`
//! which. `HOLDFAST_RECORD=1` writes what containerd made of the corpus to `tests/corpus/unpack.txt`.

mod healthy;
mod remap;
mod stacks;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use holdfast_core::digest::{ChainId, Digest};
use holdfast_core::layer::Snapshotter;
use holdfast_tests::containerd::Containerd;
use holdfast_tests::image::{BUSYBOX, Image, Layout};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::odd::{self, Case};
use holdfast_tests::unpacked::{self, Listing, Refused};
use holdfast_tests::{command, debian};

const SNAPSHOTTERS: [Snapshotter; 2] = [Snapshotter::Overlayfs, Snapshotter::Native];

/// One image that is tried.
#[derive(Clone, Debug)]
struct Tried {
    name: String,
    layers: Vec<Layer>,
    may_be_unknown: bool,
}

/// What became of it on one snapshotter.
#[derive(Debug)]
struct Result {
    verdict: String,
    faults: Vec<String>,
    is_refused: bool,
}

impl Tried {
    fn new(name: &str, layers: impl IntoIterator<Item = Layer>) -> Self {
        Self {
            name: name.to_owned(),
            layers: layers.into_iter().collect(),
            may_be_unknown: false,
        }
    }
}

impl From<Case> for Tried {
    fn from(case: Case) -> Self {
        Self {
            name: case.name.to_owned(),
            layers: case.layers,
            may_be_unknown: case.may_be_unknown,
        }
    }
}

/// A containerd, and what it has unpacked so far.
#[derive(Debug)]
struct Unpacker {
    containerd: Containerd,
    /// By snapshotter and chain: the directory, and what was in it at once.
    unpacked: HashMap<(Snapshotter, ChainId), (PathBuf, Listing)>,
}

impl Unpacker {
    async fn start() -> Self {
        Self {
            containerd: Containerd::start().await,
            unpacked: HashMap::new(),
        }
    }

    /// Unpacks images, and compares.
    fn tried(&mut self, images: &[Tried]) -> Vec<Result> {
        let mut layout = Layout::new();
        let beginnings = |tried| add_beginnings(&mut layout, tried);
        let manifests: Vec<Vec<Digest>> = images.iter().map(beginnings).collect();
        self.containerd.ctr().import_packed(&layout);
        let mut results = Vec::new();
        for snapshotter in SNAPSHOTTERS {
            for (tried, manifests) in images.iter().zip(&manifests) {
                let (disk, failure) = self.on_disk(snapshotter, tried, manifests);
                results.push(compared(snapshotter, tried, &disk, failure.as_deref()));
            }
        }
        results
    }

    /// Unpacks as many layers as containerd does: what is on the disk, lowest first, and why it refused the
    /// next one.
    fn on_disk(
        &mut self,
        snapshotter: Snapshotter,
        tried: &Tried,
        manifests: &[Digest],
    ) -> (Vec<Listing>, Option<String>) {
        let mut listings = Vec::new();
        for (chain, manifest) in unpacked::chain_ids(&tried.layers)
            .into_iter()
            .zip(manifests)
        {
            if let Some((_, listing)) = self.unpacked.get(&(snapshotter, chain)) {
                listings.push(listing.clone());
                continue;
            }
            let ctr = self.containerd.ctr();
            if let Err(failure) = ctr.unpack(snapshotter, *manifest) {
                return (listings, Some(failure.output));
            }
            let directory = ctr.directory(snapshotter, chain);
            let listing = unpacked::of_directory(&directory);
            listings.push(listing.clone());
            self.unpacked
                .insert((snapshotter, chain), (directory, listing));
        }
        (listings, None)
    }

    /// What differs from what was there when it was unpacked: no layer may reach into another.
    fn changed_since(&self) -> Vec<String> {
        let changed = |(directory, listing): &(PathBuf, Listing)| {
            unpacked::differences(&unpacked::of_directory(directory), listing)
        };
        self.unpacked.values().flat_map(changed).collect()
    }
}

/// Adds an image, and one of each of its beginnings, shortest first: containerd keeps of an image only what
/// it unpacked to the end.
fn add_beginnings(layout: &mut Layout, tried: &Tried) -> Vec<Digest> {
    let lengths = 1..=tried.layers.len();
    lengths
        .map(|length| {
            let name = format!("holdfast.invalid/{}:{length}", tried.name.to_lowercase());
            let layers = tried.layers.iter().take(length).cloned();
            layout.add(&Image::new(layers), &name).manifest
        })
        .collect()
}

/// Compares what is on the disk with what is expected there.
fn compared(
    snapshotter: Snapshotter,
    tried: &Tried,
    disk: &[Listing],
    failure: Option<&str>,
) -> Result {
    assert!(
        !failure.is_some_and(|text| text.contains("manifest not found")),
        "{failure:?}"
    );
    let (trees, refused) = unpacked::expected(snapshotter, &tried.layers);
    let mut faults = Vec::new();
    for (index, (disk, tree)) in disk.iter().zip(&trees).enumerate() {
        let differences = unpacked::differences(disk, &unpacked::of_tree(tree));
        faults.extend(
            differences
                .iter()
                .map(|line| format!("layer {index}: {line}")),
        );
    }
    let is_unknown = tried.may_be_unknown && refused.as_ref().is_some_and(Refused::is_unknown);
    if trees.len() != disk.len() && !(is_unknown && trees.len() < disk.len()) {
        let why = refused
            .as_ref()
            .map_or("nothing".to_owned(), Refused::to_string);
        faults.push(format!(
            "containerd unpacked {} of {} layers (refusal: {}), expected were {} (refusal: {why})",
            disk.len(),
            tried.layers.len(),
            failure.unwrap_or("none").trim(),
            trees.len(),
        ));
    }
    Result {
        verdict: unpacked::verdict(snapshotter, &tried.name, &tried.layers, disk),
        faults: faults
            .into_iter()
            .map(|fault| format!("{snapshotter:?} {}: {fault}", tried.name))
            .collect(),
        is_refused: failure.is_some(),
    }
}

#[track_caller]
fn assert_alike(results: &[Result]) {
    let faults: Vec<_> = results.iter().flat_map(|result| &result.faults).collect();
    let shown: Vec<_> = faults.iter().take(60).map(|fault| fault.as_str()).collect();
    assert!(
        faults.is_empty(),
        "{} faults\n{}",
        faults.len(),
        shown.join("\n")
    );
}

#[tokio::test]
async fn every_odd_image_is_unpacked_or_refused_as_expected() {
    let mut unpacker = Unpacker::start().await;
    let cases: Vec<Tried> = odd::cases().into_iter().map(Tried::from).collect();

    let results = unpacker.tried(&cases);

    assert_alike(&results);
    assert!(results.iter().any(|result| result.is_refused));
    let verdicts: Vec<&str> = results.iter().map(|it| it.verdict.as_str()).collect();
    let verdicts = verdicts.join("\n") + "\n";
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/unpack.txt");
    if std::env::var_os("HOLDFAST_RECORD").is_some() {
        std::fs::write(&record, &verdicts).unwrap();
    }
    assert_eq!(unpacker.changed_since(), Vec::<String>::new());
    // What is replayed without containerd is what containerd did.
    assert_eq!(verdicts, std::fs::read_to_string(&record).unwrap());
}

#[tokio::test]
async fn a_whole_debian_is_unpacked_as_expected() {
    let mut unpacker = Unpacker::start().await;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    // A minimal root, and what this machine, a Debian too, has installed beside it.
    let more = gnu_tar(Path::new("/usr/include"), folder.path(), &["--format=gnu"]);
    let changes = Layer::new([Entry::whiteout("usr/share"), Entry::opaque("var/lib/dpkg")]);
    let debian = Tried::new("debian", [debian::layer(), more, changes]);

    let results = unpacker.tried(std::slice::from_ref(&debian));

    assert_alike(&results);
    let (trees, _) = unpacked::expected(Snapshotter::Native, &debian.layers);
    assert!(
        trees[1].entries() > 10_000,
        "{} entries",
        trees[1].entries()
    );
}

#[tokio::test]
async fn archives_of_gnu_tar_are_unpacked_as_expected() {
    let mut unpacker = Unpacker::start().await;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let tree = folder.path().join("tree");
    gnu_tree(&tree);
    let formats: [&[&str]; 6] = [
        &["--format=v7"],
        &["--format=ustar"],
        &["--format=oldgnu"],
        &["--format=gnu", "--numeric-owner"],
        &[
            "--format=posix",
            "--sparse",
            "--hole-detection=raw",
            "--sparse-version=0.0",
            "--xattrs",
        ],
        &[
            "--format=posix",
            "--sparse",
            "--hole-detection=raw",
            "--sparse-version=1.0",
            "--xattrs",
        ],
    ];
    let images: Vec<_> = formats
        .iter()
        .enumerate()
        .map(|(index, options)| {
            let layer = gnu_tar(&tree, folder.path(), options);
            Tried::new(&format!("gnu-{index}"), [BUSYBOX.clone(), layer])
        })
        .collect();
    let sparse = gnu_tar(
        &tree,
        folder.path(),
        &["--format=gnu", "--sparse", "--hole-detection=raw"],
    );

    let results = unpacker.tried(&images);
    let refused = unpacker.tried(&[Tried::new("gnu-sparse", [sparse])]);

    assert_alike(&results);
    assert!(results.iter().all(|result| !result.is_refused));
    // The sparse form of GNU's own format is one that containerd does not know.
    assert_alike(&refused);
    assert!(refused.iter().all(|result| result.is_refused));
}

/// Files with holes, long names, links and attributes.
fn gnu_tree(folder: &Path) {
    use std::os::unix::fs::FileExt as _;
    std::fs::create_dir(folder).unwrap();
    let hole = std::fs::File::create(folder.join("holes")).unwrap();
    hole.set_len(3 << 20).unwrap();
    for at in 0..20 {
        hole.write_all_at(b"data", at * (100 << 10)).unwrap();
    }
    let empty = std::fs::File::create(folder.join("only-a-hole")).unwrap();
    empty.set_len(1 << 20).unwrap();
    std::fs::create_dir(folder.join("d")).unwrap();
    std::fs::hard_link(folder.join("holes"), folder.join("d/hard")).unwrap();
    std::os::unix::fs::symlink("../holes", folder.join("d/soft")).unwrap();
    rustix::fs::setxattr(
        folder.join("d"),
        "user.note",
        b"a\nb",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
}

/// What GNU tar makes of a directory.
fn gnu_tar(directory: &Path, folder: &Path, options: &[&str]) -> Layer {
    let archive = folder.join("layer.tar");
    let (at, to) = (directory.to_str().unwrap(), archive.to_str().unwrap());
    let arguments = [&["-C", at, "--sort=name"], options, &["-cf", to, "."]];
    command::must("tar", &arguments.concat());
    Layer::from_tar(std::fs::read(&archive).unwrap())
}
