//! What agents send, over real mutual TLS, and what the collector makes of it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use holdfast_core::finding::{Finding, Fingerprint, Severity, Transition};
use holdfast_protocol::v1;
use holdfast_protocol::v1::collector_client::CollectorClient;
use support::{
    Running, Site, batch, beat, connect, container_record, container_status, eventually, finding,
    finding_record, full_record, record, resolved, submit, transitions,
};
use tonic::Code;
use tonic::transport::Channel;

async fn one(running: &Running, fingerprint: Fingerprint) -> serde_json::Value {
    let (status, whole) = running
        .get(&format!("/api/v1/findings/{fingerprint}"))
        .await;
    assert_eq!(status, 200, "{whole}");
    whole
}

#[tokio::test]
async fn a_finding_over_two_places_is_open_until_the_last_is_resolved() {
    let site = Site::new();
    let running = site.start("").await;
    let mut one_agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let mut other_agent = connect(running.grpc, site.node("n-2")).await.unwrap();
    let (a, mut b) = (
        finding("n-1", "c-1", "usr/bin/evil"),
        finding("n-2", "c-2", "usr/bin/evil"),
    );
    b.severity = Severity::Critical;

    assert_eq!(
        submit(&mut one_agent, batch(7, vec![finding_record(1, &a)])).await,
        1
    );
    submit(&mut other_agent, batch(8, vec![finding_record(1, &b)])).await;
    let open = running.findings("state=open&severity=critical").await;
    assert_eq!(open.len(), 1);
    assert_eq!(open[0]["places_open"], 2);
    assert_eq!(open[0]["nodes"], serde_json::json!(["n-1", "n-2"]));

    submit(
        &mut other_agent,
        batch(8, vec![finding_record(2, &resolved(b))]),
    )
    .await;
    let open = running.findings("state=open").await;
    assert_eq!((open.len(), &open[0]["severity"]), (1, &"warning".into()));

    submit(
        &mut one_agent,
        batch(7, vec![finding_record(2, &resolved(a.clone()))]),
    )
    .await;
    assert_eq!(running.findings("state=open").await.len(), 0);
    let whole = one(&running, a.fingerprint).await;
    assert_eq!(
        (&whole["state"], &whole["reason"]),
        (&"resolved".into(), &"gone".into())
    );
    assert_eq!(
        whole["finding"]["detail"]["changes"][0]["path"],
        "/usr/bin/evil"
    );
    assert_eq!(whole["places"].as_array().unwrap().len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_repeated_batch_is_confirmed_and_stored_once() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let a = finding("n-1", "c", "a");
    let sent = batch(
        7,
        vec![
            finding_record(1, &a),
            finding_record(3, &resolved(a.clone())),
        ],
    );

    for _time in 0..3 {
        assert_eq!(submit(&mut agent, sent.clone()).await, 3);
    }

    let counts = transitions(&one(&running, a.fingerprint).await);
    assert_eq!(
        (counts["opened"], counts["resolved"], counts.len()),
        (1, 1, 2)
    );
    assert_eq!(
        running
            .metric("holdfast_collector_records_repeated_total")
            .await,
        4
    );
    running.stop().await;
}

#[tokio::test]
async fn a_repeat_is_known_after_a_restart_and_another_spool_is_no_repeat() {
    let site = Site::new();
    let (a, b) = (finding("n-1", "c", "a"), finding("n-1", "c", "b"));
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    submit(&mut agent, batch(7, vec![finding_record(1, &a)])).await;
    running.stop().await;

    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    submit(&mut agent, batch(7, vec![finding_record(1, &a)])).await;
    submit(&mut agent, batch(u64::MAX, vec![finding_record(1, &b)])).await;

    assert_eq!(
        transitions(&one(&running, a.fingerprint).await)["opened"],
        1
    );
    assert_eq!(running.findings("state=open").await.len(), 2);
    running.stop().await;
}

/// Twenty places of one finding, each sent twice.
async fn report_twenty(mut agent: CollectorClient<Channel>, node: String) {
    for sequence in 1..=20 {
        let finding = finding(&node, &format!("c-{sequence}"), "shared");
        let sent = batch(1, vec![finding_record(sequence, &finding)]);
        assert_eq!(submit(&mut agent, sent.clone()).await, sequence);
        assert_eq!(submit(&mut agent, sent).await, sequence);
    }
}

#[tokio::test]
async fn many_agents_at_once_are_each_stored_once() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agents = tokio::task::JoinSet::new();
    for number in 0..8 {
        let node = format!("n-{number}");
        let agent = connect(running.grpc, site.node(&node)).await.unwrap();
        agents.spawn(report_twenty(agent, node));
    }
    agents.join_all().await;

    let open = running.findings("state=open").await;
    assert_eq!((open.len(), &open[0]["places_open"]), (1, &160.into()));
    assert_eq!(
        running
            .metric("holdfast_collector_findings_received_total")
            .await,
        160
    );
    running.stop().await;
}

