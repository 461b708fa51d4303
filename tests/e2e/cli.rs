//! `check` as a person or a script meets them: exit codes, shapes, what is read and
//! what is written. Long because it is the list of what the commands promise.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use holdfast_tests::agent;
use holdfast_tests::command;
use holdfast_tests::image::Image;
use holdfast_tests::layer::Entry;
use holdfast_tests::process::Process;
use holdfast_tests::program::{self, Build};
use holdfast_tests::wait;
use rustix::process::Signal;
use serde_json::Value;

use crate::scene::{IMAGE, Scene};

const SCHEMA: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../docs/schema/holdfast.finding.v1.json"
);

/// `alpha-1` is clean, `alpha-2` has a critical and two warnings, `beta` an info.
async fn scene() -> Scene {
    let scene = Scene::with(&Image::busybox([Entry::program(
        "usr/bin/tool",
        "#!/bin/sh\n",
    )]))
    .await;
    scene.run("alpha-1");
    scene
        .run("alpha-2")
        .exec("cp /bin/busybox /usr/bin/tool; cp /bin/busybox /usr/bin/evil; rm /opt/app/data.txt");
    scene.run("beta").exec("echo x > /opt/app/new");
    scene
}

/// `check` on a scene, as another program would start it.
fn command(scene: &Scene, more: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", "120"])
        .arg(program::path("holdfast-agent", Build::Released))
        .args(["check", "--containerd"])
        .arg(scene.containerd.socket())
        .args(scene.arguments(more));
    command
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[tokio::test]
async fn exit_codes_tell_clean_findings_and_wrong_arguments_apart() {
    let scene = scene().await;
    let code = |more: &[&str]| scene.printed(more).code;
    assert_eq!(code(&["--container", "alpha-1"]), 0);
    assert_eq!(code(&["--container", "alpha-2"]), 1);
    assert_eq!(code(&["--container", "beta"]), 0);
    assert_eq!(code(&["--container", "beta", "--fail-on", "info"]), 1);
    assert_eq!(code(&[]), 1);
    assert_eq!(
        code(&["--container", "alpha-2", "--fail-on", "critical"]),
        1
    );
    scene
        .containerd
        .ctr()
        .container("alpha-2")
        .exec("printf '#!/bin/sh\\n' > /usr/bin/tool");
    assert_eq!(
        code(&["--container", "alpha-2", "--fail-on", "critical"]),
        0
    );
    for wrong in [
        ["--fail-on", "high"].as_slice(),
        &["--output", "xml"],
        &["--no-such-option"],
        &["--container"],
    ] {
        let printed = scene.printed(wrong);
        assert_eq!(printed.code, 2, "{printed:?}");
        assert_eq!(printed.output, "", "{printed:?}");
    }
}

#[tokio::test]
async fn a_check_that_could_not_be_done_is_three_unless_there_is_worse() {
    let scene = Scene::start().await;
    let own = Image::busybox([Entry::file("opt/app/own", "own")]);
    let digests = scene.import(&own, IMAGE);
    let one = scene.run("one");
    std::fs::remove_file(scene.containerd.blob(digests.layers[1])).unwrap();
    assert_eq!(scene.printed(&[]).code, 3);
    assert_eq!(scene.printed(&["--fail-on", "info"]).code, 1);
    one.remove();
    // Nothing is left that the arguments mean.
    assert_eq!(scene.printed(&[]).code, 2);
}

#[tokio::test]
async fn a_runtime_that_is_not_there_is_four() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("containerd.sock");
    let printed = agent::run(&["check", "--containerd", nowhere.to_str().unwrap()]);
    assert_eq!(printed.code, 4, "{printed:?}");
    assert!(printed.errors.contains("containerd.sock"), "{printed:?}");
    assert_eq!(printed.output, "");
    // Somebody listened there once.
    drop(UnixListener::bind(&nowhere).unwrap());
    let printed = agent::run(&["check", "--containerd", nowhere.to_str().unwrap()]);
    assert_eq!(printed.code, 4, "{printed:?}");
}

