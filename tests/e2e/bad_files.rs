//! What stands where an administrator has named a file, and is none: refused by name, at once. A reader that
//! waits for a FIFO's writer waits for ever, and takes policies, checks and the way out with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use holdfast_tests::agent::{self, Agent};
use holdfast_tests::{command, http, wait};

use crate::scene::{PASS, metric};

fn fifo(path: &Path) {
    command::must("mkfifo", &[path.to_str().unwrap()]);
}

/// An agent without a runtime to watch.
fn config(folder: &Path, policies: &Path) -> String {
    format!(
        "[state]\ndirectory = \"{folder}/state\"\n\
         [containerd]\nsockets = [\"{folder}/containerd.sock\"]\n\
         [trust]\npolicy-directory = \"{policies}\"\nregistry = false\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n",
        folder = folder.display(),
        policies = policies.display(),
    )
}

const REFUSED: &str = "holdfast_agent_policies_refused ";

async fn until_metric(address: SocketAddr, name: &str, is_due: impl Fn(f64) -> bool) {
    wait::until(name, async || {
        metric(address, name, "")
            .await
            .filter(|value| is_due(*value))
    })
    .await;
}

/// Waits until `/readyz` gives this reason.
async fn until_not_ready(address: SocketAddr, reason: &str) {
    wait::until(reason, async || {
        let (status, reasons) = http::get(address, "/readyz").await?;
        (status == 503 && reasons.contains(reason)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_findings_file_that_cannot_be_written_is_named_and_counted() {
    let mut agent = Agent::start(|folder| {
        let file = folder.join("findings.jsonl");
        std::fs::create_dir(&file).unwrap();
        let more = format!("[report]\nfile = \"{}\"\n", file.display());
        config(folder, Path::new("/var/tmp/holdfast-no-policies")) + &more
    });
    let address = agent.http().await;
    let file = agent.folder().join("findings.jsonl");
    until_not_ready(address, &format!("findings-file: {}: ", file.display())).await;
    until_metric(address, "holdfast_agent_sink_failures_total ", |count| {
        count > 0.0
    })
    .await;
    let said = agent.process().output();
    assert!(said.contains(file.to_str().unwrap()), "{said}");
}

/// A disk that is full, for as long as this lives.
struct FullDisk(PathBuf);

impl FullDisk {
    fn at(folder: &Path) -> Self {
        std::fs::create_dir(folder).unwrap();
        let at = folder.to_str().unwrap();
        command::must("mount", &["-t", "tmpfs", "-o", "size=4k", "tmpfs", at]);
        Self(folder.to_owned())
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        drop(command::run("umount", &["-l", self.0.to_str().unwrap()]));
    }
}

#[tokio::test]
async fn a_ledger_that_records_nothing_is_a_reason_not_to_be_ready_and_is_counted() {
    let mut disk = None;
    let mut agent = Agent::start(|folder| {
        disk = Some(FullDisk::at(&folder.join("state")));
        config(folder, Path::new("/var/tmp/holdfast-no-policies"))
    });
    let address = agent.http().await;
    until_not_ready(address, "ledger: findings are not recorded: no space left").await;
    until_metric(address, "holdfast_agent_ledger_failures_total ", |count| {
        count > 0.0
    })
    .await;
    agent.kill();
    drop(disk);
}

#[test]
fn a_fifo_where_a_policy_or_a_configuration_is_named_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let (policies, file) = (folder.path().join("policy.d"), folder.path().join("a.toml"));
    std::fs::create_dir(&policies).unwrap();
    let planted = policies.join("planted.yaml");
    fifo(&planted);
    std::fs::write(&file, config(folder.path(), &policies)).unwrap();
    let (planted, policies) = (planted.to_str().unwrap(), policies.to_str().unwrap());
    let file = file.to_str().unwrap();
    let nowhere = "/var/tmp/holdfast-no-containerd.sock";
    for arguments in [
        ["check", "--containerd", nowhere, "--policy", planted].as_slice(),
        &["check", "--containerd", nowhere, "--policy", policies],
        &["config", "check", file],
        &["run", "--config", file],
        &["config", "check", planted],
        &["run", "--config", planted],
    ] {
        let printed = agent::run(arguments);
        assert_eq!(printed.code, 78, "{arguments:?} {printed:?}");
        let said = format!("{planted}: expected a regular file, found a FIFO");
        assert!(printed.errors.contains(&said), "{arguments:?} {printed:?}");
        assert_eq!(printed.output, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_fifo_among_the_policies_stops_neither_their_reload_nor_the_agents_end() {
    let policies = tempfile::tempdir().unwrap();
    let mut agent = Agent::start(|folder| config(folder, policies.path()));
    let address = agent.http().await;
    assert_eq!(metric(address, REFUSED, "").await, Some(0.0));
    let planted = policies.path().join("planted.yaml");
    fifo(&planted);
    wait::until("the FIFO is refused", async || {
        let said = agent.process().output();
        said.contains("found a FIFO").then_some(())
    })
    .await;
    until_metric(address, REFUSED, |value| value > 0.0).await;

    std::fs::remove_file(&planted).unwrap();
    std::fs::write(policies.path().join("pass.yaml"), PASS).unwrap();
    wait::until("the policy beside it is read", async || {
        let said = agent.process().output();
        said.contains("Policies were read anew.").then_some(())
    })
    .await;
    until_metric(address, REFUSED, |value| value == 0.0).await;

    fifo(&planted);
    let status = agent.stop().await;
    assert!(status.success(), "{status}");
}

#[test]
fn a_policy_path_that_holds_no_policy_is_refused_and_a_folder_that_nobody_named_may_be_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (empty, others) = (path("empty.d"), path("others.d"));
    std::fs::create_dir(&empty).unwrap();
    std::fs::create_dir(&others).unwrap();
    std::fs::write(others.join("policy.txt"), PASS).unwrap();
    std::fs::write(others.join(".hidden.yaml"), PASS).unwrap();
    std::fs::write(path("nothing.yaml"), "# later\n").unwrap();
    std::fs::write(path("pass.yaml"), PASS).unwrap();
    let good = path("pass.yaml");
    for named in [empty.clone(), others, path("nothing.yaml")] {
        let named = named.to_str().unwrap();
        let mut arguments = vec![
            "check",
            "--containerd",
            "/var/tmp/holdfast-no-containerd.sock",
        ];
        // One that holds some does not hide another that holds none.
        arguments.extend(["--policy", good.to_str().unwrap(), "--policy", named]);
        let printed = agent::run(&arguments);
        assert_eq!(printed.code, 78, "{named} {printed:?}");
        for said in [named, "holds no policy; expected"] {
            assert!(printed.errors.contains(said), "{named} {printed:?}");
        }
    }

    let file = path("agent.toml");
    for policies in [empty, path("missing.d")] {
        std::fs::write(&file, config(folder.path(), &policies)).unwrap();
        let printed = agent::run(&["config", "check", file.to_str().unwrap()]);
        assert_eq!(printed.code, 0, "{printed:?}");
    }
}
