//! The corpus of odd and broken images without containerd: the product must still make of each what
//! containerd was recorded to make of it (`tests/e2e/unpack.rs` records, and holds the record to the truth).

#![expect(
    clippy::disallowed_methods,
    reason = "a test may panic, and reads the record"
)]

use std::collections::BTreeMap;
use std::path::Path;

use holdfast_core::layer::Snapshotter;
use holdfast_tests::odd;
use holdfast_tests::unpacked::{self, Refused};

#[test]
fn every_odd_image_is_as_containerd_was_recorded_to_unpack_it() {
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/unpack.txt");
    let record = std::fs::read_to_string(record).unwrap();
    // By snapshotter and name.
    let mut due: BTreeMap<String, &str> = record
        .lines()
        .map(|line| (line.split(' ').take(2).collect::<Vec<_>>().join(" "), line))
        .collect();
    let mut faults = Vec::new();
    for case in odd::cases() {
        for snapshotter in [Snapshotter::Overlayfs, Snapshotter::Native] {
            let (trees, refused) = unpacked::expected(snapshotter, &case.layers);
            let listings: Vec<_> = trees.iter().map(|tree| unpacked::of_tree(tree)).collect();
            let ours = unpacked::verdict(snapshotter, case.name, &case.layers, &listings);
            let key: Vec<_> = ours.split(' ').take(2).collect();
            let recorded = due.remove(&key.join(" ")).unwrap_or("not recorded");
            let is_unknown = refused.as_ref().is_some_and(Refused::is_unknown);
            if recorded != ours && !(case.may_be_unknown && is_unknown) {
                let why = refused.map_or_else(String::new, |refused| refused.to_string());
                faults.push(format!("recorded {recorded}\n    ours {ours} {why}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(due.is_empty(), "recorded and not in the corpus: {due:?}");
}
