//! Which hosts a folder gives, and each fault of its file by line and column.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::endpoint::Need;

/// A `certs.d` folder in which `name/hosts.toml` has this text.
fn certs(name: &str, text: &str) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join(name)).unwrap();
    fs::write(root.path().join(name).join("hosts.toml"), text).unwrap();
    root
}

fn read_with(
    root: &TempDir,
    registry: &str,
    insecure: &[&str],
) -> Result<Vec<Endpoint>, SetupFault> {
    let insecure = insecure.iter().map(|&host| host.to_owned()).collect();
    let hosts = Hosts::new(vec![root.path().to_owned()], insecure).unwrap();
    hosts.read(registry)
}

fn read(root: &TempDir, registry: &str) -> Result<Vec<Endpoint>, SetupFault> {
    read_with(root, registry, &[])
}

/// Each host's base, and whose images it is told to be asked for.
fn shown(endpoints: &[Endpoint]) -> Vec<(&str, Option<&str>)> {
    endpoints
        .iter()
        .map(|endpoint| (endpoint.base.as_str(), endpoint.namespace.as_deref()))
        .collect()
}

#[test]
fn mirrors_come_in_the_files_order_and_the_server_last() {
    let root = certs(
        "r.example",
        r#"
server = "https://upstream.example"

[host."https://z.example"]
  capabilities = ["pull", "resolve", "push"]
[host."m.example:5000"]
  capabilities = ["pull"]
[host."https://a.example/v2/proxy/"]
  override_path = true
  header = { x-one = "1", x-two = ["2", "3"] }
[host."https://b.example/cache"]
  unknown_key = 1
"#,
    );
    let endpoints = read(&root, "r.example").unwrap();
    assert_eq!(
        shown(&endpoints),
        [
            ("https://z.example/v2", Some("r.example")),
            ("https://m.example:5000/v2", Some("r.example")),
            ("https://a.example/v2/proxy", Some("r.example")),
            ("https://b.example/cache/v2", Some("r.example")),
            ("https://upstream.example/v2", Some("r.example")),
        ]
    );
    assert!(!endpoints[1].capabilities.allow(Need::Word));
    assert!(endpoints[1].capabilities.allow(Need::Content));
    assert_eq!(endpoints[3].capabilities, Capabilities::ALL);
    let values: Vec<_> = endpoints[2].headers.get_all("x-two").iter().collect();
    assert_eq!(values, ["2", "3"]);
    assert!(!format!("{:?}", endpoints[2].headers).contains('3'));
}

#[test]
fn without_a_server_or_a_file_the_registry_itself_is_asked() {
    let root = certs("r.example", "[host.\"https://m.example\"]\n");
    assert_eq!(
        shown(&read(&root, "r.example").unwrap()),
        [
            ("https://m.example/v2", Some("r.example")),
            ("https://r.example/v2", None)
        ]
    );
    assert_eq!(
        shown(&read(&root, "other.example").unwrap()),
        [("https://other.example/v2", None)]
    );
    assert_eq!(
        shown(&read(&root, "index.docker.io").unwrap()),
        [("https://registry-1.docker.io/v2", None)]
    );
    assert_eq!(
        shown(&read_with(&root, "l.example:5000", &["l.example:5000"]).unwrap()),
        [("http://l.example:5000/v2", None)]
    );
}

#[test]
fn the_first_of_containerds_folder_names_counts() {
    for (name, registry) in [
        ("r.example_5000_", "r.example:5000"),
        ("r.example:5000", "r.example:5000"),
        ("_default", "r.example:5000"),
        ("_default", "index.docker.io"),
        ("docker.io", "index.docker.io"),
    ] {
        let root = certs(name, "[host.\"https://m.example\"]\n");
        let endpoints = read(&root, registry).unwrap();
        assert_eq!(endpoints[0].host(), "m.example", "{name}");
        assert_eq!(endpoints.len(), 2);
    }
    let root = certs("r.example", "server = \"https://m.example\"\n");
    fs::create_dir(root.path().join("_default")).unwrap();
    assert_eq!(read(&root, "r.example").unwrap()[0].host(), "m.example");
}

