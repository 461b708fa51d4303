//! What a container does through the kernel's overlay: copy-ups, whiteouts and opaque directories are the
//! kernel's own here.
//!
//! Long because each case is a directory made by hand and its whole outcome.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{FileType, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::container::Container;
use super::image::{ELF, EVIL, chmod, chown_to, mknod, set_xattr};

/// What one act in a fresh container leaves to be found.
fn found_after(act: impl FnOnce(&Container)) -> Vec<String> {
    let mut container = Container::mounted();
    act(&container);
    container.found()
}

fn append(at: &Path, text: &str) {
    let mut file = OpenOptions::new().append(true).open(at).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn program(at: &Path, content: &[u8]) {
    fs::write(at, content).unwrap();
    chmod(at, 0o755);
}

const NONE: [&str; 0] = [];

#[test]
fn a_container_that_only_reads_is_clean() {
    assert_eq!(found_after(|_| {}), NONE);
}

#[test]
fn touching_copies_up_and_changes_nothing() {
    let found = found_after(|c| {
        for path in [
            "usr/bin/victim",
            "opt/app/app.conf",
            "opt/app/run.sh",
            "etc/shadow",
        ] {
            let far = Timespec {
                tv_sec: -2_147_483_648,
                tv_nsec: 999_999_999,
            };
            let times = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: far,
            };
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            utimensat(rustix::fs::CWD, c.root(path), &times, flags).unwrap();
            assert!(c.upper(path).exists(), "{path} was not copied up");
        }
        chmod(&c.root("opt/app/bin/server"), 0o755);
        chown_to(&c.root("etc/passwd"), 0);
        chmod(&c.root("opt/app/lib"), 0o755);
    });
    assert_eq!(found, NONE);
}

#[test]
fn the_same_bytes_put_back_are_no_change() {
    let found = found_after(|c| {
        fs::remove_file(c.root("opt/app/app.conf")).unwrap();
        fs::write(c.root("opt/app/app.conf"), "mode=safe\nlevel=2\n").unwrap();
        fs::remove_dir_all(c.root("opt/app/lib")).unwrap();
        fs::create_dir_all(c.root("opt/app/lib/deep/er")).unwrap();
        fs::write(c.root("opt/app/lib/mod1.txt"), "lib 1\n").unwrap();
        fs::write(c.root("opt/app/lib/mod2.txt"), "lib 2\n").unwrap();
        fs::write(c.root("opt/app/lib/deep/er/x"), "x\n").unwrap();
    });
    assert_eq!(found, NONE);
}

#[test]
fn a_healthy_service_writes_where_services_write() {
    let found = found_after(|c| {
        fs::write(c.root("var/log/app.log"), "started\n").unwrap();
        fs::write(c.root("var/cache/app/state"), "1").unwrap();
        fs::create_dir(c.root("tmp/session")).unwrap();
        fs::write(c.root("tmp/session/1"), "s").unwrap();
        symlink("session/1", c.root("tmp/current")).unwrap();
        UnixListener::bind(c.root("run/app.sock"))
            .map(drop)
            .unwrap();
    });
    assert_eq!(found, NONE);
}

#[test]
fn twenty_thousand_numbers_in_files_are_nobodys_script() {
    let found = found_after(|c| {
        for n in 0_u64..20_000 {
            let directory = c.root(&format!("tmp/m/d{}", n / 1000));
            if n % 1000 == 0 {
                fs::create_dir_all(&directory).unwrap();
            }
            fs::write(directory.join(format!("f{n}")), n.to_ne_bytes()).unwrap();
        }
    });
    assert_eq!(found, NONE);
}

#[test]
fn a_program_that_is_dropped_overwritten_or_renamed_over_is_found() {
    let found = found_after(|c| {
        program(&c.root("tmp/.x"), EVIL);
        fs::write(c.root("usr/bin/victim"), EVIL).unwrap();
        program(&c.root("opt/app/bin/.t"), EVIL);
        fs::rename(c.root("opt/app/bin/.t"), c.root("opt/app/bin/server")).unwrap();
        fs::write(c.root("tmp/e"), EVIL).unwrap();
        program(&c.root("tmp/s"), b"#!/bin/sh\necho evil\n");
    });
    assert_eq!(
        found,
        [
            "critical modified program /opt/app/bin/server",
            "critical modified program /usr/bin/victim",
            "warning added program /tmp/.x",
            "warning added program /tmp/e",
            "warning added program /tmp/s",
        ]
    );
}

