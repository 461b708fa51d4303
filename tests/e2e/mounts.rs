//! Mounts that change what a container runs without changing a file: seen in its own mount namespace and in
//! those that its processes make, and nothing is said about what every container has mounted.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::{GetContainerRequest, UpdateContainerRequest};
use containerd_client::tonic::Request;
use containerd_client::with_namespace;
use holdfast_core::finding::{Detail, Finding};
use holdfast_tests::command;
use holdfast_tests::container::Container;
use holdfast_tests::containerd::Options;
use holdfast_tests::cri::{Cri, PodMount, PodSpec};
use holdfast_tests::image::Image;
use holdfast_tests::layer::Entry;
use serde_json::{Value, json};

use crate::scene::{IMAGE, Scene, assert_open};

const VICTIM: &str = "mount-drift /usr/bin/victim critical";

async fn scene() -> Scene {
    Scene::with(&Image::busybox([
        Entry::program("usr/bin/victim", "#!/bin/sh\necho image\n"),
        Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        Entry::file("srv/notes/a.txt", "x"),
    ]))
    .await
}

impl Scene {
    fn privileged(&self, id: &str) -> Container {
        let ctr = self.containerd.ctr();
        ctr.run_with(&["--privileged"], IMAGE, id, &[])
    }
}

/// Runs shell text of the host's root in the mount namespace of a container.
#[track_caller]
fn from_the_host(container: &Container, script: &str) {
    let pid = container.pid().to_string();
    command::must(
        "nsenter",
        &["-t", &pid, "-m", "--", "/bin/sh", "-c", script],
    );
}

/// What should be there, and what is mounted, as the first finding about a mount says.
fn told(findings: &[Finding]) -> Option<(&str, &str)> {
    findings.iter().find_map(|finding| match &finding.detail {
        Detail::MountDrift(detail) => Some((detail.says.as_str(), detail.found.as_str())),
        _ => None,
    })
}

#[tokio::test]
async fn a_file_bound_over_a_program_is_critical_until_it_is_unmounted() {
    let scene = scene().await;
    scene.run("control");
    let inside = scene.privileged("inside");
    inside.exec("cp /bin/busybox /tmp/e && mount --bind /tmp/e /usr/bin/victim");
    let host = scene.run("host");
    from_the_host(
        &host,
        "cp /bin/busybox /tmp/e; mount -o bind /tmp/e /usr/bin/victim",
    );

    let dropped = |id: &str| format!("file-drift moved program /tmp/e warning {id}");
    let over = |id: &str| format!("{VICTIM} {id}");
    let due = [
        dropped("inside"),
        dropped("host"),
        over("inside"),
        over("host"),
    ];
    let due: Vec<&str> = due.iter().map(String::as_str).collect();
    scene.assert_checked(&due);
    let (_, findings) = scene.check(&[]);
    assert_eq!(
        told(&findings),
        Some(("a program", "the container's own /tmp/e"))
    );

    let mut agent = scene.agent().await;
    assert_open(&mut agent, &due).await;
    inside.exec("umount /usr/bin/victim; rm /tmp/e");
    assert_open(&mut agent, &[&dropped("host"), &over("host")]).await;
}

#[tokio::test]
async fn records_that_were_altered_while_the_agent_was_away_excuse_no_mount() {
    let scene = scene().await;
    let container = scene.run("one");
    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;

    agent.stop().await;
    from_the_host(&container, "mount -t tmpfs none /usr/bin");
    let due = "mount-drift /usr/bin critical one";
    scene.assert_checked(&[due]);
    let mount = json!({"destination": "/usr/bin", "type": "tmpfs", "source": "none"});
    add_to_records(&scene, &container, &mount).await;
    // Whoever sees the container for the first time has nothing else to believe.
    scene.assert_checked(&[]);

    agent.start_again();
    agent.ready().await;
    assert_open(&mut agent, &[due]).await;
}

/// Adds a mount to the bundle's config and to containerd's record, as if it had been asked for.
async fn add_to_records(scene: &Scene, container: &Container, mount: &Value) {
    let added = |spec: &[u8]| {
        let mut spec: Value = serde_json::from_slice(spec).unwrap();
        spec["mounts"].as_array_mut().unwrap().push(mount.clone());
        spec.to_string()
    };
    let config = container.bundle().join("config.json");
    std::fs::write(&config, added(&std::fs::read(&config).unwrap())).unwrap();
    // A config that is younger than this file would not be believed.
    let settled = config.with_file_name("init.pid");
    std::fs::write(&settled, std::fs::read(&settled).unwrap()).unwrap();

    let socket = scene.containerd.socket();
    let mut containers = ContainersClient::new(containerd_client::connect(socket).await.unwrap());
    let namespace = scene.containerd.namespace();
    let id = container.id().to_owned();
    let request = with_namespace!(GetContainerRequest { id }, namespace);
    let answer = containers.get(request).await.unwrap().into_inner();
    let mut record = answer.container.unwrap();
    let spec = record.spec.as_mut().unwrap();
    spec.value = added(&spec.value).into_bytes();
    let request = UpdateContainerRequest {
        container: Some(record),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["spec".to_owned()],
        }),
    };
    let request = with_namespace!(request, namespace);
    containers.update(request).await.unwrap();
}