#[test]
fn what_weakens_a_host_holds_only_when_we_list_it_too() {
    let root = certs(
        "r.example",
        "[host.\"http://plain.example\"]\n[host.\"https://open.example\"]\nskip_verify = true\n",
    );
    let file = root.path().join("r.example/hosts.toml");
    let fault = |host: &str| {
        Some(SetupFault::Insecure {
            file: file.clone(),
            host: host.to_owned(),
        })
    };
    let faults = |insecure: &[&str]| -> Vec<_> {
        let endpoints = read_with(&root, "r.example", insecure).unwrap();
        endpoints
            .into_iter()
            .map(|endpoint| endpoint.fault)
            .collect()
    };
    assert_eq!(
        faults(&[]),
        [fault("plain.example"), fault("open.example"), None]
    );
    assert_eq!(
        faults(&["plain.example", "open.example"]),
        [None, None, None]
    );
}

#[test]
fn a_fault_is_named_by_file_line_and_column_and_nothing_is_quoted() {
    for (text, line, what) in [
        ("server = ", 1, Wrong::Form),
        ("\nserver = 5", 2, Wrong::Form),
        ("server = \"https://u:secret@r\"", 1, Wrong::Url),
        ("\n[host.\"ftp://x\"]\n", 2, Wrong::Url),
        ("[host.\"https://[\"]\n", 1, Wrong::Url),
        (
            "[host.\"https://x\"]\ncapabilities = [\n\"pull\",\n\"delete\"]",
            4,
            Wrong::Capability,
        ),
        (
            "[host.\"https://x\"]\n[host.\"https://x\".header]\n\"a b\" = \"secret\"",
            3,
            Wrong::Header,
        ),
        (
            "[host.\"https://x\"]\n[host.\"https://x\".header]\na = \"secret\\n\"",
            3,
            Wrong::Header,
        ),
        ("dial_timeout = \"soon\"", 1, Wrong::Duration),
    ] {
        let root = certs("r.example", text);
        let fault = read(&root, "r.example").unwrap_err();
        assert!(!fault.to_string().contains("secret"), "{fault}");
        match fault {
            SetupFault::Malformed {
                file,
                line: found,
                what: found_what,
                ..
            } => {
                assert!(file.ends_with("r.example/hosts.toml"));
                assert_eq!((found, found_what), (line, what), "{text}");
            }
            other => panic!("{other}"),
        }
    }
    let many: Vec<String> = (0..17).map(|at| format!("[host.\"m{at}\"]")).collect();
    let root = certs("r.example", &many.join("\n"));
    assert!(matches!(
        read(&root, "r.example"),
        Err(SetupFault::Malformed {
            what: Wrong::Hosts,
            line: 17,
            ..
        })
    ));
}

#[test]
fn a_certificate_that_cannot_be_used_is_named() {
    let root = certs("r.example", "ca = \"ca.pem\"\n");
    let path = root.path().join("r.example/ca.pem");
    assert_eq!(
        read(&root, "r.example").unwrap_err(),
        SetupFault::Unreadable(path.clone(), std::io::ErrorKind::NotFound)
    );
    fs::write(&path, "no PEM").unwrap();
    assert_eq!(
        read(&root, "r.example").unwrap_err(),
        SetupFault::Pem(path.clone())
    );
    let certificate = rcgen::generate_simple_self_signed(["r.example".to_owned()]).unwrap();
    fs::write(&path, certificate.cert.pem()).unwrap();
    assert!(read(&root, "r.example").is_ok());

    let folder = root.path().join("r.example");
    fs::remove_file(folder.join("hosts.toml")).unwrap();
    fs::rename(&path, folder.join("ca.crt")).unwrap();
    assert!(read(&root, "r.example").is_ok(), "docker's form");
    fs::write(folder.join("ca.crt"), "no PEM").unwrap();
    assert!(read(&root, "r.example").is_err());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_holds_for_a_while_and_no_longer() {
    let root = certs("r.example", "server = \"https://one.example\"\n");
    let hosts = Hosts::new(vec![root.path().to_owned()], BTreeSet::new()).unwrap();
    let hosts = Arc::new(hosts);
    let host = async || hosts.of("r.example").await.unwrap()[0].host();
    assert_eq!(host().await, "one.example");
    let file = root.path().join("r.example/hosts.toml");
    fs::write(&file, "server = \"https://two.example\"\n").unwrap();
    assert_eq!(host().await, "one.example");
    tokio::time::advance(READ_AGAIN).await;
    assert_eq!(host().await, "two.example");
    fs::write(&file, "server").unwrap();
    tokio::time::advance(READ_AGAIN).await;
    assert!(matches!(
        hosts.of("r.example").await,
        Err(FetchError::Setup(_))
    ));
}
