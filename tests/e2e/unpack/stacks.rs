//! Stacks of layers that nobody thought of: few names, every type, so that everything meets everything.

use holdfast_tests::layer::{Entry, Layer};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{Tried, Unpacker};

/// Stacks of an ordinary run.
const STACKS: u64 = 30;

const SEED: u64 = 1;

/// Images imported at a time.
const BATCH: usize = 50;

/// Tries to make a stack that failed smaller.
const SIMPLER: u32 = 100;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

fn path() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        30 => prop::sample::select(vec!["a", "b", "c", "d"]),
        1 => prop::sample::select(vec![".wh.a", ".wh.b", ".wh..wh..opq", ".wh..wh.c", "..", "."]),
    ];
    let before = prop::sample::select(vec!["", "", "", "", "./", "/", "../", "a/../", "c/./"]);
    let after = prop::sample::select(vec!["", "", "", "", "/"]);
    (before, prop::collection::vec(name, 1..4), after)
        .prop_map(|(before, names, after)| format!("{before}{}{after}", names.join("/")))
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => path(),
        1 => prop::sample::select(vec!["..", "../..", "/", ".", "a", "../b", "/c/d"]).prop_map(str::to_owned),
    ]
}

fn node() -> impl Strategy<Value = Entry> {
    let hidden = |path: String| Entry::whiteout(path.trim_end_matches('/'));
    let opaque = |path: String| Entry::opaque(path.trim_end_matches('/'));
    let other = |flag| move |path: String| Entry::of_type(flag, path);
    prop_oneof![
        6 => (path(), "[a-c]{0,2}").prop_map(|(path, content)| Entry::file(path, content)),
        6 => path().prop_map(Entry::directory),
        4 => (path(), target()).prop_map(|(path, to)| Entry::symlink(path, to)),
        3 => (path(), path()).prop_map(|(path, to)| Entry::hardlink(path, to)),
        1 => path().prop_map(Entry::fifo),
        1 => (path(), 0_u32..2).prop_map(|(path, minor)| Entry::char_device(path, 0, minor)),
        1 => path().prop_map(|path| Entry::block_device(path, 7, 1)),
        3 => path().prop_map(hidden),
        2 => path().prop_map(opaque),
        1 => path().prop_map(other(b'g')),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let mode = prop::sample::select(vec![0o644, 0o755, 0o700, 0o2755, 0o4711, 0o1777, 0o7000]);
    let owner = prop::sample::select(vec![(0, 0), (0, 0), (1, 2), (1000, 1000), (0, 50)]);
    let xattr = prop::sample::select(vec!["", "", "", "user.x", "security.y", "trusted.z"]);
    (node(), mode, owner, xattr).prop_map(|(entry, mode, (uid, gid), xattr)| {
        let entry = entry.mode(mode).owner(uid, gid);
        match xattr {
            "" => entry,
            name => entry.xattr(name, "v"),
        }
    })
}

fn stack() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    prop::collection::vec(prop::collection::vec(entry(), 1..7), 1..5)
}

/// Leaving out what depends on the node's own files is allowed, and nothing else.
fn image(name: &str, layers: &[Vec<Entry>]) -> Tried {
    let layers = layers.iter().cloned().map(Layer::new);
    Tried {
        may_be_unknown: true,
        ..Tried::new(name, layers)
    }
}

#[tokio::test]
async fn generated_stacks_are_unpacked_or_refused_as_expected() {
    let count = number("HOLDFAST_UNPACK_STACKS", STACKS);
    let seed = number("HOLDFAST_UNPACK_SEED", SEED);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut stacks: Vec<_> = (0..count)
        .map(|_| stack().new_tree(&mut runner).unwrap())
        .collect();
    let (mut taken, mut refused) = (0, 0);
    // A containerd a batch: a thousand snapshots make its answers slow.
    for batch in stacks.chunks_mut(BATCH) {
        let mut unpacker = Unpacker::start().await;
        let images: Vec<_> = batch
            .iter()
            .enumerate()
            .map(|(index, stack)| image(&format!("stack-{index}"), &stack.current()))
            .collect();
        let results = unpacker.tried(&images);
        for result in &results {
            refused += u64::from(result.is_refused);
            taken += u64::from(!result.is_refused);
        }
        if let Some(index) = results.iter().position(|result| !result.faults.is_empty()) {
            let stack = &mut batch[index % images.len()];
            let faults = simplest(stack, |layers, name| faults_of(&mut unpacker, layers, name));
            panic!("seed {seed}: {:#?}\n{}", stack.current(), faults.join("\n"));
        }
    }
    // Otherwise it has not tried what it is there for.
    assert!(
        taken * 5 > count && refused * 5 > count,
        "{taken} unpacked, {refused} refused"
    );
}

fn faults_of(unpacker: &mut Unpacker, layers: &[Vec<Entry>], name: &str) -> Vec<String> {
    let results = unpacker.tried(&[image(name, layers)]);
    results.into_iter().flat_map(|it| it.faults).collect()
}

/// Makes a stack smaller as long as it still fails; gives what is wrong with the smallest.
fn simplest<T>(
    tree: &mut T,
    mut faults_of: impl FnMut(&[Vec<Entry>], &str) -> Vec<String>,
) -> Vec<String>
where
    T: proptest::strategy::ValueTree<Value = Vec<Vec<Entry>>>,
{
    let mut faults = Vec::new();
    for attempt in 0..SIMPLER {
        let found = faults_of(&tree.current(), &format!("simpler-{attempt}"));
        let goes_on = if found.is_empty() {
            tree.complicate()
        } else {
            tree.simplify()
        };
        if !found.is_empty() {
            faults = found;
        }
        if !goes_on {
            break;
        }
    }
    faults
}
