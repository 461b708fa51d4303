//! The parts of a container's definition that are JSON inside protobuf: the OCI runtime spec and CRI's
//! metadata. Whoever made the container wrote them; they are facts to compare, never proofs.

use std::collections::BTreeMap;

use holdfast_core::digest::Digest;
use serde::Deserialize;

/// The parts of an OCI runtime spec that we use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Spec {
    /// The root.
    pub root: Root,
    /// The first process.
    pub process: Process,
    /// Mounts made before it starts.
    pub mounts: Vec<SpecMount>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// User namespace.
    pub linux: Linux,
}

/// `root` of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Path, relative to the bundle unless absolute.
    pub path: String,
    /// Mounted read-only.
    pub readonly: bool,
}

/// `process` of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Names of the environment: values can be secrets and are never kept.
    #[serde(rename = "env", deserialize_with = "names")]
    pub env_names: Vec<String>,
    /// Working directory; the runtime makes it when the image has none.
    pub cwd: String,
    /// User.
    pub user: User,
    /// It has a terminal.
    pub terminal: bool,
    /// What it may do.
    pub capabilities: Capabilities,
}

/// `process.capabilities` of a spec: the sets that programs can have or get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// What they can get.
    pub bounding: Vec<String>,
    /// What the first process has.
    pub effective: Vec<String>,
    /// What the first process can take.
    pub permitted: Vec<String>,
}

impl Capabilities {
    /// Whether any process of the container can have it.
    pub fn has(&self, name: &str) -> bool {
        let sets = [&self.bounding, &self.effective, &self.permitted];
        sets.into_iter().flatten().any(|known| known == name)
    }
}

/// `process.user` of a spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One of `mounts` of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SpecMount {
    /// Where, in the container.
    pub destination: String,
    /// `bind`, `tmpfs`, `proc`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What, on the host.
    pub source: String,
    /// Options.
    pub options: Vec<String>,
}

/// `linux` of a spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Linux {
    /// Users of the container's user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// Groups of the container's user namespace.
    pub gid_mappings: Vec<IdMapping>,
    /// Paths over which something empty is mounted.
    pub masked_paths: Vec<String>,
    /// Paths that are mounted over themselves, read-only.
    pub readonly_paths: Vec<String>,
}

/// A range of ids in a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdMapping {
    /// First id inside.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// First id on the host.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

impl Spec {
    /// Reads a spec; its size is bounded by the message that carried it.
    pub fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }

    /// Paths that the runtime makes in the root where the image lacks them: mount points and the
    /// working directory, relative, without `.` and `..`. As written: links are not followed.
    pub fn stubs(&self) -> Vec<Vec<u8>> {
        let mut stubs: Vec<Vec<u8>> = self
            .mounts
            .iter()
            .map(|mount| &mount.destination)
            .chain([&self.process.cwd])
            .map(|path| relative(path))
            .filter(|path| !path.is_empty())
            .collect();
        stubs.sort();
        stubs.dedup();
        stubs
    }
}

/// A path as the runtime resolves it within the root: `..` above the root stays at the root.
fn relative(path: &str) -> Vec<u8> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/").into_bytes()
}

fn names<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let mut variables = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    for variable in &mut variables {
        if let Some((name, _secret)) = variable.split_once('=') {
            *variable = name.to_owned();
        }
    }
    Ok(variables)
}

/// The extension in which CRI keeps what it knows about a container.
pub const CRI_EXTENSION: &str = "io.cri-containerd.container.metadata";

/// The config digest that CRI resolved a container's image to.
pub fn cri_image_ref(json: &[u8]) -> Option<Digest> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Versioned {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Metadata {
        image_ref: String,
    }
    let versioned: Versioned = serde_json::from_slice(json).ok()?;
    versioned.metadata.image_ref.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_spec_gives_its_parts_and_forgets_secrets() {
        let spec = Spec::parse(
            br#"{"ociVersion":"1.0.2","process":{"args":["a"],"env":["TOKEN=secret","X"],"cwd":"/srv/./x/../y","user":{"uid":7}},
                "root":{"path":"rootfs","readonly":true},
                "mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/../etc/hosts","source":"/h"},{"destination":"/"}],
                "linux":{"uidMappings":[{"containerID":0,"hostID":100000,"size":65536}],"namespaces":[]}}"#,
        )
        .unwrap();

        assert_eq!(spec.process.env_names, ["TOKEN", "X"]);
        assert_eq!(spec.linux.uid_mappings[0].host_id, 100_000);
        assert!(spec.root.readonly);
        let stubs = [b"etc/hosts".to_vec(), b"proc".to_vec(), b"srv/y".to_vec()];
        assert_eq!(spec.stubs(), stubs);
    }

    #[test]
    fn what_is_no_spec_is_none() {
        assert_eq!(Spec::parse(b""), None);
        assert_eq!(Spec::parse(br#"{"mounts":7}"#), None);
        assert_eq!(Spec::parse(br#"{"mounts":[],"mounts":[]}"#), None);
    }

    #[test]
    fn cri_names_the_config_it_resolved() {
        let digest = Digest::of(b"config");
        let json = format!(r#"{{"Version":"v1","Metadata":{{"ID":"x","ImageRef":"{digest}"}}}}"#);

        assert_eq!(cri_image_ref(json.as_bytes()), Some(digest));
        assert_eq!(cri_image_ref(br#"{"Metadata":{"ImageRef":"nginx"}}"#), None);
        assert_eq!(cri_image_ref(b"\x0a"), None);
    }

    proptest! {
        #[test]
        fn stubs_stay_inside_the_root(path in "[a./]{0,20}") {
            let stub = relative(&path);
            let stub = std::str::from_utf8(&stub).unwrap();
            prop_assert!(stub.is_empty() || stub.split('/').all(|part| !matches!(part, "" | "." | "..")));
        }
    }
}