#[tokio::test]
async fn a_socket_that_is_not_ours_to_open_is_five() {
    let scene = Scene::with(&Image::busybox([])).await;
    let socket = scene.containerd.socket();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(socket.parent().unwrap(), 0o755);
    open(&socket, 0o600);
    // Where users other than root can run it.
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    open(folder.path(), 0o755);
    let program = folder.path().join("holdfast-agent");
    std::fs::copy(program::path("holdfast-agent", Build::Released), &program).unwrap();
    let output = Command::new("timeout")
        .args(["--kill-after=5", "60"])
        .arg(&program)
        .args(["check", "--containerd"])
        .arg(&socket)
        .args(["--agent-state", "/var/tmp/holdfast-no-agent"])
        .current_dir("/")
        .env("TMPDIR", "/tmp")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let (code, printed, errors) = text(&output);
    assert_eq!(code, Some(5), "{printed}{errors}");
    assert!(errors.contains("root"), "{errors}");
}

#[tokio::test]
async fn a_policy_that_is_missing_or_bad_is_seventy_eight() {
    let scene = scene().await;
    let missing = scene.printed(&["--policy", "/var/tmp/holdfast-no-policy.yaml"]);
    assert_eq!(missing.code, 78, "{missing:?}");
    assert!(
        missing.errors.contains("holdfast-no-policy.yaml"),
        "{missing:?}"
    );
    let bad = scene.policies().join("bad.yaml");
    std::fs::write(
        &bad,
        "apiVersion: policy.sigstore.dev/v1beta1\nkind: Nothing\n",
    )
    .unwrap();
    let printed = scene.printed(&[]);
    assert_eq!(printed.code, 78, "{printed:?}");
    let place = format!("{}:2:", bad.display());
    assert!(printed.errors.contains(&place), "{printed:?}");
    assert_eq!(printed.output, "");
}

