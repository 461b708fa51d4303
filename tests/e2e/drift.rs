//! What a container changed of its image, by `check` and by the running agent: each change alone on a
//! container, with a control of the same image beside it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use holdfast_tests::image::Image;
use holdfast_tests::layer::Entry;
use rustix::fs::{XattrFlags, setxattr};

use crate::scene::Scene;

async fn scene() -> Scene {
    let image = Image::busybox([
        Entry::program("usr/bin/tool", "#!/bin/sh\necho tool\n"),
        Entry::symlink("etc/tool.link", "/usr/bin/tool"),
    ]);
    let scene = Scene::with(&image).await;
    scene.run("control");
    scene
}

/// Runs each script in a container of its own.
fn attack(scene: &Scene, attacks: &[(&str, &str)]) {
    for (id, script) in attacks {
        scene.run(id).exec(script);
    }
}

#[tokio::test]
async fn each_kind_of_change_is_one_finding_of_its_class() {
    let scene = scene().await;
    attack(
        &scene,
        &[
            ("added", "printf '#!/bin/sh\\n' > /usr/bin/evil"),
            ("moved", "cp /bin/busybox /usr/bin/evil"),
            ("onto", "cp /bin/busybox /usr/bin/tool"),
            ("modified", "echo '#!/bin/sh' > /usr/bin/tool"),
            ("removed", "rm /opt/app/data.txt"),
            ("metadata", "chmod 0600 /opt/app/app.conf"),
            ("owner", "chown 1000:1000 /opt/app/run.sh"),
            ("script", "echo 'print(1)' > /opt/app/x.py"),
            ("config", "echo 'a: b' > /opt/app/new.yaml"),
            (
                "volatile",
                "echo x > /tmp/x; echo x > /var/log/x; echo x > /run/x",
            ),
            (
                "same",
                "cp -p /usr/bin/tool /tmp/t && cat /tmp/t > /usr/bin/tool && rm /tmp/t",
            ),
        ],
    );
    scene
        .assert_found(&[
            "file-drift added program /usr/bin/evil warning added",
            "file-drift moved program /usr/bin/evil warning moved",
            "file-drift moved program /usr/bin/tool critical onto",
            "file-drift modified program /usr/bin/tool critical modified",
            "file-drift removed data /opt/app/data.txt warning removed",
            "file-drift metadata configuration /opt/app/app.conf warning metadata",
            "file-drift metadata program /opt/app/run.sh warning owner",
            "file-drift added program /opt/app/x.py warning script",
            "file-drift added configuration /opt/app/new.yaml warning config",
        ])
        .await;
}

#[tokio::test]
async fn a_right_that_a_file_gives_is_critical() {
    let scene = scene().await;
    attack(
        &scene,
        &[
            ("set-id", "chmod 4755 /usr/bin/tool"),
            ("added", "cp /bin/busybox /tmp/su && chmod 2755 /tmp/su"),
        ],
    );
    let capable = scene.run("capable");
    // CAP_NET_RAW, permitted and effective, as `setcap` writes it.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tool = capable.inside("/usr/bin/tool");
    setxattr(
        tool,
        "security.capability",
        &capability,
        XattrFlags::empty(),
    )
    .unwrap();
    scene
        .assert_found(&[
            "file-drift metadata program /usr/bin/tool critical set-id",
            "file-drift moved program /tmp/su critical added",
            "file-drift metadata program /usr/bin/tool critical capable",
        ])
        .await;
}

#[tokio::test]
async fn a_new_root_account_is_worse_than_a_new_account() {
    let scene = scene().await;
    attack(
        &scene,
        &[
            ("root", "echo 'toor:x:0:0::/:/bin/sh' >> /etc/passwd"),
            ("user", "echo 'svc:x:1001:1001::/:/bin/sh' >> /etc/passwd"),
            (
                "both",
                "printf 'svc:x:1001:1001::/:/bin/sh\\nroot2:x:0:0::/:/bin/sh\\n' >> /etc/passwd",
            ),
            ("stolen", "sed -i 's/^root:[*]/root:/' /etc/shadow"),
        ],
    );
    scene
        .assert_found(&[
            "file-drift modified trust-anchor /etc/passwd critical root",
            "file-drift modified trust-anchor /etc/passwd warning user",
            "file-drift modified trust-anchor /etc/passwd critical both",
            "file-drift modified trust-anchor /etc/shadow critical stolen",
        ])
        .await;
}

