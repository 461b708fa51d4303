//! The HTTP API and the metrics, as people and Prometheus see them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use holdfast_core::finding::Severity;
use serde_json::Value;
use support::{
    Site, batch, beat, connect, container_record, container_status, finding, finding_record, submit,
};

#[tokio::test]
async fn a_list_read_to_its_end_gives_each_entry_once_while_it_grows() {
    const COUNT: u64 = 1200;
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let numbers: Vec<u64> = (1..=COUNT).collect();
    for chunk in numbers.chunks(500) {
        let records = chunk
            .iter()
            .map(|number| finding_record(*number, &finding("n-1", "c", &number.to_string())));
        submit(&mut agent, batch(7, records.collect())).await;
    }

    let mut seen = Vec::new();
    let mut cursor = String::new();
    let mut next = COUNT + 1;
    loop {
        let query = format!("/api/v1/findings?state=all&limit=77{cursor}");
        let (status, page) = running.get(&query).await;
        assert_eq!(status, 200, "{page}");
        for finding in page["findings"].as_array().unwrap() {
            seen.push(finding["subject"].as_str().unwrap().to_owned());
        }
        let Some(text) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={text}");
        let late = finding_record(next, &finding("n-1", "c", &format!("late-{next}")));
        submit(&mut agent, batch(7, vec![late])).await;
        next += 1;
    }

    let due: BTreeSet<String> = numbers.iter().map(|number| format!("/{number}")).collect();
    assert_eq!(seen.len(), due.len());
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), due);
    running.stop().await;
}

#[tokio::test]
async fn filters_select_by_state_severity_kind_and_workload() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let (a, mut b) = (finding("n-1", "c", "a"), finding("n-1", "c", "b"));
    b.severity = Severity::Critical;
    let gone = finding("n-1", "c", "gone");
    let records = vec![
        finding_record(1, &a),
        finding_record(2, &b),
        finding_record(3, &gone),
        finding_record(4, &support::resolved(gone)),
    ];
    submit(&mut agent, batch(7, records)).await;

    let count = async |query: &str| running.findings(query).await.len();
    assert_eq!(count("").await, 2, "open ones, unless asked otherwise");
    assert_eq!(count("state=resolved").await, 1);
    assert_eq!(count("state=all").await, 3);
    assert_eq!(count("severity=critical").await, 1);
    assert_eq!(count("severity=critical,warning").await, 2);
    assert_eq!(count("severity=info").await, 0);
    assert_eq!(count("kind=file-drift").await, 2);
    assert_eq!(count("kind=tag-moved").await, 0);
    assert_eq!(count("workload=default:registry.example/shop/api").await, 2);
    assert_eq!(count("workload=default").await, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_wrong_request_is_answered_with_the_reason_as_json() {
    let site = Site::new();
    let running = site.start("").await;
    for (path, due) in [
        ("/api/v1/findings?limit=501", 400),
        ("/api/v1/findings?limit=x", 400),
        ("/api/v1/findings?severity=high", 400),
        ("/api/v1/findings?kind=x", 400),
        ("/api/v1/findings?state=closed", 400),
        ("/api/v1/findings?sevrity=info", 400),
        ("/api/v1/findings?cursor=zz", 400),
        ("/api/v1/findings/xyz", 400),
        ("/api/v1/findings/00000000000000000000000000000000", 404),
        ("/api/v1/containers?cursor=00", 400),
        ("/api/v1/nodes?cursor=%27", 400),
        ("/api/v1/nothing", 404),
    ] {
        let (status, answer) = running.get(path).await;
        assert_eq!(status, due, "{path}: {answer}");
        assert!(!answer["error"].as_str().unwrap().is_empty(), "{path}");
    }
    let client = reqwest::Client::new();
    let posted = client
        .post(format!("http://{}/api/v1/findings", running.api))
        .send()
        .await;
    assert_eq!(posted.unwrap().status().as_u16(), 405);
    running.stop().await;
}

#[tokio::test]
async fn containers_and_nodes_are_paged_in_order() {
    let site = Site::new();
    let running = site.start("").await;
    for node in ["n-2", "n-1", "n-3"] {
        let mut agent = connect(running.grpc, site.node(node)).await.unwrap();
        agent.beat(beat(7)).await.unwrap();
        let records = ["b", "a"]
            .iter()
            .zip(1..)
            .map(|(id, sequence)| container_record(sequence, &container_status(node, id)));
        submit(&mut agent, batch(7, records.collect())).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let (_, page) = running
            .get(&format!("/api/v1/containers?limit=4{cursor}"))
            .await;
        for container in page["containers"].as_array().unwrap() {
            assert_eq!(container["status"]["schema"], "holdfast.container/v1");
            seen.push(format!("{}/{}", container["node"], container["id"]).replace('"', ""));
        }
        let Some(text) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={text}");
    }
    assert_eq!(seen, ["n-1/a", "n-1/b", "n-2/a", "n-2/b", "n-3/a", "n-3/b"]);

    let (_, first) = running.get("/api/v1/nodes?limit=2").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, second) = running
        .get(&format!("/api/v1/nodes?limit=2&cursor={cursor}"))
        .await;
    assert_eq!(second["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(second["nodes"][0]["node"], "n-3");
    assert!(second["next_cursor"].is_null());
    running.stop().await;
}

/// The names of an answer's own members, those of lists' entries included; documents of nodes have their own
/// descriptions.
fn members(answer: &Value, found: &mut BTreeSet<String>) {
    match answer {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                if !["finding", "image", "container"].contains(&name.as_str()) {
                    members(value, found);
                }
            }
        }
        Value::Array(list) => list.iter().for_each(|entry| members(entry, found)),
        _ => {}
    }
}

#[tokio::test]
async fn every_member_of_an_answer_is_described() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    agent.beat(beat(7)).await.unwrap();
    let finding = finding("n-1", "c", "a");
    let records = vec![
        finding_record(1, &finding),
        container_record(2, &container_status("n-1", "c")),
    ];
    submit(&mut agent, batch(7, records)).await;

    let mut found = BTreeSet::new();
    let one = format!("/api/v1/findings/{}", finding.fingerprint);
    for path in [
        "/api/v1/findings",
        &one,
        "/api/v1/nodes",
        "/api/v1/containers",
        "/api/v1/nothing",
    ] {
        members(&running.get(path).await.1, &mut found);
    }

    for member in ["places_open", "transitions", "not_ready", "checks", "error"] {
        assert!(found.contains(member), "{member} in {found:?}");
    }
    let described = include_str!("../../docs/api.md");
    let is_described = |member: &&String| {
        described.contains(&format!("`{member}`")) || described.contains(&format!("\"{member}\""))
    };
    let missing: Vec<&String> = found.iter().filter(|it| !is_described(it)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    running.stop().await;
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_the_metrics() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    submit(
        &mut agent,
        batch(7, vec![finding_record(1, &finding("n-1", "c", "a"))]),
    )
    .await;
    let metrics = running.text("/metrics").await;

    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(metrics.as_bytes())
        .unwrap();
    let said = promtool.wait_with_output().unwrap();

    let text = String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr);
    assert!(
        said.status.success() && text.is_empty(),
        "{text}\n{metrics}"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_started_collector_is_alive_and_ready() {
    let site = Site::new();
    let running = site.start("").await;
    assert_eq!(running.text("/livez").await, "ok\n");
    assert_eq!(running.text("/readyz").await, "ok\n");
    running.stop().await;
}
