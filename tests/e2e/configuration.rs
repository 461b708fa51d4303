//! What both programs refuse of a configuration, before they do anything: exit code 78, with the place or the
//! key that is to blame and what was expected, the same for `run` and for `config check`.

use std::path::Path;

use holdfast_tests::program::Printed;
use holdfast_tests::{agent, collector};

const POLICIES: &str = "/var/tmp/holdfast-no-policies";

/// What `run` and `config check` say about a file with this text; it must be the same refusal.
#[track_caller]
fn refusal(run: impl Fn(&[&str]) -> Printed, file: &Path, text: &str) -> String {
    std::fs::write(file, text).unwrap();
    let path = file.to_str().unwrap();
    let mut said = [
        run(&["config", "check", path]),
        run(&["run", "--config", path]),
    ]
    .map(|printed| {
        assert_eq!(printed.code, 78, "{text}{printed:?}");
        assert_eq!(printed.output, "", "{text}");
        printed.errors
    });
    std::mem::take(&mut said[0])
}

#[test]
fn a_bad_configuration_is_refused_with_its_place_and_what_was_expected() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    let path = file.to_str().unwrap();
    for (config, place, said) in [
        ("[scan]\nuper-interval = \"1s\"\n", "2:1:", "upper-interval"),
        ("[scan]\nupper-interval = 5\n", "2:18:", "string"),
        (
            "[scan]\nupper-interval = \"0s\"\n",
            "2:18:",
            "positive length of time",
        ),
        ("[admin]\nlisten = \"nowhere\"\n", "2:10:", "ADDRESS:PORT"),
        (
            "[admin]\nlisten = \"0.0.0.0:7402\"\n",
            "2:10:",
            "loopback address",
        ),
        ("[report]\nspool-bytes = 0\n", "2:15:", "at least"),
        ("node-name = \"no name\"\n", "1:13:", "host name"),
        ("[state]\ndirectory = \"here\"\n", "2:13:", "absolute path"),
        ("[log]\nfilter = \"a=b=c\"\n", "2:10:", "log filter"),
        ("[scan\n", "1:6:", "]"),
    ] {
        let refusal = refusal(agent::run, &file, config);
        assert!(
            refusal.contains(&format!("{path}:{place}")),
            "{config}{refusal}"
        );
        assert!(refusal.contains(said), "{config}{refusal}");
    }
    let good =
        format!("[scan]\nupper-interval = \"1s\"\n[trust]\npolicy-directory = \"{POLICIES}\"\n");
    std::fs::write(&file, good).unwrap();
    assert_eq!(agent::run(&["config", "check", path]).code, 0);
}

/// An authority with certificates of a collector and of node `n-1`.
fn authority(folder: &Path) {
    let folder = folder.to_str().unwrap();
    for arguments in [
        ["init", folder, "--domain", "fleet.example"],
        ["node", folder, "--name", "n-1"],
        ["collector", folder, "--dns", "localhost"],
    ] {
        let made = collector::run(&[&["ca"], arguments.as_slice()].concat());
        assert_eq!(made.code, 0, "{made:?}");
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_refused_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let pki = folder.path().join("pki");
    authority(&pki);
    let pki = pki.to_str().unwrap();
    let of_agent = |name: &str, certificate: &str, key: &str| {
        format!(
            "node-name = \"{name}\"\n[state]\ndirectory = \"{pki}/state\"\n\
             [trust]\npolicy-directory = \"{POLICIES}\"\n\
             [report.collector]\naddress = \"localhost:1\"\n\
             certificate = \"{pki}/{certificate}\"\nkey = \"{pki}/{key}\"\nca = \"{pki}/ca.pem\"\n"
        )
    };
    let of_collector = |key: &str, ca: &str| {
        format!(
            "[tls]\ncertificate = \"{pki}/collector.pem\"\nkey = \"{pki}/{key}\"\nclient-ca = \"{pki}/{ca}\"\n\
             [store]\npath = \"{pki}/collector.db\"\n[grpc]\nlisten = \"127.0.0.1:0\"\n\
             [api]\nlisten = \"127.0.0.1:0\"\n"
        )
    };
    let file = folder.path().join("config.toml");
    for (config, said) in [
        (
            of_agent("n-1", "n-1.pem", "none.pem"),
            format!("report.collector.key: {pki}/none.pem: No such file"),
        ),
        (
            of_agent("n-1", "domain", "n-1-key.pem"),
            format!("report.collector.certificate: {pki}/domain: no certificate"),
        ),
        (
            of_agent("n-1", "n-1.pem", "collector-key.pem"),
            format!("report.collector.certificate: {pki}/n-1.pem: "),
        ),
        (
            of_agent("n-2", "n-1.pem", "n-1-key.pem"),
            "is the certificate of node \"n-1\", the node's name is \"n-2\"".to_owned(),
        ),
    ] {
        let refusal = refusal(agent::run, &file, &config);
        assert!(refusal.contains(&said), "{config}{refusal}");
    }
    for (config, said) in [
        (
            of_collector("none.pem", "ca.pem"),
            format!("tls.key: {pki}/none.pem: No such file"),
        ),
        (
            of_collector("collector-key.pem", "none.pem"),
            format!("tls.client-ca: {pki}/none.pem: No such file"),
        ),
    ] {
        let refusal = refusal(collector::run, &file, &config);
        assert!(refusal.contains(&said), "{config}{refusal}");
    }

    let path = file.to_str().unwrap();
    std::fs::write(&file, of_agent("n-1", "n-1.pem", "n-1-key.pem")).unwrap();
    assert_eq!(agent::run(&["config", "check", path]).code, 0);
    std::fs::write(&file, of_collector("collector-key.pem", "ca.pem")).unwrap();
    assert_eq!(collector::run(&["config", "check", path]).code, 0);
}
