//! The image config: which layers make the root, and how the image wants to be run.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{ImageError, MAX_LAYERS, parse};
use crate::digest::{ChainId, DiffId};

/// An image config, as far as we decide or record by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `linux`, …
    pub os: String,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// How it wants to be run; recorded as facts beside the verdict.
    pub run: RunConfig,
}

/// How an image wants to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// Program, before `cmd`.
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// User, as written.
    pub user: Option<String>,
    /// Working directory.
    pub working_dir: Option<String>,
    /// Labels; the image's author chose them.
    pub labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    rootfs: RootFs,
    #[serde(default)]
    config: Option<RunConfig>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    diff_ids: Option<Vec<DiffId>>,
}

impl Config {
    /// Reads a config.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let raw: Raw = parse(bytes)?;
        if raw.rootfs.kind != "layers" {
            return Err(ImageError::RootFs);
        }
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > MAX_LAYERS {
            return Err(ImageError::TooManyLayers);
        }
        Ok(Self {
            architecture: raw.architecture,
            os: raw.os,
            diff_ids,
            run: raw.config.unwrap_or_default(),
        })
    }

    /// The chain IDs of the layers, lowest first.
    pub fn chain(&self) -> Vec<ChainId> {
        ChainId::of_stack(&self.diff_ids)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Digest;

    fn config(diff_ids: &str) -> String {
        format!(
            r#"{{"architecture":"amd64","os":"linux","history":[{{}}],
                "rootfs":{{"type":"layers","diff_ids":{diff_ids}}},
                "config":{{"Entrypoint":null,"Cmd":["/bin/sh"],"Env":["A=b"],"User":"0","ExposedPorts":{{}}}}}}"#
        )
    }

    fn refusal(text: &str) -> ImageError {
        Config::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_config_gives_its_layers_and_how_it_wants_to_run() {
        let digest = Digest::of(b"layer");
        let parsed = Config::parse(config(&format!(r#"["{digest}"]"#)).as_bytes()).unwrap();

        assert_eq!(parsed.diff_ids, [DiffId(digest)]);
        assert_eq!(parsed.chain(), [ChainId(digest)]);
        assert_eq!(parsed.run.cmd, Some(vec!["/bin/sh".to_owned()]));
        assert_eq!(parsed.run.entrypoint, None);
        assert!(
            Config::parse(config("null").as_bytes())
                .unwrap()
                .chain()
                .is_empty()
        );
    }

    #[test]
    fn hostile_configs_are_refused_by_name() {
        let digest = Digest::of(b"layer");
        let many = vec![format!("\"{digest}\""); MAX_LAYERS + 1].join(",");
        assert_eq!(
            refusal(&config(&format!("[{many}]"))),
            ImageError::TooManyLayers
        );
        assert_eq!(
            refusal(&config("[]").replace("layers", "tree")),
            ImageError::RootFs
        );
        let sha512 = format!(r#"["sha512:{0}{0}"]"#, digest.encoded());
        assert!(matches!(
            refusal(&config(&sha512)),
            ImageError::Malformed { .. }
        ));
        let twice = config("[]").replace(r#""diff_ids""#, r#""diff_ids":[],"diff_ids""#);
        assert!(matches!(refusal(&twice), ImageError::Malformed { .. }));
        assert!(matches!(refusal("{}"), ImageError::Malformed { .. }));
        assert!(matches!(refusal("[]"), ImageError::Malformed { .. }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            prop_assert!(Config::parse(&bytes).is_err());
        }
    }
}
