//! Content that the image has elsewhere: copies, moves, swaps, older layers; and caches of its modules.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use super::container::{Container, shown};
use super::image::{ELF, EVIL, Layer, chmod, dir, file, whiteout};

/// Lines as `shown`, each with its note.
fn noted(container: &mut Container) -> Vec<String> {
    let outcome = container.scan();
    let note = |path: &str| {
        let change = outcome
            .changes
            .iter()
            .find(|change| path.strip_prefix('/') == std::str::from_utf8(&change.path).ok());
        change.and_then(|change| change.note.clone())
    };
    shown(&outcome)
        .into_iter()
        .map(|line| match note(line.rsplit(' ').next().unwrap()) {
            Some(note) => format!("{line}: {note}"),
            None => line,
        })
        .collect()
}

#[test]
fn a_copy_of_an_image_file_is_moved_and_as_bad_as_any_other_content() {
    let mut container = Container::mounted();
    let program = |path: &str| {
        fs::write(container.root(path), ELF).unwrap();
        chmod(&container.root(path), 0o755);
    };
    program("tmp/sh");
    program("opt/app/bin/new");
    program("usr/bin/setuid");
    chmod(&container.root("usr/bin/setuid"), 0o4755);
    fs::write(container.root("opt/app/copy.txt"), "lib 1\n").unwrap();
    fs::write(container.root("opt/app/lib/mod2.txt"), "lib 1\n").unwrap();
    fs::write(container.root("opt/app/run.sh"), "lib 1\n").unwrap();
    fs::write(container.root("opt/app/empty"), "").unwrap();
    fs::write(container.root("etc/crontab"), "lib 1\n").unwrap();
    assert_eq!(
        noted(&mut container),
        [
            "critical moved program /opt/app/run.sh: content of /opt/app/lib/mod1.txt",
            "critical moved program /usr/bin/setuid: content of /opt/app/bin/server",
            "critical moved trust-anchor /etc/crontab: content of /opt/app/lib/mod1.txt",
            "info added data /opt/app/empty",
            "info moved data /opt/app/copy.txt: content of /opt/app/lib/mod1.txt",
            "warning moved data /opt/app/lib/mod2.txt: content of /opt/app/lib/mod1.txt",
            "warning moved program /opt/app/bin/new: content of /opt/app/bin/server",
            "warning moved program /tmp/sh: content of /opt/app/bin/server",
        ]
    );
}

#[test]
fn swapped_files_are_each_the_other() {
    let mut container = Container::mounted();
    let [one, two, between] =
        ["opt/app/lib/mod1.txt", "opt/app/run.sh", "tmp/between"].map(|path| container.root(path));
    fs::copy(&one, &between).unwrap();
    fs::copy(&two, &one).unwrap();
    fs::copy(&between, &two).unwrap();
    fs::remove_file(&between).unwrap();
    assert_eq!(
        noted(&mut container),
        [
            "critical moved program /opt/app/lib/mod1.txt: content of /opt/app/run.sh",
            "critical moved program /opt/app/run.sh: content of /opt/app/lib/mod1.txt",
        ]
    );
}

#[test]
fn a_file_that_never_was_in_the_image_is_not_moved() {
    let mut container = Container::mounted();
    fs::write(container.root("opt/app/x"), "never seen\n").unwrap();
    assert_eq!(noted(&mut container), ["info added data /opt/app/x"]);
}

#[test]
fn content_of_an_older_layer_is_named_and_is_no_excuse() {
    let mut container = Container::mounted();
    // Replaced by the third layer; taken away by it.
    fs::write(container.root("opt/app/app.conf"), "mode=safe\n").unwrap();
    fs::write(container.root("opt/app/old-secret"), "old\n").unwrap();
    chmod(&container.root("opt/app/old-secret"), 0o600);
    let layer = container.layer(1).tree.diff_id();
    assert_eq!(
        noted(&mut container),
        [
            format!("info added data /opt/app/old-secret: older content, of layer {layer}"),
            format!(
                "warning modified configuration /opt/app/app.conf: older content, of layer {layer}"
            ),
        ]
    );
}

#[test]
fn what_was_said_is_said_again_without_reading_again() {
    let mut container = Container::new();
    fs::write(container.upper("opt/app/copy.txt"), "lib 1\n").unwrap();
    let first = noted(&mut container);
    container.later(1);
    let outcome = container.scan();
    assert_eq!(outcome.bytes_hashed, 0);
    container.later(1);
    assert_eq!(noted(&mut container), first);
}

/// Python's own compiler, as an import runs it.
fn compile(container: &Container, module: &str, cache: &str, mode: &str) {
    let script = "import py_compile,sys\n\
        mode=py_compile.PycInvalidationMode[sys.argv[3]]\n\
        py_compile.compile(sys.argv[1],cfile=sys.argv[2],doraise=True,invalidation_mode=mode)\n";
    let arguments = [container.root(module), container.root(cache)];
    let compiled = Command::new("python3")
        .args(["-c", script])
        .args(arguments)
        .arg(mode)
        .status()
        .unwrap();
    assert!(compiled.success());
}

