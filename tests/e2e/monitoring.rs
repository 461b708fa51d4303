//! Dashboard and alert rules against the real programs: a real Prometheus scrapes a real agent and a real
//! collector while one container has drifted and another one was killed. Every query of the dashboard gives
//! numbers, every rule runs, and every metric that they name exists.
//!
//! No Grafana takes part: its variables are replaced as Grafana replaces them for "All".

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use holdfast_tests::agent::{Agent, SINK};
use holdfast_tests::alertmanager::Alertmanager;
use holdfast_tests::collector::{self, Collector};
use holdfast_tests::containerd::Containerd;
use holdfast_tests::dashboard::{self, dashboard, rules};
use holdfast_tests::image::{Image, Layout};
use holdfast_tests::prometheus::Prometheus;
use holdfast_tests::promql::selectors;
use holdfast_tests::{http, wait};
use serde_json::Value;
use tempfile::TempDir;

const IMAGE: &str = "holdfast.invalid/shop/api:1";

#[tokio::test]
async fn dashboard_and_rules_fit_the_real_programs() {
    let mut fleet = Fleet::start().await;
    let prometheus = fleet.drift_and_scrape().await;

    every_metric_exists(&prometheus).await;
    every_query_gives_numbers(&prometheus).await;
    every_rule_runs(&prometheus).await;
    let alerts = prometheus.query("ALERTS").await;
    assert!(
        alerts.is_empty(),
        "nothing is wrong with Holdfast: {alerts:?}"
    );

    fleet.agent.stop().await;
    prometheus
        .until("ALERTS{alertname=\"HoldfastDown\", job=\"holdfast-agent\"}")
        .await;
}

#[tokio::test]
async fn metrics_keep_to_the_conventions_of_prometheus() {
    let mut fleet = Fleet::start().await;
    for address in [fleet.agent.ready().await, fleet.collector.ready().await] {
        let (status, metrics) = http::get(address, "/metrics").await.unwrap();
        assert_eq!(status, 200);
        let complaints = promtool_check(&metrics);
        assert_eq!(complaints, None, "{address}");
    }
}

/// A node with its agent, a collector, and who is told.
struct Fleet {
    // The agent goes first, so that it does not complain about what goes next.
    agent: Agent,
    collector: Collector,
    containerd: Containerd,
    _alertmanager: Alertmanager,
    _pki: TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let containerd = Containerd::start().await;
        let alertmanager = Alertmanager::start().await;
        let pki = pki();
        let mut collector = Collector::start(|folder| {
            let (pki, folder) = (pki.path().display(), folder.display());
            format!(
                "[grpc]\nlisten = \"127.0.0.1:0\"\n[api]\nlisten = \"127.0.0.1:0\"\n\
                 [tls]\ncertificate = \"{pki}/collector.pem\"\nkey = \"{pki}/collector-key.pem\"\n\
                 client-ca = \"{pki}/ca.pem\"\n[store]\npath = \"{folder}/collector.db\"\n\
                 [alertmanager]\nurls = [\"http://{}\"]\nresend-seconds = 1\n",
                alertmanager.address()
            )
        });
        let ingest = collector.ingest().await;
        let agent = start_agent(&containerd, &pki, ingest);
        Self {
            agent,
            collector,
            containerd,
            _alertmanager: alertmanager,
            _pki: pki,
        }
    }

    /// Two containers: one gets a program that its image does not have, one is killed. Prometheus starts when
    /// the collector knows, so that what it sees is a fleet in which Holdfast works.
    async fn drift_and_scrape(&mut self) -> Prometheus {
        let mut layout = Layout::new();
        layout.add(&Image::busybox([]), IMAGE);
        let ctr = self.containerd.ctr();
        ctr.import(&layout);
        let drifted = ctr.run(IMAGE, "drifted");
        ctr.run(IMAGE, "killed");
        let targets = [
            ("holdfast-agent", self.agent.ready().await),
            ("holdfast-collector", self.collector.ready().await),
        ];
        drifted.exec("cp /bin/busybox /bin/miner && echo x >> /bin/miner");
        ctr.must(&["tasks", "kill", "--signal", "SIGKILL", "killed"]);
        self.until_metric(
            "holdfast_collector_findings_open{kind=\"file-drift\"",
            Due::AboveZero,
        )
        .await;
        self.until_metric("holdfast_agent_spool_records ", Due::Zero)
            .await;
        let rules = dashboard::path("dashboards/rules/holdfast.yaml");
        let rules = rules.canonicalize().unwrap();
        let prometheus = Prometheus::start(&targets, &[&rules]).await;
        // Each target by itself: the first scrapes do not come together.
        prometheus.until("count(up == 1) == 2").await;
        prometheus.until("holdfast_agent_containers == 1").await;
        prometheus
    }

    /// Waits until a metric of one of the programs, named by the beginning of its line, is above 0 or is 0.
    async fn until_metric(&mut self, line: &str, due: Due) {
        let addresses = [self.agent.http().await, self.collector.http().await];
        let what = format!(
            "{line} is {}",
            if due == Due::AboveZero {
                "above 0"
            } else {
                "0"
            }
        );
        wait::until(&what, async || {
            let mut found = Vec::new();
            for address in addresses {
                let (_, text) = http::get(address, "/metrics").await?;
                let lines = text.lines().filter(|one| one.starts_with(line));
                let values = lines.filter_map(|one| one.rsplit_once(' ')?.1.parse::<f64>().ok());
                found.extend(values);
            }
            let is_above = found.iter().any(|value| *value > 0.0);
            (!found.is_empty() && is_above == (due == Due::AboveZero)).then_some(())
        })
        .await;
    }
}

