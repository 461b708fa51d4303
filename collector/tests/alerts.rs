//! Alerts at a real Alertmanager, and at a server that refuses.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use holdfast_core::finding::Severity;
use serde_json::{Value, json};
use support::program::Program;
use support::{Site, batch, connect, eventually, finding, finding_record, resolved, submit};

/// A real Alertmanager on a free port; it ends with this value.
struct Alertmanager {
    _program: Program,
    address: SocketAddr,
}

impl Alertmanager {
    async fn start(folder: &Path) -> Self {
        let config = folder.join("alertmanager.yml");
        std::fs::write(
            &config,
            "route: {receiver: none}\nreceivers: [{name: none}]\n",
        )
        .unwrap();
        // A missing one (Debian package prometheus-alertmanager) fails the test.
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.path={}",
                folder.join("alertmanager").display()
            ))
            .args([
                "--web.listen-address=127.0.0.1:0",
                "--cluster.listen-address=",
            ]);
        let program = Program::start(&mut command, folder);
        let address = program
            .says(|line| {
                let (_, address) = line
                    .contains("Listening on")
                    .then(|| line.split_once("address="))??;
                address.trim().parse().ok()
            })
            .await;
        Self {
            _program: program,
            address,
        }
    }

    async fn alerts(&self) -> Vec<Value> {
        let (status, alerts) = support::get(self.address, "/api/v2/alerts").await;
        assert_eq!(status, 200);
        alerts.as_array().unwrap().clone()
    }
}

fn told(addresses: &[SocketAddr]) -> String {
    let urls: Vec<String> = addresses
        .iter()
        .map(|address| format!("http://{address}"))
        .collect();
    format!(
        "[alertmanager]\nurls = {urls:?}\nresend-seconds = 1\n[alertmanager.labels]\nteam = \"shop\"\n"
    )
}

#[tokio::test]
async fn an_alert_fires_is_sent_again_and_resolves_beside_a_dead_peer() {
    let site = Site::new();
    let alertmanager = Alertmanager::start(site.folder.path()).await;
    let dead = {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        closed.local_addr().unwrap()
    };
    let running = site.start(&told(&[dead, alertmanager.address])).await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let a = finding("n-1", "c", "usr/bin/evil");
    submit(&mut agent, batch(7, vec![finding_record(1, &a)])).await;

    let fired = eventually("the alert fires", async || {
        alertmanager.alerts().await.pop()
    })
    .await;
    assert_eq!(fired["labels"]["alertname"], "HoldfastFileDrift");
    assert_eq!(fired["labels"]["finding"], a.fingerprint.to_string());
    assert_eq!(fired["labels"]["team"], "shop");
    assert_eq!(
        fired["annotations"]["changes"],
        "added program /usr/bin/evil"
    );
    let path = "usr/bin/evil";
    assert!(
        !fired["labels"].to_string().contains(path),
        "a path is never a label"
    );

    eventually("it is sent again", async || {
        let again = alertmanager.alerts().await.pop()?;
        (again["endsAt"].as_str() > fired["endsAt"].as_str()).then_some(())
    })
    .await;

    submit(&mut agent, batch(7, vec![finding_record(2, &resolved(a))])).await;
    eventually("it resolves", async || {
        alertmanager.alerts().await.is_empty().then_some(())
    })
    .await;
    let dead = "holdfast_collector_deliveries_total{receiver=\"alertmanager\",outcome=\"failed\"}";
    assert!(running.metric(dead).await >= 1);
    running.stop().await;
}