/// A container whose image has a module, its cache, and a cache whose module is gone.
fn python() -> Container {
    let layer = [
        dir("tmp", 0o1777),
        file(
            "opt/app/__pycache__/old.cpython-311.pyc",
            b"0123456789abcdef",
            0o644,
        ),
        file(
            "opt/app/__pycache__/run.cpython-311.pyc",
            b"0123456789abcdef",
            0o644,
        ),
        file("opt/app/old.py", b"print(2)\n", 0o644),
        file("opt/app/run.py", b"print(1)\n", 0o644),
    ];
    Container::mounted_of(vec![
        Layer::new(&[whiteout("opt/app/old.py")]),
        Layer::new(&layer),
    ])
}

#[test]
fn a_cache_that_fits_its_module_is_a_warning_and_one_that_does_not_is_critical() {
    let found_after = |act: &dyn Fn(&Container)| {
        let mut container = python();
        act(&container);
        noted(&mut container)
    };
    let new = "opt/app/__pycache__/run.cpython-312.pyc";
    let compiled =
        |mode: &str| found_after(&|container| compile(container, "opt/app/run.py", new, mode));
    let line = |severity: &str, change: &str, tag: u32, note: &str| {
        [format!(
            "{severity} {change} bytecode-cache /opt/app/__pycache__/run.cpython-{tag}.pyc: {note}"
        )]
    };
    let fits = line(
        "warning",
        "added",
        312,
        "header fits its source, which proves nothing",
    );
    assert_eq!(compiled("TIMESTAMP"), fits);
    assert_eq!(compiled("CHECKED_HASH"), fits);
    let unchecked = "bytecode is never compared with its source";
    assert_eq!(
        compiled("UNCHECKED_HASH"),
        line("critical", "added", 312, unchecked)
    );
    // The cache that the image ships, by the same rule.
    let shipped = "opt/app/__pycache__/run.cpython-311.pyc";
    let fits = line(
        "warning",
        "modified",
        311,
        "header fits its source, which proves nothing",
    );
    let found =
        found_after(&|container| compile(container, "opt/app/run.py", shipped, "TIMESTAMP"));
    assert_eq!(found, fits);
    let found = found_after(&|container| {
        fs::write(container.root(shipped), "0123456789abcdeF").unwrap();
    });
    let malformed = line("critical", "modified", 311, "bytecode has no valid header");
    assert_eq!(found, malformed);
    let found = found_after(&|container| {
        compile(container, "opt/app/run.py", new, "TIMESTAMP");
        let cache = fs::OpenOptions::new().write(true).open(container.root(new));
        cache.unwrap().write_at(&[0; 4], 8).unwrap();
    });
    let other = line(
        "critical",
        "added",
        312,
        "bytecode was made of another source",
    );
    assert_eq!(found, other);
}

#[test]
fn a_cache_of_a_module_that_the_container_changed_is_held_against_its_copy() {
    let mut container = python();
    fs::write(container.root("opt/app/run.py"), "print('evil')\n").unwrap();
    let cache = "opt/app/__pycache__/run.cpython-312.pyc";
    compile(&container, "opt/app/run.py", cache, "TIMESTAMP");
    assert_eq!(
        container.found(),
        [
            "critical modified program /opt/app/run.py",
            "warning added bytecode-cache /opt/app/__pycache__/run.cpython-312.pyc",
        ]
    );
}

#[test]
fn a_cache_without_a_module_of_the_image_or_one_that_runs_is_a_program() {
    let mut container = python();
    fs::write(container.root("opt/app/own.py"), "print(3)\n").unwrap();
    for name in ["own", "old"] {
        let cache = format!("opt/app/__pycache__/{name}.cpython-312.pyc");
        compile(&container, "opt/app/own.py", &cache, "TIMESTAMP");
    }
    fs::write(
        container.root("opt/app/__pycache__/run.cpython-312.pyc"),
        EVIL,
    )
    .unwrap();
    assert_eq!(
        container.found(),
        [
            "warning added program /opt/app/__pycache__/old.cpython-312.pyc",
            "warning added program /opt/app/__pycache__/own.cpython-312.pyc",
            "warning added program /opt/app/__pycache__/run.cpython-312.pyc",
            "warning added program /opt/app/own.py",
        ]
    );
}

#[test]
fn a_cache_that_is_gone_or_has_another_mode_is_info() {
    let mut container = python();
    fs::remove_file(container.root("opt/app/__pycache__/run.cpython-311.pyc")).unwrap();
    chmod(
        &container.root("opt/app/__pycache__/old.cpython-311.pyc"),
        0o600,
    );
    assert_eq!(
        container.found(),
        [
            "info removed bytecode-cache /opt/app/__pycache__/run.cpython-311.pyc",
            "warning metadata program /opt/app/__pycache__/old.cpython-311.pyc",
        ]
    );
}
