//! The store of tables and trees: what is damaged is made again and never believed, what nobody uses leaves when
//! there is no room, and what many ask for at one time is made once.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use holdfast_agent::files::tables::{Asking, Counts, DEFAULT_BYTES, Layer, Tables, Unavailable};
use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::layer::{Entry, ExpectedTree, Snapshotter};
use holdfast_tests::layer::{self, Entry as Archived};
use tempfile::TempDir;

/// An image's layers with their blobs, and a store.
struct Node {
    folder: TempDir,
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl Node {
    fn new() -> Self {
        Self {
            // In memory: thousands of files are made durable here.
            folder: tempfile::tempdir_in("/dev/shm").unwrap(),
            blobs: Vec::new(),
        }
    }

    /// A layer over `below`.
    fn layer(&mut self, below: &[Layer], entries: impl IntoIterator<Item = Archived>) -> Layer {
        let made = layer::Layer::new(entries);
        let diff_id = DiffId(made.diff_id());
        let blob = Digest::of(made.blob());
        self.blobs.push((blob, made.blob().to_vec()));
        let chain_id = below.last().map_or(ChainId::bottom(diff_id), |below| {
            below.chain_id.push(diff_id)
        });
        Layer {
            diff_id,
            chain_id,
            blob,
            lower: None,
        }
    }

    fn tables(&self, max_bytes: u64) -> (Tables, Counts) {
        let counts = Counts::default();
        let tables = Tables::new(self.folder.path(), None).unwrap();
        (tables.within(max_bytes, counts.clone()), counts)
    }

    fn stack(
        &self,
        tables: &Tables,
        layers: &[Layer],
        snapshotter: Snapshotter,
    ) -> Result<Vec<Arc<ExpectedTree>>, Unavailable> {
        let open = |digest| {
            let blob = self.blobs.iter().find(|(blob, _)| *blob == digest);
            let Some((_, bytes)) = blob else {
                return Ok(None);
            };
            let mut file = tempfile::tempfile_in("/dev/shm")?;
            file.write_all(bytes)?;
            std::io::Seek::rewind(&mut file)?;
            Ok(Some(file))
        };
        let asking = Asking {
            open_blob: &open,
            is_over: &|| false,
        };
        tables.stack(snapshotter, layers, asking)
    }

    fn files(&self, folder: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path().join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let mut paths: Vec<PathBuf> = paths.filter(|path| !is_aside(path)).collect();
        paths.sort();
        paths
    }
}

fn is_aside(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "damaged")
}

fn entries(tree: &ExpectedTree) -> Vec<(Vec<u8>, Entry)> {
    tree.iter().map(|entry| entry.unwrap()).collect()
}

/// Numbers that look random and are the same each time.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *seed >> 17
}

fn small() -> [Archived; 3] {
    [
        Archived::program("bin/tool", "#!/bin/sh\n"),
        Archived::symlink("bin/sh", "tool"),
        Archived::file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
    ]
}

fn large(count: usize) -> impl Iterator<Item = Archived> {
    (0..count)
        .map(|number| Archived::file(format!("usr/share/app/{number:05}"), number.to_string()))
}

/// Damages a file in each of the given ways; each time the store gives the same tree and has the same file again.
fn assert_rebuilt(
    node: &Node,
    layer: &Layer,
    file: &Path,
    ways: impl Iterator<Item = (usize, u8)>,
) {
    let due = {
        let (tables, _) = node.tables(DEFAULT_BYTES);
        entries(
            &node
                .stack(&tables, std::slice::from_ref(layer), Snapshotter::Overlayfs)
                .unwrap()[0],
        )
    };
    let genuine = read(file);
    let [tree] = <[PathBuf; 1]>::try_from(node.files("trees")).unwrap();
    for (at, mask) in ways {
        let mut bytes = genuine.clone();
        bytes[at] ^= mask;
        // A tree needs its table only when it is made.
        drop(fs::remove_file(&tree));
        fs::write(file, bytes).unwrap();
        let (tables, counts) = node.tables(DEFAULT_BYTES);

        let found = node.stack(&tables, std::slice::from_ref(layer), Snapshotter::Overlayfs);

        assert_eq!(entries(&found.unwrap()[0]), due, "byte {at}");
        assert_eq!(counts.damaged.get(), 1, "byte {at}");
        assert_eq!(read(file), genuine, "byte {at}");
        let aside = format!("{}.damaged", file.display());
        fs::remove_file(aside).unwrap();
    }
}