#[tokio::test]
async fn json_is_one_object_of_containers_findings_and_summary() {
    let scene = scene().await;
    let printed = scene.printed(&["-o", "json"]);
    let report: Value = serde_json::from_str(&printed.output).unwrap();
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["containers", "findings", "summary"]);
    let containers = report["containers"].as_array().unwrap();
    let ids: Vec<&str> = containers
        .iter()
        .map(|status| status["container"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["alpha-1", "alpha-2", "beta"]);
    for status in containers {
        assert_eq!(status["signature"], "accepted");
        let checks: Vec<&str> = status["checks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|check| check["check"].as_str().unwrap())
            .collect();
        assert_eq!(
            checks,
            [
                "identity",
                "digests",
                "signature",
                "files",
                "layers",
                "mounts"
            ]
        );
        assert!(status["image"]["manifest_digest"].is_string());
    }
    let expected = serde_json::json!({
        "containers": 3, "clean": 1, "with_findings": 2, "incomplete": 0,
        "critical": 1, "warning": 2, "info": 1,
    });
    assert_eq!(report["summary"], expected);
    assert_eq!(report["findings"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn the_table_has_a_line_for_each_container_and_ends_with_the_summary() {
    let scene = scene().await;
    let printed = scene.printed(&[]);
    let lines: Vec<&str> = printed.output.lines().collect();
    assert!(lines[0].starts_with("NAMESPACE"), "{printed:?}");
    for (line, (id, files)) in lines[1..4].iter().zip([
        ("alpha-1", "clean"),
        ("alpha-2", "critical"),
        ("beta", "info"),
    ]) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells[1], id, "{printed:?}");
        assert_eq!(cells[2], IMAGE, "{printed:?}");
        let due = ["accepted", files, "clean", "clean"];
        assert_eq!(cells[5..], due, "{printed:?}");
    }
    let summary = "3 containers: 1 clean, 2 with findings (1 critical, 2 warning, 1 info), 0 not fully checked.";
    assert_eq!(*lines.last().unwrap(), summary);
}

#[tokio::test]
async fn a_container_is_named_by_the_beginning_of_its_id() {
    let scene = scene().await;
    let ids = |more: &[&str]| -> Vec<String> {
        let printed = scene.printed(&[&["-o", "json"], more].concat());
        let report: Value = serde_json::from_str(&printed.output).unwrap();
        let containers = report["containers"].as_array().unwrap();
        let id = |status: &Value| status["container"]["id"].as_str().unwrap().to_owned();
        containers.iter().map(id).collect()
    };
    assert_eq!(ids(&["--container", "alpha"]), ["alpha-1", "alpha-2"]);
    assert_eq!(ids(&["--container", "alpha-2"]), ["alpha-2"]);
}

#[tokio::test]
async fn a_selection_that_selects_nothing_is_two_and_a_node_without_containers_is_not() {
    let scene = Scene::with(&Image::busybox([])).await;
    let socket = scene.containerd.socket();
    let check = |more: &[&str]| {
        let mut arguments = vec!["check", "--containerd", socket.to_str().unwrap()];
        arguments.extend(["--agent-state", "/var/tmp/holdfast-no-agent"]);
        arguments.extend(more);
        agent::run(&arguments)
    };
    let none = check(&[]);
    assert_eq!(none.code, 0, "{none:?}");
    assert!(none.output.contains("No running containers."), "{none:?}");

    scene.run("alpha");
    for (selection, said) in [
        (
            ["--container", "lpha"],
            "no running container has an id that begins with \"lpha\"",
        ),
        (
            ["--namespace", "another"],
            "no running container in containerd namespace \"another\"",
        ),
    ] {
        for output in ["table", "json", "jsonl"] {
            let printed = check(&[selection.as_slice(), &["-o", output]].concat());
            assert_eq!(printed.code, 2, "{printed:?}");
            assert_eq!(printed.output, "", "{printed:?}");
            assert!(printed.errors.contains(said), "{printed:?}");
        }
    }
}

#[tokio::test]
async fn every_line_is_a_document_of_the_published_schema() {
    let scene = scene().await;
    let two = scene.containerd.ctr().container("alpha-2");
    std::fs::write(two.lower_of("/opt/app/run.sh"), "#!/bin/sh\nexit 1\n").unwrap();
    let growing = "(while :; do echo x >> /opt/app/grow; done) >/dev/null 2>&1 </dev/null &";
    two.exec(&format!(
        "dd if=/dev/zero of=/opt/app/grow bs=1M seek=400 count=1 2>/dev/null\n{growing}"
    ));
    let printed = scene.printed(&["-o", "jsonl"]);
    assert!(printed.output.lines().count() >= 8, "{printed:?}");
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("findings.jsonl");
    std::fs::write(&lines, &printed.output).unwrap();
    let mut agent = scene.agent().await;
    assert!(!agent.documents().is_empty());
    agent.kill();
    let sink = agent.folder().join(agent::SINK);

    for file in [lines, sink] {
        let validated = command::must(
            "/usr/bin/python3",
            &["-c", VALIDATE, SCHEMA, file.to_str().unwrap()],
        );
        let count: usize = validated.trim().parse().unwrap();
        assert!(count >= 4, "{count} documents");
    }
    // The validator says no when it has to.
    let wrong = folder.path().join("wrong.jsonl");
    let line = printed.output.lines().next().unwrap();
    std::fs::write(&wrong, line.replace("\"opened\"", "\"open\"")).unwrap();
    let arguments = ["-c", VALIDATE, SCHEMA, wrong.to_str().unwrap()];
    assert!(command::run("/usr/bin/python3", &arguments).is_err());
}

const VALIDATE: &str = "
import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
lines = [json.loads(line) for line in open(sys.argv[2])]
for line in lines:
    jsonschema.Draft202012Validator(schema).validate(line)
print(len(lines))
";

#[tokio::test]
async fn without_a_state_folder_nothing_stays() {
    let scene = scene().await;
    let temporary = tempfile::tempdir_in("/var/tmp").unwrap();
    let output = command(&scene, &["-o", "jsonl"])
        .env("TMPDIR", temporary.path())
        .output()
        .unwrap();
    let (code, printed, errors) = text(&output);
    assert_eq!((code, printed.lines().count()), (Some(1), 4), "{errors}");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_interrupted_check_says_so_and_nothing_of_it_stays() {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (temporary, socket) = (folder.path().join("tmp"), folder.path().join("c.sock"));
    std::fs::create_dir(&temporary).unwrap();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // Somebody who takes the call and never answers.
        let runtime = UnixListener::bind(&socket).unwrap();
        runtime.set_nonblocking(true).unwrap();
        let mut command = Command::new(program::path("holdfast-agent", Build::Released));
        command.args(["check", "--containerd"]).arg(&socket);
        command.env("TMPDIR", &temporary);
        let mut check = Process::start("check", &mut command, &folder.path().join("log"));
        let _call = wait::until("check calls", async || runtime.accept().ok()).await;
        assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 1);

        check.signal(signal);

        assert_eq!(check.exit_code().await, code);
        assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
        std::fs::remove_file(&socket).unwrap();
    }
}

#[tokio::test]
async fn only_the_state_folder_is_written_to() {
    let scene = scene().await;
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let (state, trace) = (folder.path().join("state"), folder.path().join("trace"));
    let traced = "trace=open,openat,openat2,creat,mkdir,mkdirat,mknod,mknodat,unlink,unlinkat,rmdir,\
                  rename,renameat,renameat2,link,linkat,symlink,symlinkat,chmod,fchmodat,chown,\
                  fchownat,truncate,setxattr,lsetxattr,removexattr,mount,utimensat";
    let output = Command::new("timeout")
        .args([
            "--kill-after=5",
            "120",
            "strace",
            "-f",
            "-qq",
            "-y",
            "-s",
            "4096",
            "-e",
        ])
        .args([traced, "-o", trace.to_str().unwrap()])
        .arg(program::path("holdfast-agent", Build::Released))
        .args(["check", "-o", "jsonl", "--containerd"])
        .arg(scene.containerd.socket())
        .args(scene.arguments(&["--state", state.to_str().unwrap()]))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let trace = std::fs::read_to_string(trace).unwrap();
    let is_reading = |line: &str| {
        let opens = line.contains(" open") && line.contains("O_");
        opens
            && !["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"]
                .iter()
                .any(|flag| line.contains(flag))
    };
    let is_call =
        |line: &&str| line.contains('(') && !line.contains("resumed>") && !line.contains("---");
    let writes: Vec<&str> = trace
        .lines()
        .filter(is_call)
        .filter(|line| !is_reading(line))
        .collect();
    let is_ours = |line: &&&str| line.contains(state.to_str().unwrap());
    assert!(writes.iter().filter(is_ours).count() > 4, "{writes:#?}");
    let elsewhere: Vec<&&str> = writes.iter().filter(|line| !is_ours(line)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
    assert!(state.join("tables").is_dir());
}

#[tokio::test]
async fn the_running_agents_tables_are_used() {
    let scene = Scene::start().await;
    let digests = scene.import(&Image::busybox([Entry::file("opt/app/own", "own")]), IMAGE);
    scene.run("one").exec("rm /opt/app/own");
    let agent = scene.agent().await;
    for layer in digests.layers {
        std::fs::remove_file(scene.containerd.blob(layer)).unwrap();
    }
    let state = agent.folder().join("state");
    let before = listing(&state);
    let socket = scene.containerd.socket();
    let check = |state: &str| {
        let arguments = [
            "--namespace",
            scene.containerd.namespace(),
            "--policy",
            scene.policies().to_str().unwrap(),
            "--agent-state",
            state,
        ];
        agent::check(&socket, &arguments).1
    };

    let due = ["file-drift removed data /opt/app/own warning one"];
    holdfast_tests::scenario::assert_exactly(&check(state.to_str().unwrap()), &due);
    let due = [
        "unverifiable files blob-absent - info one",
        "unverifiable layers blob-absent - info one",
    ];
    holdfast_tests::scenario::assert_exactly(&check("/var/tmp/holdfast-no-agent"), &due);
    assert_eq!(listing(&state), before);
}

/// Tables and trees below an agent's state folder.
fn listing(state: &Path) -> Vec<String> {
    let state = state.to_str().unwrap();
    let tables = format!("{state}/tables");
    let trees = format!("{state}/trees");
    let listed = command::must("find", &[&tables, &trees, "-printf", "%p %s %T@\n"]);
    let mut lines: Vec<String> = listed.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}