#[tokio::test]
async fn a_bad_record_is_counted_and_does_not_hold_up_its_spool() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let garbage = record(1, v1::record::Body::Finding(b"{\"schema\":".to_vec()));
    let others = finding_record(2, &finding("n-2", "c", "a"));
    let good = finding("n-1", "c", "b");
    let sent = batch(7, vec![garbage, others, finding_record(3, &good)]);

    assert_eq!(submit(&mut agent, sent).await, 3);

    let open = running.findings("state=all").await;
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(open[0]["fingerprint"], good.fingerprint.to_string());
    for reason in ["shape", "other_node"] {
        let name = format!("holdfast_collector_findings_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(running.metric(&name).await, 1);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_malformed_batch_and_one_that_is_too_large_are_refused_and_store_nothing() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let a = finding("n-1", "c", "a");
    let twice = batch(7, vec![finding_record(2, &a), finding_record(2, &a)]);
    assert_eq!(
        agent.submit(twice).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let own_epoch = batch(0, vec![finding_record(1, &a)]);
    assert_eq!(
        agent.submit(own_epoch).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let large = record(1, v1::record::Body::Finding(vec![b' '; 5 << 20]));
    assert_eq!(
        agent
            .submit(batch(7, vec![large]))
            .await
            .unwrap_err()
            .code(),
        Code::OutOfRange
    );

    assert_eq!(running.findings("state=all").await.len(), 0);
    assert_eq!(
        submit(&mut agent, batch(7, vec![finding_record(1, &a)])).await,
        1
    );
    running.stop().await;
}

#[tokio::test]
async fn a_full_report_resolves_what_it_does_not_name_and_ends_containers() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let mut other = connect(running.grpc, site.node("n-2")).await.unwrap();
    let (a, b) = (finding("n-1", "c-1", "a"), finding("n-1", "c-2", "b"));
    let elsewhere = finding("n-2", "c-2", "c");
    let sent = vec![
        finding_record(1, &a),
        finding_record(2, &b),
        container_record(3, &container_status("n-1", "c-1")),
        container_record(4, &container_status("n-1", "c-2")),
    ];
    submit(&mut agent, batch(7, sent)).await;
    submit(&mut other, batch(9, vec![finding_record(1, &elsewhere)])).await;

    submit(&mut agent, batch(7, vec![full_record(5, &[&a], &["c-1"])])).await;

    let mut open: Vec<String> = running
        .findings("state=open")
        .await
        .iter()
        .map(|finding| finding["subject"].as_str().unwrap().to_owned())
        .collect();
    open.sort();
    assert_eq!(open, ["/a", "/c"], "another node's stay");
    assert_eq!(one(&running, b.fingerprint).await["reason"], "not-reported");
    let (_, page) = running.get("/api/v1/containers?node=n-1").await;
    let is_running: Vec<bool> = page["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|container| container["running"].as_bool().unwrap())
        .collect();
    assert_eq!(is_running, [true, false]);
    running.stop().await;
}

#[tokio::test]
async fn a_part_of_a_report_resolves_on_its_own_containers_only() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let open = ["c-1", "c-2", "c-3"].map(|container| finding("n-1", container, container));
    let sent = open.iter().zip(1..);
    let sent = sent.map(|(finding, sequence)| finding_record(sequence, finding));
    submit(&mut agent, batch(7, sent.collect())).await;
    let id = |id: &str| v1::ContainerId {
        namespace: "default".to_owned(),
        id: id.to_owned(),
    };
    let nothing_on = |container| v1::OpenContainer {
        container: Some(id(container)),
        fingerprints: Vec::new(),
    };
    let part = |sequence, part| record(sequence, v1::record::Body::Full(part));
    let is_open =
        async |finding: &Finding| one(&running, finding.fingerprint).await["state"] == "open";

    let first = v1::FullReport {
        open: vec![nothing_on("c-1")],
        census: None,
    };
    submit(&mut agent, batch(7, vec![part(4, first)])).await;
    assert!(!is_open(&open[0]).await);
    assert!(is_open(&open[1]).await && is_open(&open[2]).await);

    // The part about c-2, which does not run, was lost; nobody knows c-3 any more.
    let last = v1::FullReport {
        open: Vec::new(),
        census: Some(v1::Census {
            running: vec![id("c-1")],
            known: vec![id("c-2")],
        }),
    };
    submit(&mut agent, batch(7, vec![part(5, last)])).await;
    assert!(is_open(&open[1]).await && !is_open(&open[2]).await);
    running.stop().await;
}

#[tokio::test]
async fn a_full_report_in_the_same_batch_sees_what_came_before_it() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let (a, b) = (finding("n-1", "c-1", "a"), finding("n-1", "c-1", "b"));
    let mut reopened = a.clone();
    reopened.transition = Transition::Reopened;
    let sent = vec![
        finding_record(1, &a),
        finding_record(2, &b),
        full_record(3, &[&b], &[]),
        finding_record(4, &reopened),
    ];
    submit(&mut agent, batch(7, sent)).await;

    assert_eq!(running.findings("state=open").await.len(), 2);
    assert_eq!(
        running
            .metric("holdfast_collector_unknown_places_total")
            .await,
        0
    );
    running.stop().await;
}

#[tokio::test]
async fn a_new_spool_is_asked_for_a_full_report_until_it_has_come() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    assert!(agent.beat(beat(7)).await.unwrap().into_inner().full_report);

    submit(&mut agent, batch(7, vec![full_record(1, &[], &[])])).await;
    assert!(!agent.beat(beat(7)).await.unwrap().into_inner().full_report);
    running.stop().await;

    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    assert!(
        !agent.beat(beat(7)).await.unwrap().into_inner().full_report,
        "it is known"
    );
    assert!(
        agent.beat(beat(8)).await.unwrap().into_inner().full_report,
        "a lost spool"
    );
    running.stop().await;
}

#[tokio::test]
async fn nodes_show_their_last_heartbeat_after_a_restart_too() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    agent.beat(beat(7)).await.unwrap();
    eventually("the node is written down", async || {
        let stored = running
            .metric("holdfast_collector_nodes{state=\"reporting\"}")
            .await;
        (stored >= 1).then_some(())
    })
    .await;
    running.stop().await;

    let running = site.start("").await;
    let (_, page) = running.get("/api/v1/nodes").await;
    assert_eq!(page["nodes"][0]["node"], "n-1");
    assert_eq!(page["nodes"][0]["state"], "reporting");
    assert_eq!(page["nodes"][0]["version"], "0.1.0");
    running.stop().await;
}
