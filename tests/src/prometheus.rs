//! A real Prometheus that scrapes what a test has started.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::process::Process;
use crate::wait;

/// A running Prometheus. It scrapes every second.
#[derive(Debug)]
pub struct Prometheus {
    _process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one with these targets (job, address) and rule files.
    pub async fn start(targets: &[(&str, SocketAddr)], rules: &[&Path]) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-prometheus-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let config = folder.path().join("prometheus.yml");
        std::fs::write(&config, configuration(targets, rules)).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}/data",
                folder.path().display()
            ))
            .arg("--web.listen-address=127.0.0.1:0");
        let mut process = Process::start("prometheus", &mut command, &folder.path().join("log"));
        let address = process.address().await;
        wait::until("Prometheus is ready", async || {
            let (status, _) = http::get(address, "/-/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        Self {
            _process: process,
            address,
            _folder: folder,
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What an expression gives now: a vector's elements. An expression that fails fails the test.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let answer = http::json(self.address, "/api/v1/query", &[("query", expression)]).await;
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// Waits until an expression gives something.
    pub async fn until(&self, expression: &str) -> Vec<Value> {
        wait::until(&format!("{expression} gives something"), async || {
            Some(self.query(expression).await).filter(|found| !found.is_empty())
        })
        .await
    }

    /// Every rule that is loaded, with its health and last error.
    pub async fn rules(&self) -> Vec<Value> {
        let answer = http::json(self.address, "/api/v1/rules", &[]).await;
        let groups = answer["data"]["groups"].as_array().unwrap().clone();
        groups
            .iter()
            .flat_map(|group| group["rules"].as_array().unwrap().clone())
            .collect()
    }
}

fn configuration(targets: &[(&str, SocketAddr)], rules: &[&Path]) -> String {
    let mut text = String::from("global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n");
    text.push_str("rule_files:\n");
    for rule in rules {
        writeln!(text, "  - {}", rule.display()).unwrap();
    }
    text.push_str("scrape_configs:\n");
    for (job, address) in targets {
        writeln!(
            text,
            "  - job_name: {job}\n    static_configs:\n      - targets: ['{address}']"
        )
        .unwrap();
    }
    text
}
