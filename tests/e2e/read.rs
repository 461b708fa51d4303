//! Files that have to be read to be judged: accounts, caches of modules, content that the image has elsewhere,
//! and files that cannot be read. Each alone on a container, with a control of the same image beside it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use holdfast_tests::container::Container;
use holdfast_tests::image::{BUSYBOX, Image};
use holdfast_tests::layer::{Entry, Layer};
use holdfast_tests::scenario;
use rustix::fs::{XattrFlags, setxattr};

use crate::scene::{IMAGE, Scene};

async fn scene_of(image: &Image) -> Scene {
    let scene = Scene::with(image).await;
    scene.run("control");
    scene
}

#[tokio::test]
async fn an_account_that_takes_somebody_elses_rights_is_critical() {
    let scene = scene_of(&Image::busybox([])).await;
    let attacks = [
        (
            "arbitrary",
            "echo 'svc:x:1000690000:0::/:/bin/sh' >> /etc/passwd",
        ),
        ("second", "echo 'svc:x:1000:1001::/:/bin/sh' >> /etc/passwd"),
        ("wheel", "echo 'wheel:x:4711:svc' >> /etc/group"),
    ];
    for (id, script) in attacks {
        scene.run(id).exec(script);
    }
    scene
        .assert_found(&[
            "file-drift modified trust-anchor /etc/passwd warning arbitrary",
            "file-drift modified trust-anchor /etc/passwd critical second",
            "file-drift modified trust-anchor /etc/group critical wheel",
        ])
        .await;
}

#[tokio::test]
async fn content_that_an_older_layer_had_is_found_and_its_layer_named() {
    let below = [Entry::file("opt/app/mode.conf", "mode=debug\n")];
    let above = [Entry::file("opt/app/mode.conf", "mode=safe\n")];
    let image = Image::new([BUSYBOX.clone(), Layer::new(below), Layer::new(above)]);
    let scene = scene_of(&image).await;
    scene
        .run("reverted")
        .exec("echo mode=debug > /opt/app/mode.conf");
    scene
        .assert_found(&["file-drift modified configuration /opt/app/mode.conf warning reverted"])
        .await;
    let printed = scene.printed(&["-o", "table"]);
    assert!(
        printed.output.contains("older content, of layer sha256:"),
        "{printed:?}"
    );
}

#[tokio::test]
async fn a_cache_of_a_module_is_no_program_and_one_that_nobody_checks_is_critical() {
    let image = Image::busybox([Entry::file("opt/app/m.py", "print(1)\n")]);
    let scene = scene_of(&image).await;
    // Magic number, then flags: 0 with time and size of another source, 1 for "never compare".
    for (id, flags) in [("other", r"\0"), ("unchecked", r"\001")] {
        scene.run(id).exec(&format!(
            "mkdir /opt/app/__pycache__; \
             printf '\\313\\015\\015\\012{flags}\\0\\0\\0\\1\\2\\3\\4\\5\\6\\7\\010' \
             > /opt/app/__pycache__/m.cpython-312.pyc"
        ));
    }
    let cache = "file-drift added bytecode-cache /opt/app/__pycache__/m.cpython-312.pyc critical";
    let folder = "file-drift added data /opt/app/__pycache__ info";
    scene
        .assert_found(&[
            &format!("{cache} other"),
            &format!("{cache} unchecked"),
            &format!("{folder} other"),
            &format!("{folder} unchecked"),
        ])
        .await;
}

#[tokio::test]
async fn a_whiteout_by_attribute_is_a_removed_file() {
    let image = Image::busybox([Entry::file("opt/app/__init__.py", "")]);
    let scene = scene_of(&image).await;
    let container = scene.run("planted");
    container.exec("touch /opt/app/__init__.py");
    let planted = container.upper().join("opt/app/__init__.py");
    setxattr(
        planted,
        "trusted.overlay.whiteout",
        b"",
        XattrFlags::empty(),
    )
    .unwrap();
    scene
        .assert_found(&["file-drift removed program /opt/app/__init__.py warning planted"])
        .await;
}

#[tokio::test]
async fn a_file_that_never_stands_still_is_unverifiable_outside_volatile_places() {
    let scene = scene_of(&Image::busybox([Entry::program(
        "usr/bin/tool",
        "#!/bin/sh\n",
    )]))
    .await;
    let (kept, volatile) = (scene.run("kept"), scene.run("volatile"));
    grow(&kept, "/opt/app/grow");
    grow(&volatile, "/tmp/grow");
    // As bad as the change that nobody could read.
    grow(&scene.run("program"), "/usr/bin/tool");
    kept.exec("cp /bin/busybox /usr/bin/evil");
    scene
        .assert_found(&[
            "unverifiable files changing - warning kept",
            "unverifiable files changing - critical program",
            // What could be read is reported all the same.
            "file-drift moved program /usr/bin/evil warning kept",
        ])
        .await;
}

