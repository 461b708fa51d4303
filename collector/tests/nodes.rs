//! Silence of a node, in real time with a short interval.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::Value;
use support::{Running, Site, batch, beat, connect, eventually, full_record, submit, transitions};

const SHORT: &str = "[nodes]\nsilent-after-seconds = 2\n";

async fn silent(running: &Running) -> Option<Value> {
    running.findings("state=open&kind=agent-silent").await.pop()
}

#[tokio::test]
async fn a_silent_node_is_a_finding_that_resolves_when_it_is_heard() {
    let site = Site::new();
    let running = site.start(SHORT).await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    agent.beat(beat(7)).await.unwrap();
    assert!(silent(&running).await.is_none());

    let finding = eventually("silence is a finding", async || silent(&running).await).await;
    assert_eq!(finding["severity"], "critical");
    assert_eq!(finding["subject"], "n-1");
    assert_eq!(finding["nodes"], serde_json::json!(["n-1"]));
    assert_eq!(
        running.get("/api/v1/nodes").await.1["nodes"][0]["state"],
        "silent"
    );

    eventually("the finding resolves", async || {
        agent.beat(beat(7)).await.unwrap();
        silent(&running).await.is_none().then_some(())
    })
    .await;
    let path = format!(
        "/api/v1/findings/{}",
        finding["fingerprint"].as_str().unwrap()
    );
    let counts = transitions(&running.get(&path).await.1);
    assert_eq!((counts["opened"], counts["resolved"]), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_full_report_does_not_resolve_what_the_collector_says_itself() {
    let site = Site::new();
    let running = site.start(SHORT).await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    agent.beat(beat(7)).await.unwrap();
    let finding = eventually("silence is a finding", async || silent(&running).await).await;

    submit(&mut agent, batch(7, vec![full_record(1, &[], &[])])).await;

    let path = format!(
        "/api/v1/findings/{}",
        finding["fingerprint"].as_str().unwrap()
    );
    let whole = eventually("it resolves because the node is heard", async || {
        agent.beat(beat(7)).await.unwrap();
        let whole = running.get(&path).await.1;
        (whole["state"] == "resolved").then_some(whole)
    })
    .await;
    assert_eq!(whole["reason"], "gone");
    running.stop().await;
}

#[tokio::test]
async fn a_silent_node_stays_one_finding_over_a_restart() {
    let site = Site::new();
    let running = site.start(SHORT).await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    agent.beat(beat(7)).await.unwrap();
    eventually("silence is a finding", async || silent(&running).await).await;
    running.stop().await;

    let running = site.start(SHORT).await;
    let finding = silent(&running).await.unwrap();
    let silent_nodes = "holdfast_collector_nodes{state=\"silent\"}";
    eventually("nodes are looked at", async || {
        (running.metric(silent_nodes).await > 0).then_some(())
    })
    .await;
    let path = format!(
        "/api/v1/findings/{}",
        finding["fingerprint"].as_str().unwrap()
    );
    assert_eq!(transitions(&running.get(&path).await.1)["opened"], 1);

    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    eventually("the finding resolves", async || {
        agent.beat(beat(7)).await.unwrap();
        silent(&running).await.is_none().then_some(())
    })
    .await;
    running.stop().await;
}