#[tokio::test]
async fn a_link_counts_as_what_it_leads_to() {
    let scene = scene().await;
    attack(
        &scene,
        &[
            ("retargeted", "ln -sf /tmp/elsewhere /etc/tool.link"),
            ("program", "ln -s /usr/bin/tool /opt/app/link"),
            // Far above the root: the container's own root is as high as it goes.
            (
                "out",
                "ln -s ../../../../../../../../etc/hostname /opt/app/out",
            ),
            ("loop", "ln -s loop /opt/app/loop"),
            ("root", "ln -s / /opt/app/root"),
            // Where nothing is yet, or a volume is: the place of the link says what it is for.
            ("unseen", "ln -s /data/helper /usr/bin/helper"),
            ("elsewhere", "ln -s /data/notes /opt/app/notes"),
            ("keys", "mkdir /opt/keys && ln -s /opt/keys /root/.ssh"),
            (
                "rights",
                "mkdir /opt/rights && ln -s /opt/rights /etc/sudoers.d",
            ),
        ],
    );
    scene
        .assert_found(&[
            "file-drift modified program /etc/tool.link critical retargeted",
            "file-drift added program /opt/app/link warning program",
            "file-drift added configuration /opt/app/out warning out",
            "file-drift added data /opt/app/loop info loop",
            "file-drift added data /opt/app/root info root",
            "file-drift added program /usr/bin/helper warning unseen",
            "file-drift added data /opt/app/notes info elsewhere",
            "file-drift added data /opt/keys info keys",
            "file-drift added trust-anchor /root/.ssh critical keys",
            "file-drift added data /opt/rights info rights",
            "file-drift added trust-anchor /etc/sudoers.d critical rights",
        ])
        .await;
}

#[tokio::test]
async fn what_an_opaque_directory_hides_is_removed() {
    let scene = scene().await;
    attack(
        &scene,
        &[
            ("emptied", "rm -r /opt/app && mkdir /opt/app"),
            (
                "replaced",
                "cp -a /opt/app /tmp/app && rm -r /opt/app && mkdir /opt/app && cp -a /tmp/app/run.sh /opt/app",
            ),
            ("gone", "rm -r /opt/app"),
        ],
    );
    scene
        .assert_found(&[
            "file-drift removed configuration /opt/app/app.conf warning emptied",
            "file-drift removed data /opt/app/data.txt warning emptied",
            "file-drift removed program /opt/app/run.sh warning emptied",
            "file-drift removed configuration /opt/app/app.conf warning replaced",
            "file-drift removed data /opt/app/data.txt warning replaced",
            "file-drift moved program /tmp/app/run.sh warning replaced",
            "file-drift removed data /opt/app warning gone",
            "file-drift removed configuration /opt/app/app.conf warning gone",
            "file-drift removed data /opt/app/data.txt warning gone",
            "file-drift removed program /opt/app/run.sh warning gone",
        ])
        .await;
}

#[tokio::test]
async fn devices_and_pipes_are_reported_and_never_opened() {
    let scene = scene().await;
    attack(
        &scene,
        &[
            ("block", "mknod /opt/disk b 7 0"),
            ("char", "mknod /opt/mem c 1 1"),
            ("tmp", "mknod /tmp/disk b 7 0"),
            ("pipe", "rm /opt/app/data.txt && mkfifo /opt/app/data.txt"),
            ("anchor", "rm /etc/group && mkfifo /etc/group"),
        ],
    );
    scene
        .assert_found(&[
            "file-drift added device-node /opt/disk warning block",
            "file-drift added device-node /opt/mem info char",
            "file-drift added device-node /tmp/disk warning tmp",
            "file-drift modified data /opt/app/data.txt warning pipe",
            "file-drift modified trust-anchor /etc/group critical anchor",
        ])
        .await;
}