#[test]
fn scripts_modules_and_configuration_are_compared_by_content() {
    let found = found_after(|c| {
        append(&c.root("opt/app/run.sh"), "echo evil\n");
        fs::write(c.root("opt/app/py/appmod.py"), "MSG = 2\n").unwrap();
        // The content of a lower layer of the same image.
        fs::write(c.root("opt/app/app.conf"), "mode=safe\n").unwrap();
        fs::write(c.root("etc/ld.so.preload"), "/tmp/p.so\n").unwrap();
        fs::write(c.root("etc/new.conf"), "new\n").unwrap();
        fs::write(c.root("opt/app/needle"), "needle\n").unwrap();
    });
    assert_eq!(
        found,
        [
            "critical added trust-anchor /etc/ld.so.preload",
            "critical modified program /opt/app/py/appmod.py",
            "critical modified program /opt/app/run.sh",
            "info added data /opt/app/needle",
            "warning added configuration /etc/new.conf",
            "warning modified configuration /opt/app/app.conf",
        ]
    );
}

#[test]
fn a_removed_file_is_a_whiteout_and_a_replaced_directory_is_opaque() {
    let found = found_after(|c| {
        fs::remove_file(c.root("opt/app/app.conf")).unwrap();
        fs::remove_dir_all(c.root("opt/app/lib")).unwrap();
        fs::create_dir(c.root("opt/app/lib")).unwrap();
        fs::write(c.root("opt/app/lib/evil.txt"), "x").unwrap();
        fs::write(c.root("opt/app/lib/mod2.txt"), "other").unwrap();
        fs::remove_dir_all(c.root("usr/bin")).unwrap();
    });
    assert_eq!(
        found,
        [
            "info added data /opt/app/lib/evil.txt",
            "warning modified data /opt/app/lib/mod2.txt",
            "warning removed configuration /opt/app/app.conf",
            "warning removed data /opt/app/lib/deep",
            "warning removed data /opt/app/lib/deep/er",
            "warning removed data /opt/app/lib/deep/er/x",
            "warning removed data /opt/app/lib/mod1.txt",
            "warning removed data /usr/bin",
            "warning removed program /usr/bin/sh",
            "warning removed program /usr/bin/suid",
            "warning removed program /usr/bin/tool",
            "warning removed program /usr/bin/twin",
            "warning removed program /usr/bin/victim",
        ]
    );
}

