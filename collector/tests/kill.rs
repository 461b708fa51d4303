//! The real program, ended in the middle of its work, and the proof that this test can fail.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod support;

use std::net::SocketAddr;
use std::process::Command;

use holdfast_collector::store::Store;
use holdfast_core::finding::Fingerprint;
use support::program::Program;
use support::{Site, batch, connect, finding, finding_record, get, resolved, submit, transitions};

/// A collector in a process of its own.
struct Process {
    program: Program,
    grpc: SocketAddr,
    api: SocketAddr,
}

impl Process {
    async fn start(site: &Site, fail_point: &str) -> Self {
        let config = site.folder.path().join("collector.toml");
        std::fs::write(&config, site.config_text("")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-collector"));
        command
            .args(["run", "--config"])
            .arg(&config)
            .env("HOLDFAST_FAIL_POINT", fail_point);
        let program = Program::start(&mut command, site.folder.path());
        let started = program
            .says(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                (line["message"] == "Collector started.").then_some(line)
            })
            .await;
        let address = |name: &str| started[name].as_str().unwrap().parse().unwrap();
        Self {
            grpc: address("grpc"),
            api: address("api"),
            program,
        }
    }

    fn died(mut self) {
        let status = self.program.wait();
        assert!(!status.success(), "{status}");
    }

    async fn history(&self, fingerprint: Fingerprint) -> (usize, usize) {
        let (status, whole) = get(self.api, &format!("/api/v1/findings/{fingerprint}")).await;
        if status == 404 {
            return (0, 0);
        }
        let counts = transitions(&whole);
        let count = |name: &str| counts.get(name).copied().unwrap_or(0);
        (count("opened"), count("resolved"))
    }
}

/// Sends a batch to a collector that dies at `fail_point`, and again to the next one.
async fn after_death_at(fail_point: &str, next: &str) -> (usize, usize) {
    let site = Site::new();
    let a = finding("n-1", "c", "a");
    let sent = batch(
        7,
        vec![
            finding_record(1, &a),
            finding_record(2, &resolved(a.clone())),
        ],
    );

    let process = Process::start(&site, fail_point).await;
    let mut agent = connect(process.grpc, site.node("n-1")).await.unwrap();
    assert!(agent.submit(sent.clone()).await.is_err(), "no confirmation");
    process.died();

    let process = Process::start(&site, next).await;
    let mut agent = connect(process.grpc, site.node("n-1")).await.unwrap();
    assert_eq!(submit(&mut agent, sent).await, 2);
    process.history(a.fingerprint).await
}

#[tokio::test]
async fn killed_between_commit_and_confirmation_it_stores_the_repeat_once() {
    assert_eq!(after_death_at("after-commit:1", "").await, (1, 1));
}

#[tokio::test]
async fn killed_before_the_commit_it_has_stored_nothing_and_takes_the_repeat() {
    assert_eq!(after_death_at("before-commit:1", "").await, (1, 1));
}

#[tokio::test]
async fn without_dedupe_the_same_kill_stores_the_repeat_twice() {
    assert_eq!(
        after_death_at("after-commit:1", "skip-dedupe").await,
        (2, 2)
    );
}

#[tokio::test]
async fn what_was_confirmed_is_there_after_a_kill() {
    let site = Site::new();
    let mut confirmed = Vec::new();
    for round in 1..=5 {
        let mut process = Process::start(&site, "").await;
        let mut agent = connect(process.grpc, site.node("n-1")).await.unwrap();
        for number in 1..=20 {
            let sequence = (round - 1) * 20 + number;
            let finding = finding("n-1", "c", &sequence.to_string());
            submit(
                &mut agent,
                batch(7, vec![finding_record(sequence, &finding)]),
            )
            .await;
            confirmed.push(finding.fingerprint);
        }
        process.program.kill();
        process.died();
    }
    let process = Process::start(&site, "").await;
    for fingerprint in confirmed {
        assert_eq!(process.history(fingerprint).await, (1, 0));
    }
    drop(process);
    assert!(
        Store::open(&site.store())
            .await
            .unwrap()
            .set_aside
            .is_none()
    );
}

#[tokio::test]
async fn a_terminated_collector_ends_in_order() {
    let site = Site::new();
    let mut process = Process::start(&site, "").await;
    let mut agent = connect(process.grpc, site.node("n-1")).await.unwrap();
    let a = finding("n-1", "c", "a");
    submit(&mut agent, batch(7, vec![finding_record(1, &a)])).await;

    process.program.terminate();

    let status = process.program.wait();
    assert!(status.success(), "{status}");
    let log = site.store().with_file_name("collector.db-wal");
    let left = std::fs::metadata(log).map_or(0, |log| log.len());
    assert_eq!(left, 0, "everything is in the database");
}

#[tokio::test]
async fn a_refused_configuration_ends_with_code_78_and_the_place() {
    let site = Site::new();
    let config = site.folder.path().join("collector.toml");
    std::fs::write(&config, site.config_text("[api2]\n")).unwrap();
    for arguments in [["run", "--config"], ["config", "check"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_holdfast-collector"))
            .args(arguments)
            .arg(&config)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(78));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("collector.toml:11:"), "{said}");
    }
}
