//! The acceptance set: attacks and controls that others have written, each judged by their key.
//!
//! `HOLDFAST_ACCEPTANCE` names its folder. One attack missed or one false alarm fails. What needs no layer
//! blobs is run a second time, at the same time, on a node that has dropped every layer blob once it was
//! unpacked; there every verdict must stand on proofs. Run by `scripts/test acceptance`, which prints "not
//! present" where the variable is not set.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may panic, reads what it made itself, and shows the scorer's report"
)]

mod node;
mod set;

use node::{Blobs, Node, Scored};
use set::Set;

/// Everything that is due is reported, and nothing else.
const DUE: &[&str] = &[
    "001-022", "050-061", "100-111", "150-156", "200-208", "230-236", "250-265", "350-352",
];

/// The same without layer blobs: all but what alters or wants them.
const DUE_WITHOUT_BLOBS: &[&str] = &[
    "001-022", "050-061", "100-111", "150-156", "200-208", "232-236", "350-352",
];

/// Its container has ended when it is asked for, or has no image: there is nothing to prove.
const NOTHING_TO_PROVE: &[&str] = &["150", "234"];

#[tokio::test]
async fn what_is_due_is_reported_and_nothing_else() {
    let set = Set::copied();
    let with = Node::start(&set, Blobs::Kept).await;
    let without = Node::start(&set, Blobs::Removed).await;
    with.make_images();
    without.import_images();

    let (with, without) = std::thread::scope(|scope| {
        let without = scope.spawn(|| without.score(DUE_WITHOUT_BLOBS));
        (with.score(DUE), without.join().unwrap())
    });

    show("with layer blobs", DUE, &with);
    show("without layer blobs", DUE_WITHOUT_BLOBS, &without);
    let unproved = unproved(&without);
    println!("not proved by a skeleton: {unproved:#?}");
    assert!(
        with.is_right && without.is_right,
        "see the lines above: something was missed, or was a false alarm"
    );
    let skipped = [with.skipped, without.skipped].concat();
    assert!(skipped.is_empty(), "not done here: {skipped:#?}");
    assert!(unproved.is_empty(), "{unproved:#?}");
}

fn show(title: &str, ranges: &[&str], scored: &Scored) {
    println!("\nacceptance, {title}: {}", ranges.join(" "));
    println!("{}", scored.report);
    println!("not done here: {:#?}", scored.skipped);
}

/// Scripts of which a verdict about files stood on something else than a proof. Nothing may have been read
/// from a blob, and where there is something to prove it must have been proved.
fn unproved(scored: &Scored) -> Vec<String> {
    let is_wrong = |script: &str, bases: &[String]| {
        let is_due = !NOTHING_TO_PROVE.contains(&script);
        (is_due && bases.is_empty()) || bases.iter().any(|basis| basis != "reassembled")
    };
    let wrong = scored
        .bases
        .iter()
        .filter(|(script, bases)| is_wrong(script, bases));
    wrong
        .map(|(script, bases)| format!("{script}: {bases:?}"))
        .collect()
}