fn read(path: &Path) -> Vec<u8> {
    holdfast_daemon::capped::read_file(path, 64 << 20).unwrap()
}

#[test]
fn every_byte_of_a_small_tree_or_table_counts() {
    let mut node = Node::new();
    let layer = node.layer(&[], small());
    let (tables, _) = node.tables(DEFAULT_BYTES);
    node.stack(
        &tables,
        std::slice::from_ref(&layer),
        Snapshotter::Overlayfs,
    )
    .unwrap();
    for folder in ["trees", "tables"] {
        let [file] = <[PathBuf; 1]>::try_from(node.files(folder)).unwrap();
        let length = read(&file).len();
        assert!(length > 200, "{length}");
        assert_rebuilt(&node, &layer, &file, (0..length).map(|at| (at, 0xFF)));
    }
}

#[test]
fn random_bits_of_a_large_tree_or_table_count() {
    let mut node = Node::new();
    let layer = node.layer(&[], large(2_000));
    let (tables, _) = node.tables(DEFAULT_BYTES);
    node.stack(
        &tables,
        std::slice::from_ref(&layer),
        Snapshotter::Overlayfs,
    )
    .unwrap();
    for folder in ["trees", "tables"] {
        let [file] = <[PathBuf; 1]>::try_from(node.files(folder)).unwrap();
        let (length, mut seed) = (read(&file).len(), 1);
        assert!(length > 50_000, "{length}");
        let ways = (0..25).map(|_| {
            let bit = usize::try_from(random(&mut seed)).unwrap() % (8 * length);
            (bit / 8, 1 << (bit % 8))
        });
        assert_rebuilt(&node, &layer, &file, ways.collect::<Vec<_>>().into_iter());
    }
}

#[test]
fn a_tree_that_rots_while_it_is_open_gives_no_wrong_answer_and_is_made_again() {
    let mut node = Node::new();
    let layer = node.layer(&[], large(500));
    let layers = std::slice::from_ref(&layer);
    let (tables, counts) = node.tables(DEFAULT_BYTES);
    let open = node.stack(&tables, layers, Snapshotter::Overlayfs).unwrap();
    let due = entries(&open[0]);
    let [file] = <[PathBuf; 1]>::try_from(node.files("trees")).unwrap();
    let mut bytes = read(&file);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // The same inode: what is open sees it.
    fs::write(&file, bytes).unwrap();
    assert!(open[0].iter().any(|entry| entry.is_err()));
    let wrong = due.iter().any(|(path, entry)| {
        open[0]
            .lookup(path)
            .is_ok_and(|found| found.as_ref() != Some(entry))
    });
    assert!(!wrong);

    tables.distrust(Snapshotter::Overlayfs, [layer.chain_id].into_iter());

    let again = node.stack(&tables, layers, Snapshotter::Overlayfs).unwrap();
    assert_eq!(entries(&again[0]), due);
    assert_eq!(counts.damaged.get(), 1);
}

#[test]
fn the_bytes_of_tables_and_trees_are_those_of_their_layers_alone() {
    let mut one = Node::new();
    let base = one.layer(&[], small());
    let above = one.layer(std::slice::from_ref(&base), large(20));
    let lowest = one.layer(&[], large(20));
    let other = Node {
        folder: tempfile::tempdir_in("/dev/shm").unwrap(),
        blobs: one.blobs.clone(),
    };
    let stacks = [vec![base, above], vec![lowest]];
    let written = |node: &Node, stacks: &[&Vec<Layer>]| {
        let (tables, _) = node.tables(DEFAULT_BYTES);
        for layers in stacks {
            for snapshotter in [Snapshotter::Overlayfs, Snapshotter::Native] {
                node.stack(&tables, layers, snapshotter).unwrap();
            }
        }
        let files = [node.files("tables"), node.files("trees")].concat();
        let named = files
            .iter()
            .map(|path| (path.file_name().unwrap().to_owned(), read(path)));
        named.collect::<Vec<_>>()
    };

    let first = written(&one, &[&stacks[0], &stacks[1]]);
    let second = written(&other, &[&stacks[1], &stacks[0]]);

    assert_eq!(first.len(), 2 + 6);
    assert_eq!(first, second);
}