/// What a metric has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Due {
    AboveZero,
    Zero,
}

/// Certificates of a collector and a node, made as a small user makes them.
fn pki() -> TempDir {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = folder.path().to_str().unwrap();
    for arguments in [
        ["ca", "init", path, "--domain", "test.invalid"].as_slice(),
        &["ca", "collector", path, "--ip", "127.0.0.1"],
        &["ca", "node", path, "--name", "node-1"],
    ] {
        let printed = collector::run(arguments);
        assert_eq!(printed.code, 0, "{arguments:?}: {printed:?}");
    }
    folder
}

fn start_agent(containerd: &Containerd, pki: &TempDir, ingest: SocketAddr) -> Agent {
    Agent::start(|folder| {
        let (pki, folder) = (pki.path().display(), folder.display());
        format!(
            "node-name = \"node-1\"\n[state]\ndirectory = \"{folder}/state\"\n\
             [containerd]\nsockets = [\"{}\"]\nexpected-namespaces = [\"{}\"]\n\
             [scan]\nupper-interval = \"1s\"\nlower-interval = \"2s\"\nscrub-bytes-per-second = 0\nscrub-cpu-percent = 0\n\
             [trust]\npolicy-directory = \"{folder}/policy.d\"\nregistry = false\n\
             [report]\nfile = \"{folder}/{SINK}\"\nheartbeat = \"1s\"\n\
             [report.collector]\naddress = \"{ingest}\"\ncertificate = \"{pki}/node-1.pem\"\n\
             key = \"{pki}/node-1-key.pem\"\nca = \"{pki}/ca.pem\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n",
            containerd.socket().display(),
            containerd.namespace(),
        )
    })
}

/// What Grafana sends for "All" with this test's scrape interval of a second.
fn without_variables(query: &str) -> String {
    query
        .replace("$job", ".+")
        .replace("$instance", ".+")
        .replace("$__rate_interval", "15s")
}

async fn every_metric_exists(prometheus: &Prometheus) {
    let path = "/api/v1/label/__name__/values";
    let answer = http::json(prometheus.address(), path, &[]).await;
    let names = answer["data"].as_array().unwrap().iter();
    let scraped: BTreeSet<&str> = names.filter_map(Value::as_str).collect();
    let rules = rules().into_iter().map(|rule| rule.expr);
    let queries = dashboard()
        .panels
        .into_iter()
        .flat_map(|panel| panel.targets);
    for expression in rules.chain(queries.map(|target| target.expr)) {
        for selector in selectors(&expression) {
            assert!(
                scraped.contains(selector.name),
                "{} in {expression}",
                selector.name
            );
        }
    }
}

/// Not one of them may be empty, or give only NaN, in this scenario.
async fn every_query_gives_numbers(prometheus: &Prometheus) {
    for panel in dashboard().panels {
        for target in panel.targets {
            let query = without_variables(&target.expr);
            let what = format!("{}: {query} gives a number", panel.title);
            wait::until(&what, async || {
                let found = prometheus.query(&query).await;
                found.iter().any(has_number).then_some(())
            })
            .await;
        }
    }
}

fn has_number(element: &Value) -> bool {
    let value = element["value"][1].as_str().unwrap();
    value.parse::<f64>().unwrap().is_finite()
}

async fn every_rule_runs(prometheus: &Prometheus) {
    let due: BTreeSet<String> = rules().into_iter().map(|rule| rule.alert).collect();
    let ran = wait::until("every rule has run", async || {
        let rules = prometheus.rules().await;
        let failed = rules.iter().find(|rule| rule["health"] == "err");
        assert_eq!(failed, None, "a rule fails");
        rules
            .iter()
            .all(|rule| rule["health"] == "ok")
            .then_some(rules)
    })
    .await;
    let names = ran.iter().filter_map(|rule| rule["name"].as_str());
    let ran: BTreeSet<String> = names.map(str::to_owned).collect();
    assert_eq!(ran, due);
}

/// What `promtool check metrics` complains about.
fn promtool_check(metrics: &str) -> Option<String> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = promtool.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).unwrap();
    drop(input);
    let done = promtool.wait_with_output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (!done.status.success()).then(|| String::from_utf8_lossy(&said).into_owned())
}