/// A file that takes a while to read and is appended to all the time.
fn grow(container: &Container, path: &str) {
    container.exec(&format!(
        "dd if=/dev/zero of={path} bs=1M seek=800 count=1 2>/dev/null\n\
         (while :; do echo x >> {path}; done) >/dev/null 2>&1 </dev/null &"
    ));
}

/// As the wrappers for GPUs do: a mount in the bundle that containerd's record does not have.
#[tokio::test]
async fn what_the_runtime_makes_for_a_mount_of_the_bundle_alone_is_no_change() {
    let scene = scene_of(&Image::busybox([])).await;
    let folder = tempfile::tempdir().unwrap();
    let wrapper = folder.path().join("runc-with-driver");
    let script = format!(
        "#!/usr/bin/python3\n\
         import json,os,sys\n\
         words=sys.argv[1:]\n\
         if 'create' in words:\n\
         \x20   path=words[words.index('--bundle')+1]+'/config.json'\n\
         \x20   spec=json.load(open(path))\n\
         \x20   spec['mounts'].append(dict(destination='/opt/vendor/driver.so',type='bind',\n\
         \x20       source={wrapper:?},options=['bind','ro']))\n\
         \x20   json.dump(spec,open(path,'w'))\n\
         os.execvp('runc',['runc']+words)\n"
    );
    // Written by another process: what this one holds open for writing, another test's child may inherit.
    let written = Command::new("sh")
        .args(["-c", "printf '%s' \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"])
        .arg(&wrapper)
        .arg(script)
        .status();
    assert!(written.unwrap().success());
    let options = ["--runc-binary", wrapper.to_str().unwrap()];
    let given = scene
        .containerd
        .ctr()
        .run_with(&options, IMAGE, "given", &[]);
    assert!(given.upper().join("opt/vendor/driver.so").exists());
    scene.assert_found(&[]).await;

    given.exec("cp /bin/busybox /opt/vendor/evil");
    scene
        .assert_found(&["file-drift moved program /opt/vendor/evil warning given"])
        .await;
}

/// A server that reads no request, over a directory of the container that every look passes.
#[tokio::test]
async fn a_file_system_in_a_container_that_never_answers_holds_no_look_up() {
    let scene = scene_of(&Image::busybox([])).await;
    let container = scene.run("silent");
    container.exec("echo x > /opt/app/new.txt; cp /bin/busybox /usr/bin/evil");
    let silent = Silent::over(&container, "/opt/app");
    let (_, found) = scene.check(&[]);
    let lines: Vec<String> = found.iter().flat_map(scenario::lines).collect();
    let of_files = |line: &&String| line.contains("file") || line.contains("unverifiable");
    let of_files: Vec<&String> = lines.iter().filter(of_files).collect();
    assert_eq!(
        of_files,
        [
            "file-drift moved program /usr/bin/evil warning silent",
            "file-drift added data /opt/app/new.txt info silent",
        ]
    );
    drop(silent);
}

/// A FUSE mount in a container's mount namespace. Its server ends with its process, and every request with
/// the server.
struct Silent(Child);

impl Silent {
    fn over(container: &Container, at: &str) -> Self {
        let script = "import ctypes,os,sys\n\
            libc=ctypes.CDLL(None,use_errno=True)\n\
            server=os.open('/dev/fuse',os.O_RDWR)\n\
            place=os.open(f'/proc/{sys.argv[1]}/ns/mnt',os.O_RDONLY)\n\
            assert libc.setns(place,0)==0, ctypes.get_errno()\n\
            options=f'fd={server},rootmode=40000,user_id=0,group_id=0'.encode()\n\
            mounted=libc.mount(b'silent',sys.argv[2].encode(),b'fuse',6,options)\n\
            assert mounted==0, ctypes.get_errno()\n\
            print('mounted',flush=True)\n\
            sys.stdin.read()\n\
            libc.umount2(sys.argv[2].encode(),2)\n";
        let mut server = Command::new("python3")
            .args(["-c", script, &container.pid().to_string(), at])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "mounted");
        Self(server)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}