#[tokio::test]
async fn empty_directories_over_programs_and_over_accounts_are_told_by_what_they_hide() {
    let scene = scene().await;
    scene.run("control");
    let changed = scene.privileged("changed");
    changed.exec(
        "mount -t tmpfs none /usr/bin; mount -t tmpfs none /srv/notes; mkdir -p /mnt/new /mnt/'a\nb'; \
         mount -t tmpfs none /mnt/new; mount -t tmpfs none /mnt/'a\nb'; \
         echo 'toor::0:0::/:/bin/sh' > /dev/shm/p; mount --bind /dev/shm/p /etc/passwd",
    );

    scene
        .assert_found(&[
            "mount-drift /usr/bin critical changed",
            "mount-drift /etc/passwd critical changed",
            "mount-drift /srv/notes warning changed",
            "mount-drift /mnt/new warning changed",
            "mount-drift /mnt/a\\x0ab warning changed",
            "file-drift added data /mnt info changed",
            "file-drift added data /mnt/a\\x0ab info changed",
            "file-drift added data /mnt/new info changed",
        ])
        .await;
}

#[tokio::test]
async fn a_nested_overlay_and_a_root_mounted_over_the_root_are_told() {
    let scene = scene().await;
    scene.run("control");
    let nested = scene.privileged("nested");
    nested.exec(
        "mount -t tmpfs none /run && mkdir /run/u /run/w && \
         mount -t overlay -o lowerdir=/usr,upperdir=/run/u,workdir=/run/w none /usr",
    );
    let over = scene.run("over");
    from_the_host(&over, "mount -t tmpfs none /");

    scene
        .assert_found(&[
            "mount-drift /run warning nested",
            "mount-drift /usr critical nested",
            "mount-drift / critical over",
        ])
        .await;
}

#[tokio::test]
async fn a_mount_in_a_namespace_of_its_own_is_told_while_its_process_lives() {
    let scene = scene().await;
    let control = scene.privileged("control");
    control.exec("unshare -m sleep 1000000 >/dev/null 2>&1 & true");
    // Nobody needs rights for that who may make a user namespace.
    let rootless = scene.run("rootless");
    rootless.exec(
        "unshare -U -r -m sh -c 'mount -t tmpfs none /etc; echo $$ > /run/pid; exec sleep 1000000' >/dev/null 2>&1 & \
         while [ ! -s /run/pid ]; do :; done",
    );
    let changed = scene.privileged("changed");
    changed.exec(
        "unshare -m sh -c 'mount -t tmpfs none /usr; echo $$ > /run/pid; exec sleep 1000000' >/dev/null 2>&1 & \
         while [ ! -s /run/pid ]; do :; done",
    );

    let mut agent = scene.agent().await;
    let due = [
        "mount-drift /etc critical rootless",
        "mount-drift /usr critical changed",
    ];
    scene.assert_checked(&due);
    assert_open(&mut agent, &due).await;
    let (_, findings) = scene.check(&[]);
    assert_eq!(
        told(&findings),
        Some(("a program", "tmpfs, in a mount namespace of its own"))
    );
    for container in [&changed, &rootless] {
        container.exec("kill -9 $(cat /run/pid)");
    }
    assert_open(&mut agent, &[]).await;
}

#[tokio::test]
async fn more_mounts_than_are_looked_at_are_said_and_stop_nobody() {
    let scene = scene().await;
    scene.run("control");
    let flood = scene.privileged("flood");
    // Each round doubles them.
    flood.exec(
        "mount -t tmpfs none /run; i=0; while [ $i -lt 15 ]; do mkdir /run/$i; \
         mount --rbind /run /run/$i; i=$((i + 1)); done",
    );

    scene
        .assert_found(&["unverifiable mounts mount-table-too-large - warning flood"])
        .await;
}

