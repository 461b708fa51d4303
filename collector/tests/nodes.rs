//! Silence of a node, in real time with a short interval; and nodes that disagree on a table.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use holdfast_protocol::v1;
use holdfast_protocol::v1::relay_client::RelayClient;
use serde_json::Value;
use support::{
    Running, Site, batch, beat, connect, connect_channel, eventually, finding_record, full_record,
    resolved, submit, transitions,
};

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

/// Has a node say what its tables are.
async fn say(site: &Site, running: &Running, node: &str, tables: v1::Tables) {
    let channel = connect_channel(running.grpc, site.node(node))
        .await
        .unwrap();
    RelayClient::new(channel)
        .report_tables(tables)
        .await
        .unwrap();
}

fn report(layer: u8, digest: u8) -> v1::Tables {
    v1::Tables {
        version: 1,
        tables: vec![v1::Table {
            diff_id: vec![layer; 32],
            digest: vec![digest; 32],
        }],
    }
}

#[tokio::test]
async fn nodes_that_disagree_are_one_finding_that_outlives_a_restart_and_resolves_when_they_agree()
{
    let site = Site::new();
    let running = site.start("").await;
    for (name, digest) in [("n-1", 1), ("n-2", 1), ("evil", 2)] {
        say(&site, &running, name, report(9, digest)).await;
    }
    let open = async |running: &Running| running.findings("kind=agent-altered").await.pop();
    let found = eventually("it is a finding", async || open(&running).await).await;
    assert_eq!(found["severity"], "critical");
    assert_eq!(found["nodes"], serde_json::json!(["evil"]));
    running.stop().await;

    let running = site.start("").await;
    say(&site, &running, "n-1", report(9, 1)).await;
    let disagreements = "holdfast_collector_table_disagreements";
    eventually("it is known again", async || {
        (running.metric(disagreements).await == 1).then_some(())
    })
    .await;
    assert!(open(&running).await.is_some());
    say(&site, &running, "evil", report(9, 1)).await;
    eventually("it resolves", async || {
        open(&running).await.is_none().then_some(())
    })
    .await;
    let path = format!(
        "/api/v1/findings/{}",
        found["fingerprint"].as_str().unwrap()
    );
    let whole = running.get(&path).await.1;
    let counts = transitions(&whole);
    assert_eq!((counts["opened"], counts["resolved"]), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn no_agent_can_resolve_what_the_collector_says_of_it() {
    let site = Site::new();
    let running = site.start("").await;
    for (name, digest) in [("n-1", 1), ("n-2", 1), ("evil", 2)] {
        say(&site, &running, name, report(9, digest)).await;
    }
    let found = eventually("it is a finding", async || {
        running.findings("kind=agent-altered").await.pop()
    })
    .await;
    let path = format!(
        "/api/v1/findings/{}",
        found["fingerprint"].as_str().unwrap()
    );
    let document = running.get(&path).await.1["finding"].clone();
    let own: holdfast_core::finding::Finding = serde_json::from_value(document).unwrap();
    let mut agent = connect(running.grpc, site.node("evil")).await.unwrap();
    submit(
        &mut agent,
        batch(7, vec![finding_record(1, &resolved(own))]),
    )
    .await;
    let refused = "holdfast_collector_findings_refused_total{reason=\"own_kind\"}";
    assert_eq!(running.metric(refused).await, 1);
    assert_eq!(running.findings("kind=agent-altered").await.len(), 1);
    running.stop().await;
}