#[test]
fn what_a_killed_agent_had_half_written_is_gone_after_the_next_start() {
    let node = Node::new();
    node.tables(DEFAULT_BYTES);
    let half = node.folder.path().join("trees/.tmpAbCdEf");
    fs::write(&half, "half a tree").unwrap();
    node.tables(DEFAULT_BYTES);
    assert!(!half.exists());
}

#[test]
fn what_many_ask_for_at_one_time_is_built_once() {
    let mut node = Node::new();
    let shared: Vec<Archived> = large(300).collect();
    // The same layer over different ones: another chain each time, and one table.
    let images: Vec<Vec<Layer>> = (0..6)
        .map(|number| {
            let base = node.layer(&[], [Archived::file("etc/number", number.to_string())]);
            let top = node.layer(std::slice::from_ref(&base), shared.clone());
            vec![base, top]
        })
        .collect();
    let (tables, counts) = node.tables(DEFAULT_BYTES);
    let asked = images.iter().flat_map(|layers| {
        [Snapshotter::Overlayfs, Snapshotter::Native].map(|snapshotter| (layers, snapshotter))
    });
    std::thread::scope(|scope| {
        let (node, tables) = (&node, &tables);
        for (layers, snapshotter) in asked.chain(vec![(&images[0], Snapshotter::Overlayfs); 4]) {
            scope.spawn(move || node.stack(tables, layers, snapshotter).unwrap());
        }
    });
    assert_eq!(counts.built.get(), 7);
}

/// Marks everything that a layer has in the store as used so many days ago, by a clock of 1970.
fn age(node: &Node, layer: &Layer, days: u64) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * (100 - days));
    let names = [layer.diff_id.0, layer.chain_id.0].map(|digest| digest.encoded().clone());
    for folder in ["tables", "trees"] {
        for path in node.files(folder) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if names.iter().any(|layer| name.starts_with(layer.as_str())) {
                File::open(path).unwrap().set_modified(then).unwrap();
            }
        }
    }
}

#[test]
fn the_least_recently_used_leave_and_what_is_in_use_stays() {
    let mut node = Node::new();
    let layers: Vec<Layer> = (0..4)
        .map(|number| {
            let own = Archived::file("etc/number", number.to_string());
            node.layer(&[], large(200).chain([own]))
        })
        .collect();
    let of = |tables: &Tables, layer: &Layer| {
        node.stack(tables, std::slice::from_ref(layer), Snapshotter::Overlayfs)
            .unwrap()
    };
    let (tables, counts) = node.tables(DEFAULT_BYTES);
    let held = of(&tables, &layers[0]);
    for layer in &layers[1..3] {
        of(&tables, layer);
    }
    let three = u64::try_from(counts.bytes.get()).unwrap();
    for (layer, days) in layers.iter().zip([3, 2, 1]) {
        age(&node, layer, days);
    }
    drop(held);
    // Room for three: the oldest is held, so the one after it leaves.
    let (tables, counts) = node.tables(three);
    let held = of(&tables, &layers[0]);
    age(&node, &layers[0], 3);

    of(&tables, &layers[3]);

    assert_eq!(counts.forgotten.get(), 1);
    let has = |layer: &Layer| {
        let name = format!("{}.table", layer.diff_id.0.encoded());
        node.folder.path().join("tables").join(name).exists()
    };
    assert_eq!(
        layers.iter().map(has).collect::<Vec<_>>(),
        [true, false, true, true]
    );
    assert!(u64::try_from(counts.bytes.get()).unwrap() <= three);

    // Room for nothing: what is held stays, and is said to be too much.
    let (tables, counts) = node.tables(1);
    let both = [of(&tables, &layers[0]), of(&tables, &layers[2])];
    let before = counts.forgotten.get();
    of(&tables, &layers[1]);
    assert!(counts.forgotten.get() > before);
    assert_eq!(
        layers.iter().map(has).collect::<Vec<_>>(),
        [true, true, true, false]
    );
    assert!(counts.bytes.get() > 1);
    drop((held, both));
}
