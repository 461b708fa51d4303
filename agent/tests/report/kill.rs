//! A process that records and is killed with -9 while it does: what it had been answered is there,
//! exactly once, and places and records agree.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Numbers, at, findings, key, named, open, reports};

/// A kill test proves little with a few kills; scripts/test nightly has the long one with all parts.
const ROUNDS: u64 = 25;

const CONTAINERS: [&str; 3] = ["a", "b", "c"];

const DIRECTORY: &str = "HOLDFAST_TEST_DIRECTORY";
const FIRST: &str = "HOLDFAST_TEST_FIRST";

/// Runs only as the child of the test below; by itself it has nothing to do.
#[tokio::test]
#[ignore = "started by the test that kills it"]
async fn a_child_that_records_until_it_is_killed() {
    let (Some(directory), Some(first)) = (std::env::var_os(DIRECTORY), std::env::var_os(FIRST))
    else {
        return;
    };
    holdfast_daemon::fail_point::arm();
    let open = open(&PathBuf::from(directory));
    let first: u64 = first.to_str().unwrap().parse().unwrap();
    let mut answers = std::io::stdout();
    for number in first.. {
        let id = CONTAINERS[usize::try_from(number % 3).unwrap()];
        let (look, about) = crate::support::one_more(id, number);
        // Several at once, so that a kill meets a group of them in one transaction.
        let also = crate::support::one_more("d", number);
        let (one, two) = tokio::join!(
            open.ledger.record_look(about, look, at(0)),
            open.ledger.record_look(also.1, also.0, at(0))
        );
        assert_eq!((one.unwrap().len(), two.unwrap().len()), (1, 1));
        writeln!(answers, "recorded {number}").unwrap();
    }
}

fn child(directory: &TempDir, first: u64) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("kill::a_child_that_records_until_it_is_killed")
        .env(DIRECTORY, directory.path())
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped());
    child
}

/// Lets a child record from `first` on, kills it after `count` answers, and gives the last one.
fn record_and_kill(directory: &TempDir, first: u64, count: u64) -> u64 {
    let mut child = child(directory, first).spawn().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("recorded ")?.parse::<u64>().ok());
    let seen = answers.nth(usize::try_from(count).unwrap()).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it wrote between our reading and its end.
    answers.last().unwrap_or(seen)
}

#[tokio::test]
async fn every_answered_look_is_there_exactly_once_after_kill_9() {
    let directory = TempDir::new().unwrap();
    let mut numbers = Numbers::new(1);
    let mut next = 0;
    for round in 0..ROUNDS {
        let answered = record_and_kill(&directory, next, numbers.below(40));

        let open = open(directory.path());
        let waiting = open.waiting().await;
        let found = findings(&waiting);
        let subjects: Vec<(String, String)> = found
            .iter()
            .map(|finding| {
                let id = finding.container.as_ref().unwrap().id.clone();
                (id, finding.subject.as_str().to_owned())
            })
            .collect();
        let unique: BTreeSet<_> = subjects.iter().cloned().collect();
        assert_eq!(unique.len(), subjects.len(), "round {round}: one is double");
        let due = (0..=answered).flat_map(pair);
        let lost: Vec<_> = due.filter(|due| !unique.contains(due)).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?} are lost");
        // Beside them at most the looks that were under way.
        let under_way = subjects.len() - 2 * usize::try_from(answered + 1).unwrap();
        assert!(under_way <= 2, "round {round}: {under_way} unanswered");

        let running = CONTAINERS.iter().chain(&["d"]).map(|id| key(id)).collect();
        open.ledger.full_report(running, at(1)).await.unwrap();
        let report = reports(&open.waiting().await).pop().unwrap();
        assert_eq!(
            named(&report),
            found.len(),
            "round {round}: places and records disagree"
        );
        open.close();
        // The half-done pair, if any, is done by the next child only where it is missing.
        next = answered + 1 + u64::from(under_way > 0);
        if under_way == 1 {
            complete(&directory, next - 1).await;
        }
    }
}

/// Container and subject of both looks of a number.
fn pair(number: u64) -> [(String, String); 2] {
    let id = CONTAINERS[usize::try_from(number % 3).unwrap()];
    [id, "d"].map(|id| (id.to_owned(), format!("n{number}")))
}

/// Records the look of a pair that the kill left out.
async fn complete(directory: &TempDir, number: u64) {
    let open = open(directory.path());
    for (id, _) in pair(number) {
        let (look, about) = crate::support::one_more(&id, number);
        open.ledger.record_look(about, look, at(0)).await.unwrap();
    }
    open.close();
}

/// The process ends itself at this point, as a kill would.
#[cfg(feature = "fail-points")]
async fn recorded_when_killed_at(point: &str) -> usize {
    let directory = TempDir::new().unwrap();
    let mut child = child(&directory, 0);
    let ended = child.env("HOLDFAST_FAIL_POINT", point).output().unwrap();
    assert!(!ended.status.success());
    assert!(!String::from_utf8_lossy(&ended.stdout).contains("recorded"));
    let open = open(directory.path());
    let recorded = findings(&open.waiting().await).len();
    let running = CONTAINERS.iter().chain(&["d"]).map(|id| key(id)).collect();
    open.ledger.full_report(running, at(1)).await.unwrap();
    let report = reports(&open.waiting().await).pop().unwrap();
    assert_eq!(named(&report), recorded);
    recorded
}

#[cfg(feature = "fail-points")]
#[tokio::test]
async fn a_kill_beside_the_commit_leaves_all_of_it_or_nothing() {
    assert_eq!(recorded_when_killed_at("ledger-before-commit").await, 0);
    let after = recorded_when_killed_at("ledger-after-commit").await;
    assert!(after == 1 || after == 2, "{after}");
}