#[tokio::test]
async fn a_planted_redirect_is_critical_wherever_it_lies() {
    let scene = scene().await;
    for (id, path) in [("program", "usr/bin/tool"), ("volatile", "tmp/plain")] {
        let container = scene.run(id);
        container.exec("touch /usr/bin/tool; mkdir /tmp/plain");
        let planted = container.upper().join(path);
        let value = b"/opt/app";
        setxattr(
            planted,
            "trusted.overlay.redirect",
            value,
            XattrFlags::empty(),
        )
        .unwrap();
    }
    scene
        .assert_found(&[
            "file-drift redirected program /usr/bin/tool critical program",
            "file-drift redirected volatile /tmp/plain critical volatile",
        ])
        .await;
}

#[tokio::test]
async fn an_upgrade_of_many_programs_is_one_finding() {
    let scene = scene().await;
    scene
        .run("upgraded")
        .exec("for n in $(seq 25); do cp /bin/busybox /usr/bin/new$n; done");
    let (code, found) = scene.check(&[]);
    assert_eq!(code, 1);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].subject.as_str(), "mass-change");
    let due: Vec<String> = (1..=25)
        .map(|n| format!("file-drift moved program /usr/bin/new{n} warning upgraded"))
        .collect();
    let due: Vec<&str> = due.iter().map(String::as_str).collect();
    scene.assert_found(&due).await;
}

#[tokio::test]
async fn hostile_names_arrive_in_one_reversible_form() {
    let scene = scene().await;
    let container = scene.run("hostile");
    let long = "l".repeat(255);
    for name in [
        b"a\nseverity=info".as_slice(),
        b"\x1b[2J",
        b"\xff\xfe",
        "\u{202e}gpj".as_bytes(),
        b"back\\slash",
        long.as_bytes(),
    ] {
        let path = container.inside("/usr/bin").join(OsStr::from_bytes(name));
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
    }
    let longest = format!("file-drift added program /usr/bin/{long} warning hostile");
    let due = [
        r"file-drift added program /usr/bin/a\x0aseverity=info warning hostile",
        r"file-drift added program /usr/bin/\x1b[2J warning hostile",
        r"file-drift added program /usr/bin/\xff\xfe warning hostile",
        r"file-drift added program /usr/bin/\u{202e}gpj warning hostile",
        r"file-drift added program /usr/bin/back\\slash warning hostile",
        &longest,
    ];
    scene.assert_found(&due).await;
    let table = scene.printed(&["-o", "table"]);
    let is_plain = |character: char| !character.is_control() || character == '\n';
    assert!(table.output.chars().all(is_plain), "{table:?}");
}

#[tokio::test]
async fn a_hundred_thousand_files_in_tmp_are_no_finding_and_hide_none() {
    let scene = scene().await;
    let container = scene.run("many");
    container.exec("cd /tmp && seq 100000 | xargs touch");
    container.exec("cp /bin/busybox /tmp/50000x");
    scene
        .assert_found(&["file-drift moved program /tmp/50000x warning many"])
        .await;
}

#[tokio::test]
async fn touching_and_copying_up_is_no_change() {
    let scene = scene().await;
    attack(
        &scene,
        &[
            (
                "touched",
                "touch /usr/bin/tool /etc/passwd /opt/app/app.conf /opt/app",
            ),
            (
                "chmodded",
                "chmod 0700 /usr/bin/tool && chmod 0755 /usr/bin/tool",
            ),
            (
                "rewritten",
                "cp /etc/passwd /tmp/p && cat /tmp/p > /etc/passwd",
            ),
            (
                "recreated",
                "cp -a /opt/app/run.sh /tmp/r && rm /opt/app/run.sh && mv /tmp/r /opt/app/run.sh",
            ),
        ],
    );
    scene.assert_found(&[]).await;
}
