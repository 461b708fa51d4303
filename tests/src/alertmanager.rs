//! A real Alertmanager that keeps alerts and sends them nowhere.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::process::Process;
use crate::wait;

/// A running Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Alertmanager {
    /// Starts one.
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("holdfast-alertmanager-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let config = folder.path().join("alertmanager.yml");
        std::fs::write(
            &config,
            "route:\n  receiver: none\nreceivers:\n  - name: none\n",
        )
        .unwrap();
        let mut command = Command::new("prometheus-alertmanager");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}/data", folder.path().display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .arg("--cluster.listen-address=");
        let mut process = Process::start("alertmanager", &mut command, &folder.path().join("log"));
        let address = process.address().await;
        wait::until("Alertmanager is ready", async || {
            let (status, _) = http::get(address, "/-/ready").await?;
            (status == 200).then_some(())
        })
        .await;
        Self {
            process,
            address,
            _folder: folder,
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process, to stop or kill it.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The alerts that are firing now; a resolved one is not among them.
    pub async fn alerts(&self) -> Vec<Value> {
        let answer = http::json(self.address, "/api/v2/alerts", &[]).await;
        answer.as_array().unwrap().clone()
    }

    /// Waits until exactly one alert with this label is firing, and gives it.
    pub async fn firing(&self, label: &str, value: &str) -> Value {
        wait::until(&format!("an alert with {label}={value}"), async || {
            let mut alerts = self.alerts().await;
            alerts.retain(|alert| alert["labels"][label] == value);
            assert!(alerts.len() < 2, "one alert each: {alerts:?}");
            alerts.pop()
        })
        .await
    }

    /// Waits until no alert with this label is firing any more.
    pub async fn resolved(&self, label: &str, value: &str) {
        wait::until(&format!("no alert with {label}={value}"), async || {
            let alerts = self.alerts().await;
            let firing = alerts.iter().any(|alert| alert["labels"][label] == value);
            (!firing).then_some(())
        })
        .await;
    }
}