#[tokio::test]
async fn a_higher_severity_replaces_the_alert_instead_of_adding_one() {
    let site = Site::new();
    let alertmanager = Alertmanager::start(site.folder.path()).await;
    // Sent again so seldom that only the explicit end can remove the old one in time.
    let config = told(&[alertmanager.address]).replace("seconds = 1", "seconds = 3600");
    let running = site.start(&config).await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let mut a = finding("n-1", "c", "a");
    submit(&mut agent, batch(7, vec![finding_record(1, &a)])).await;
    eventually("the alert fires", async || {
        alertmanager.alerts().await.pop()
    })
    .await;

    a.severity = Severity::Critical;
    submit(&mut agent, batch(7, vec![finding_record(2, &a)])).await;

    eventually("only the critical one is left", async || {
        let alerts = alertmanager.alerts().await;
        let severities: Vec<_> = alerts
            .iter()
            .map(|alert| &alert["labels"]["severity"])
            .collect();
        (severities == [&json!("critical")]).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn what_was_open_before_a_restart_is_sent_after_it() {
    let site = Site::new();
    let running = site.start("").await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    submit(
        &mut agent,
        batch(7, vec![finding_record(1, &finding("n-1", "c", "a"))]),
    )
    .await;
    running.stop().await;

    let alertmanager = Alertmanager::start(site.folder.path()).await;
    let running = site.start(&told(&[alertmanager.address])).await;
    eventually("the alert fires", async || {
        alertmanager.alerts().await.pop()
    })
    .await;
    running.stop().await;
}

/// Takes alerts, and refuses every request that holds one about `/bad`.
#[derive(Clone, Default)]
struct Picky {
    taken: Arc<Mutex<Vec<String>>>,
}

async fn picky(State(picky): State<Picky>, Json(alerts): Json<Vec<Value>>) -> StatusCode {
    let changes = alerts
        .iter()
        .map(|alert| alert["annotations"]["changes"].to_string());
    let changes: Vec<String> = changes.collect();
    if changes.iter().any(|changes| changes.contains("/bad")) {
        return StatusCode::BAD_REQUEST;
    }
    picky.taken.lock().unwrap().extend(changes);
    StatusCode::OK
}

#[tokio::test]
async fn one_alert_that_is_refused_does_not_hold_back_the_others() {
    let site = Site::new();
    let server = Picky::default();
    let routes = axum::Router::new()
        .route("/api/v2/alerts", post(picky))
        .with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { axum::serve(listener, routes).await.unwrap() });

    let running = site.start(&told(&[address])).await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let names: Vec<String> = (0..30)
        .map(|n| {
            if n == 17 {
                "bad".into()
            } else {
                format!("good-{n}")
            }
        })
        .collect();
    let records = names
        .iter()
        .zip(1..)
        .map(|(name, n)| finding_record(n, &finding("n-1", "c", name)));
    submit(&mut agent, batch(7, records.collect())).await;

    eventually("all others are taken", async || {
        let taken = server.taken.lock().unwrap().clone();
        let is_taken = |name: &String| {
            taken
                .iter()
                .any(|line| line.contains(&format!("/{name}\"")))
        };
        names
            .iter()
            .filter(|name| *name != "bad")
            .all(is_taken)
            .then_some(())
    })
    .await;
    let refused =
        "holdfast_collector_deliveries_total{receiver=\"alertmanager\",outcome=\"refused\"}";
    eventually("the bad one is counted", async || {
        (running.metric(refused).await >= 1).then_some(())
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn more_alerts_than_allowed_are_withheld_mildest_first_and_counted() {
    let site = Site::new();
    let alertmanager = Alertmanager::start(site.folder.path()).await;
    let config = told(&[alertmanager.address]).replace("resend", "max-alerts = 2\nresend");
    let running = site.start(&config).await;
    let mut agent = connect(running.grpc, site.node("n-1")).await.unwrap();
    let findings = ["a", "b", "c", "d"].map(|name| {
        let mut finding = finding("n-1", "c", name);
        if name == "d" {
            finding.severity = Severity::Critical;
        }
        finding
    });
    let records = findings
        .iter()
        .zip(1..)
        .map(|(finding, n)| finding_record(n, finding));
    submit(&mut agent, batch(7, records.collect())).await;

    let withheld = "holdfast_collector_alerts{severity=\"warning\",state=\"withheld\"}";
    eventually("two are withheld", async || {
        (running.metric(withheld).await == 2).then_some(())
    })
    .await;
    let alerts = alertmanager.alerts().await;
    assert_eq!(alerts.len(), 2);
    assert!(
        alerts
            .iter()
            .any(|alert| alert["labels"]["severity"] == "critical")
    );
    running.stop().await;
}