#[tokio::test]
async fn a_chrooted_process_shows_where_its_mounts_really_are() {
    let scene = scene().await;
    scene.run("control");
    let changed = scene.privileged("changed");
    changed.exec(
        "unshare -m sh -c 'mount -t tmpfs none /usr/bin; echo $$ > /run/pid; cp /bin/busybox /usr/bin/sleep; \
         exec chroot /usr /bin/sleep 1000000' >/dev/null 2>&1 & \
         while [ ! -s /run/pid ]; do :; done; while ! grep -q sleep /proc/$(cat /run/pid)/cmdline; do :; done",
    );

    scene
        .assert_found(&[
            "mount-drift /usr/bin critical changed",
            "unverifiable mounts chrooted - info changed",
        ])
        .await;
}

#[tokio::test]
async fn what_a_runtime_mounts_for_every_container_is_no_drift() {
    let scene = scene().await;
    let volume = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = volume.path().to_str().unwrap();
    let disk = volume.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let _mounted = Mounted::tmpfs(&disk);
    let bind = format!("type=bind,src={source},dst=/var/run/vol,options=rbind:rw");
    let over = format!("type=bind,src={source},dst=/usr/bin,options=rbind:ro");
    let scratch = "type=tmpfs,src=tmpfs,dst=/scratch,options=rw:nosuid:size=64m";
    let passwd = format!("type=bind,src={source}/passwd,dst=/etc/passwd,options=bind:ro");
    std::fs::write(volume.path().join("passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    let ctr = scene.containerd.ctr();
    let run = |options: &[&str], id: &str| ctr.run_with(options, IMAGE, id, &[]);
    run(&[], "plain");
    run(&["--privileged"], "privileged");
    run(&["--read-only"], "read-only");
    run(&["--mount", &bind, "--mount", scratch], "volumes");
    run(&["--privileged", "--mount", &bind], "privileged-volume");
    run(&["--mount", &over, "--mount", &passwd], "over-the-image");
    let shifted = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let socket = scene.containerd.socket();
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(socket.parent().unwrap(), open).unwrap();
    run(&shifted, "shifted");

    scene.assert_found(&[]).await;
}

#[tokio::test]
async fn a_pod_with_every_usual_mount_gives_nothing_and_a_mount_over_its_program_does() {
    let scene = Scene::start_with(Options {
        cri: true,
        ..Options::default()
    })
    .await;
    let ctr = scene.containerd.ctr_in("k8s.io");
    let mut layout = holdfast_tests::image::Layout::new();
    let image = Image::busybox([Entry::program("usr/bin/victim", "#!/bin/sh\n")]);
    layout.add(&image, IMAGE);
    ctr.import(&layout);
    let volume = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| volume.path().join(name);
    for name in ["empty-dir", "secret", "host", "shared"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::fs::write(path("hosts"), "127.0.0.1 localhost\n").unwrap();
    std::fs::write(path("log"), "").unwrap();
    let shared = Mounted::shared(&path("shared"));
    let mount = |name: &str, destination: &str| PodMount::new(path(name), destination);
    let mounts = [
        mount("empty-dir", "/cache"),
        mount("secret", "/var/run/secrets/kubernetes.io/serviceaccount").read_only(),
        mount("host", "/host"),
        mount("hosts", "/etc/hosts"),
        mount("log", "/dev/termination-log"),
        mount("shared", "/csi").taking_mounts_of_the_host(),
    ];
    let mut cri = Cri::connect(&scene.containerd.socket()).await;
    cri.known(IMAGE).await;
    let pod = cri.run_pod(&PodSpec::new("shop", "api-0", &[])).await;
    let id = cri.run_container_with(&pod, "api", IMAGE, &mounts).await;
    // A volume that the host attaches later appears below the one that takes mounts from the host.
    std::fs::create_dir(path("shared/pvc")).unwrap();
    let _attached = Mounted::tmpfs(&path("shared/pvc"));
    assert!(
        cri.exec(&id, "cat /proc/mounts")
            .await
            .contains(" /csi/pvc tmpfs")
    );

    let mut agent = scene.agent().await;
    assert_open(&mut agent, &[]).await;
    let container = ctr.container(&id);
    from_the_host(&container, "mount -t tmpfs none /usr/bin");
    let due = format!("mount-drift /usr/bin critical {id}");
    assert_open(&mut agent, &[&due]).await;
    drop(shared);
}

/// A mount of the host, while the test needs it.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn tmpfs(at: &Path) -> Self {
        let shown = at.to_str().unwrap();
        command::must("mount", &["-t", "tmpfs", "none", shown]);
        Self(at.to_owned())
    }

    /// A directory bound onto itself that passes mounts on.
    fn shared(at: &Path) -> Self {
        let shown = at.to_str().unwrap();
        command::must("mount", &["--bind", shown, shown]);
        command::must("mount", &["--make-shared", shown]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a container that the mount was passed on to may still be there.
        drop(command::run("umount", &["-l", self.0.to_str().unwrap()]));
    }
}
