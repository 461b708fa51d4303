//! What stands where an administrator has named a file, and is none: refused by name, at once. A reader that
//! waits for a FIFO's writer waits for ever, and takes policies, checks and the way out with it.

use std::path::Path;

use holdfast_tests::agent::{self, Agent};
use holdfast_tests::{command, wait};

use crate::scene::PASS;

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
    agent.http().await;
    let planted = policies.path().join("planted.yaml");
    fifo(&planted);
    wait::until("the FIFO is refused", async || {
        let said = agent.process().output();
        said.contains("found a FIFO").then_some(())
    })
    .await;

    std::fs::remove_file(&planted).unwrap();
    std::fs::write(policies.path().join("pass.yaml"), PASS).unwrap();
    wait::until("the policy beside it is read", async || {
        let said = agent.process().output();
        said.contains("Policies were read anew.").then_some(())
    })
    .await;

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