#[test]
fn a_gained_right_is_critical_and_a_lost_one_is_not() {
    let capability = [
        1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let found = found_after(|c| {
        chmod(&c.root("usr/bin/victim"), 0o4755);
        set_xattr(&c.root("usr/bin/sh"), "security.capability", &capability);
        chmod(&c.root("usr/bin/suid"), 0o755);
        program(&c.root("tmp/x"), ELF);
        chmod(&c.root("tmp/x"), 0o4755);
        chown_to(&c.root("opt/app/lib/mod1.txt"), 1000);
        chmod(&c.root("opt/app/lib"), 0o777);
    });
    assert_eq!(
        found,
        [
            "critical metadata program /usr/bin/sh",
            "critical metadata program /usr/bin/victim",
            "critical moved program /tmp/x",
            "info metadata data /opt/app/lib",
            "info metadata data /opt/app/lib/mod1.txt",
            "warning metadata program /usr/bin/suid",
        ]
    );
}

#[test]
fn account_files_are_read_and_judged_by_their_entries() {
    let mut container = Container::mounted();
    let passwd = container.root("etc/passwd");
    append(&passwd, "toor:x:0:0::/root:/bin/sh\n");
    append(
        &container.root("etc/shadow"),
        "toor:$6$x$y:19000:0:99999:7:::\n",
    );
    append(&container.root("etc/group"), "svc:x:1001:\n");

    let outcome = container.scan();

    let mut notes: Vec<_> = outcome
        .changes
        .iter()
        .map(|change| (change.severity.as_str(), change.note.as_deref().unwrap()))
        .collect();
    notes.sort_unstable();
    assert_eq!(
        notes,
        [
            ("critical", "uid 0 account toor added"),
            ("warning", "group svc added"),
            ("warning", "password of toor added"),
        ]
    );
}

#[test]
fn an_account_that_an_entry_point_adds_is_a_warning() {
    let found = found_after(|c| {
        let line = "svc:x:1000690000:0:service user:/home/app:/sbin/nologin\n";
        append(&c.root("etc/passwd"), line);
    });
    assert_eq!(found, ["warning modified trust-anchor /etc/passwd"]);
}

#[test]
fn an_account_file_whose_genuine_content_was_tampered_with_too_stays_critical() {
    let mut container = Container::mounted();
    append(
        &container.root("etc/passwd"),
        "svc:x:1001:1001::/:/bin/false\n",
    );
    // The image's own copy no longer hashes to what was signed: it is not believed.
    append(
        &container.layer(2).at("etc/passwd"),
        "svc:x:1001:1001::/:/bin/false\n",
    );

    let found = container.found();

    assert_eq!(found, ["critical modified trust-anchor /etc/passwd"]);
}

#[test]
fn links_have_the_class_of_what_they_lead_to_and_are_never_followed_out() {
    let found = found_after(|c| {
        program(&c.root("var/tmp/t"), EVIL);
        let relink = |path: &str, target: &str| {
            let at = c.root(path);
            fs::remove_file(&at).unwrap();
            symlink(target, &at).unwrap();
        };
        relink("usr/bin/tool", "/var/tmp/t");
        relink("opt/app/app.conf", "/etc/shadow");
        relink("opt/app/run.sh", "/dev/zero");
        relink("opt/app/lib/mod1.txt", "/proc/kmsg");
        relink("opt/app/lib/mod2.txt", "mod2.txt");
        symlink("a".repeat(4000), c.root("tmp/long")).unwrap();
        symlink(
            "../../../../../../../../../etc/hostname",
            c.root("opt/app/out"),
        )
        .unwrap();
        symlink("/etc/../usr/bin/sh", c.root("tmp/sh")).unwrap();
    });
    assert_eq!(
        found,
        [
            "critical modified program /opt/app/run.sh",
            "critical modified program /usr/bin/tool",
            "critical modified trust-anchor /opt/app/app.conf",
            "warning added configuration /opt/app/out",
            "warning added program /tmp/sh",
            "warning added program /var/tmp/t",
            "warning modified data /opt/app/lib/mod1.txt",
            "warning modified data /opt/app/lib/mod2.txt",
        ]
    );
}

#[test]
fn a_link_over_a_directory_of_programs_is_critical() {
    let found = found_after(|c| {
        fs::create_dir(c.root("tmp/evil")).unwrap();
        fs::remove_file(c.root("bin")).unwrap();
        symlink("tmp/evil", c.root("bin")).unwrap();
        fs::remove_dir_all(c.root("opt/app/bin")).unwrap();
        symlink("/tmp/evil", c.root("opt/app/bin")).unwrap();
    });
    assert_eq!(
        found,
        [
            "critical modified program /bin",
            "critical modified program /opt/app/bin",
            "warning removed program /opt/app/bin/server",
        ]
    );
}

#[test]
fn fifos_devices_and_sockets_are_seen_and_never_opened() {
    let found = found_after(|c| {
        for path in ["opt/app/app.conf", "usr/bin/victim"] {
            fs::remove_file(c.root(path)).unwrap();
            mknod(&c.root(path), FileType::Fifo, 0, 0);
        }
        mknod(&c.root("tmp/z"), FileType::CharacterDevice, 1, 5);
        mknod(&c.root("tmp/b"), FileType::BlockDevice, 8, 0);
        UnixListener::bind(c.root("opt/s")).map(drop).unwrap();
        chmod(&c.root("opt/s"), 0o777);
    });
    assert_eq!(
        found,
        [
            "critical modified program /usr/bin/victim",
            "info added data /opt/s",
            "info added device-node /tmp/z",
            "warning added device-node /tmp/b",
            "warning modified configuration /opt/app/app.conf",
        ]
    );
}

#[test]
fn hostile_names_are_kept_byte_for_byte() {
    let names: [&[u8]; 6] = [
        b"ok.log\nseverity=info",
        b"a\x1b[2K\x1b]0;owned\x07",
        b"bad\xff\xfe\x80\xc3(name",
        b"\",\"severity\":\"info",
        b".wh.victim",
        &[b'L'; 255],
    ];
    let mut container = Container::mounted();
    for name in names {
        program(
            &container.root("usr/bin").join(OsStr::from_bytes(name)),
            EVIL,
        );
    }

    let outcome = container.scan();

    let mut paths: Vec<_> = outcome.changes.iter().map(|change| &change.path).collect();
    paths.sort_unstable();
    let mut due = names.map(|name| [b"usr/bin/", name].concat());
    due.sort_unstable();
    assert_eq!(paths, due.iter().collect::<Vec<_>>());
    assert_eq!(outcome.changes.total(), 6);
}

#[test]
fn a_hard_link_to_an_image_file_is_compared_by_content() {
    let found = found_after(|c| {
        fs::hard_link(c.root("usr/bin/victim"), c.root("usr/bin/alias")).unwrap();
        fs::rename(c.root("opt/app/run.sh"), c.root("opt/app/start.sh")).unwrap();
    });
    assert_eq!(
        found,
        [
            "warning moved program /opt/app/start.sh",
            "warning moved program /usr/bin/alias",
            "warning removed program /opt/app/run.sh",
        ]
    );
}

#[test]
fn a_payload_built_in_a_volatile_place_is_found_where_it_ends() {
    let found = found_after(|c| {
        program(&c.root("var/log/app.log.1"), EVIL);
        fs::rename(c.root("var/log/app.log.1"), c.root("usr/bin/svc")).unwrap();
    });
    assert_eq!(found, ["warning added program /usr/bin/svc"]);
}
