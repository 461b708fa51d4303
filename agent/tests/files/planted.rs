//! What somebody on the node puts into an upper directory, and what the runtime puts there itself.

use std::fs;

use holdfast_core::overlay::XattrPrefix;
use rustix::fs::FileType;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::container::Container;
use super::image::{EVIL, chmod, mknod, set_xattr};

const NONE: [&str; 0] = [];

#[test]
fn a_planted_whiteout_of_any_mode_hides_everything_below() {
    let mut container = Container::new();
    mknod(
        &container.upper("opt/app/app.conf"),
        FileType::CharacterDevice,
        0,
        0,
    );
    chmod(&container.upper("opt/app/app.conf"), 0o755);
    mknod(
        &container.upper("opt/app/lib"),
        FileType::CharacterDevice,
        0,
        0,
    );
    mknod(
        &container.upper("opt/nothing"),
        FileType::CharacterDevice,
        0,
        0,
    );
    assert_eq!(
        container.found(),
        [
            "warning removed configuration /opt/app/app.conf",
            "warning removed data /opt/app/lib",
            "warning removed data /opt/app/lib/deep",
            "warning removed data /opt/app/lib/deep/er",
            "warning removed data /opt/app/lib/deep/er/x",
            "warning removed data /opt/app/lib/mod1.txt",
            "warning removed data /opt/app/lib/mod2.txt",
        ]
    );
}

/// A copy of an empty file is the same file to whoever compares content, and nothing to whoever opens it.
#[test]
fn a_whiteout_by_attribute_removes_and_an_empty_file_too() {
    let mut container = Container::new();
    for path in [
        "opt/app/lib/mod1.txt",
        "opt/app/py/__init__.py",
        "opt/app/run.sh",
    ] {
        fs::write(container.upper(path), "").unwrap();
        set_xattr(&container.upper(path), "trusted.overlay.whiteout", b"");
    }
    // One directory says that it holds them, as it should; the others do not.
    set_xattr(
        &container.upper("opt/app/lib"),
        "trusted.overlay.opaque",
        b"x",
    );
    assert_eq!(
        container.found(),
        [
            "warning removed data /opt/app/lib/mod1.txt",
            "warning removed program /opt/app/py/__init__.py",
            "warning removed program /opt/app/run.sh",
        ]
    );
}

#[test]
fn a_planted_redirect_or_metacopy_is_critical_wherever_it_is() {
    let mut container = Container::new();
    fs::create_dir(container.upper("tmp/x/").join("dir")).unwrap();
    chmod(&container.upper("tmp"), 0o1777);
    set_xattr(
        &container.upper("tmp/x/dir"),
        "trusted.overlay.redirect",
        b"/usr/bin",
    );
    fs::write(container.upper("usr/bin/victim"), "").unwrap();
    set_xattr(
        &container.upper("usr/bin/victim"),
        "trusted.overlay.metacopy",
        b"",
    );
    assert_eq!(
        container.found(),
        [
            "critical redirected program /usr/bin/victim",
            "critical redirected volatile /tmp/x/dir",
        ]
    );
}

#[test]
fn bookkeeping_and_escaped_attributes_are_no_change() {
    let mut container = Container::new();
    let directory = container.upper("opt/app/lib/");
    for (name, value) in [
        ("trusted.overlay.origin", b"x".as_slice()),
        ("trusted.overlay.impure", b"y"),
        ("trusted.overlay.overlay.opaque", b"y"),
        ("trusted.overlay.overlay.redirect", b"/hidden"),
    ] {
        set_xattr(&directory, name, value);
    }
    assert_eq!(container.found(), NONE);
}

#[test]
fn under_userxattr_the_users_attributes_count_and_else_they_are_metadata() {
    let mut container = Container::new();
    container.upper("opt/app/lib/");
    set_xattr(&container.upper("opt/app/lib"), "user.overlay.opaque", b"y");
    assert_eq!(container.found(), ["info metadata data /opt/app/lib"]);

    let mut container = Container::new();
    container.upper("opt/app/lib/deep/");
    set_xattr(&container.upper("opt/app/lib"), "user.overlay.opaque", b"y");
    container.prefix = XattrPrefix::User;
    assert_eq!(
        container.found(),
        [
            "warning removed data /opt/app/lib/deep/er",
            "warning removed data /opt/app/lib/deep/er/x",
            "warning removed data /opt/app/lib/mod1.txt",
            "warning removed data /opt/app/lib/mod2.txt",
        ]
    );
}

#[test]
fn an_opaque_mark_from_the_host_removes_what_is_not_put_back() {
    let mut container = Container::new();
    fs::write(container.upper("opt/app/lib/mod2.txt"), "lib 2\n").unwrap();
    mknod(
        &container.upper("opt/app/lib/mod1.txt"),
        FileType::CharacterDevice,
        0,
        0,
    );
    let before = ["warning removed data /opt/app/lib/mod1.txt"];
    assert_eq!(container.found(), before);
    set_xattr(
        &container.upper("opt/app/lib"),
        "trusted.overlay.opaque",
        b"y",
    );
    let after = [
        "warning removed data /opt/app/lib/deep",
        "warning removed data /opt/app/lib/deep/er",
        "warning removed data /opt/app/lib/deep/er/x",
        "warning removed data /opt/app/lib/mod1.txt",
    ];
    for _scan in 0..2 {
        container.later(1);
        assert_eq!(container.found(), after);
    }
}

#[test]
fn what_the_runtime_makes_for_its_mounts_is_no_change_and_what_is_in_it_is() {
    let mut container = Container::new();
    container.upper("proc/");
    container.upper("srv/volume/");
    fs::write(container.upper("etc/resolv.conf"), "").unwrap();
    assert_eq!(container.found(), NONE);
    fs::write(container.upper("srv/volume/hidden"), EVIL).unwrap();
    fs::write(container.upper("etc/resolv.conf"), "nameserver 10.0.0.1\n").unwrap();
    container.later(1);
    assert_eq!(
        container.found(),
        [
            "warning added configuration /etc/resolv.conf",
            "warning added program /srv/volume/hidden",
        ]
    );
}

#[test]
fn what_something_is_mounted_over_is_unverifiable() {
    let mut container = Container::new();
    let covered = container.upper("opt/app/");
    mount("none", &covered, "tmpfs", MountFlags::empty(), None).unwrap();
    let found = container.found();
    unmount(&covered, UnmountFlags::DETACH).unwrap();
    assert_eq!(found, ["unverifiable mounted /opt/app"]);
}
