//! Sigstore policy-controller's `ClusterImagePolicy`, as far as it can be evaluated: image globs,
//! authorities with a key or a static answer, and the mode.
//!
//! Every other field is refused with its place. Labels and annotations of a policy are taken, since
//! they describe it and decide nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::error::of_yaml;
use super::{Authority, Glob, Key, MAX_FILE, Mode, Policy, PolicyError, Problem, Rule};
use crate::yaml::{self, At, Header, quote};

/// Most globs, and most authorities, of one policy: each is tried for each image.
const MAX_ENTRIES: usize = 100;
/// Longest name of a policy or an authority (a Kubernetes name has at most 253 characters).
const MAX_NAME: usize = 253;

const API_VERSIONS: [&str; 2] = [
    "policy.sigstore.dev/v1alpha1",
    "policy.sigstore.dev/v1beta1",
];

/// Reads all policies of one file, each with the place of its name.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<Vec<(Policy, At)>, PolicyError> {
    if bytes.len() > MAX_FILE {
        return Err(At::START.problem(file, Problem::TooLarge));
    }
    // The kind first: another kind's fields would be reported as typing errors of this one.
    for header in documents::<Header>(file, bytes)? {
        check(&header).map_err(|(at, problem)| at.problem(file, problem))?;
    }
    let policies = documents::<Document>(file, bytes)?
        .into_iter()
        .map(Document::into_policy)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|(at, problem)| at.problem(file, problem))?;
    if policies.is_empty() {
        return Err(At::START.problem(file, Problem::NoPolicy));
    }
    Ok(policies)
}

fn documents<T: for<'de> Deserialize<'de>>(
    file: &str,
    bytes: &[u8],
) -> Result<Vec<T>, PolicyError> {
    yaml::documents(bytes).map_err(|error| of_yaml(file, &error))
}

type Misplaced = (At, Problem);

/// Whether a document is one of these policies.
fn check(header: &Header) -> Result<(), Misplaced> {
    if header.kind.value != "ClusterImagePolicy" {
        let kind = quote(&header.kind.value);
        return Err((At::of(&header.kind), Problem::Kind(kind)));
    }
    if !API_VERSIONS.contains(&header.api_version.value.as_str()) {
        let version = quote(&header.api_version.value);
        return Err((At::of(&header.api_version), Problem::ApiVersion(version)));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: Spanned<String>,
    #[serde(default, rename = "labels")]
    _labels: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "annotations")]
    _annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    images: Spanned<Vec<ImagePattern>>,
    authorities: Option<Spanned<Vec<AuthorityForm>>>,
    mode: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImagePattern {
    glob: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuthorityForm {
    name: Option<Spanned<String>>,
    key: Option<Spanned<KeyForm>>,
    #[serde(rename = "static")]
    fixed: Option<Spanned<StaticForm>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KeyForm {
    data: Option<Spanned<String>>,
    hash_algorithm: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StaticForm {
    action: Spanned<String>,
    message: Option<Spanned<String>>,
}

impl Document {
    fn into_policy(self) -> Result<(Policy, At), Misplaced> {
        let at = At::of(&self.metadata.name);
        let policy = Policy {
            name: name(self.metadata.name)?,
            globs: globs(&self.spec.images)?,
            authorities: authorities(self.spec.authorities, At::of(&self.spec.images))?,
            mode: mode(self.spec.mode.as_ref())?,
        };
        Ok((policy, at))
    }
}

/// Names become words of findings and log lines.
fn name(name: Spanned<String>) -> Result<String, Misplaced> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let text = &name.value;
    if (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_allowed) {
        Ok(name.value)
    } else {
        Err((At::of(&name), Problem::Name))
    }
}

fn globs(images: &Spanned<Vec<ImagePattern>>) -> Result<Vec<Glob>, Misplaced> {
    if images.value.is_empty() {
        return Err((At::of(images), Problem::NoImages));
    }
    if images.value.len() > MAX_ENTRIES {
        return Err((At::of(images), Problem::TooManyEntries(MAX_ENTRIES)));
    }
    images
        .value
        .iter()
        .map(|image| {
            Glob::parse(&image.glob.value).map_err(|error| (At::of(&image.glob), error.into()))
        })
        .collect()
}

fn authorities(
    forms: Option<Spanned<Vec<AuthorityForm>>>,
    without: At,
) -> Result<Vec<Authority>, Misplaced> {
    let Some(forms) = forms else {
        return Err((without, Problem::NoAuthorities));
    };
    let at = At::of(&forms);
    if forms.value.is_empty() {
        return Err((at, Problem::NoAuthorities));
    }
    if forms.value.len() > MAX_ENTRIES {
        return Err((at, Problem::TooManyEntries(MAX_ENTRIES)));
    }
    let mut taken = BTreeSet::new();
    let mut authorities = Vec::with_capacity(forms.value.len());
    for (index, form) in forms.value.into_iter().enumerate() {
        let at = form.at().unwrap_or(at);
        let authority = form.into_authority(index, at)?;
        if !taken.insert(authority.name.clone()) {
            return Err((at, Problem::DuplicateName(authority.name)));
        }
        authorities.push(authority);
    }
    Ok(authorities)
}

impl AuthorityForm {
    /// The place of its first field.
    fn at(&self) -> Option<At> {
        let name = self.name.as_ref().map(At::of);
        let key = self.key.as_ref().map(At::of);
        let fixed = self.fixed.as_ref().map(At::of);
        name.or(key).or(fixed)
    }

    fn into_authority(self, index: usize, at: At) -> Result<Authority, Misplaced> {
        let rule = match (&self.key, &self.fixed) {
            (Some(key), None) => Rule::Keys(keys(key)?),
            (None, Some(fixed)) => fixed_rule(&fixed.value)?,
            (Some(_), Some(_)) | (None, None) => return Err((at, Problem::OneRule)),
        };
        // The name that policy-controller gives.
        let name = self
            .name
            .map_or_else(|| Ok(format!("authority-{index}")), name)?;
        Ok(Authority { name, rule })
    }
}

fn keys(key: &Spanned<KeyForm>) -> Result<Vec<Key>, Misplaced> {
    if let Some(algorithm) = &key.value.hash_algorithm
        && algorithm.value != "sha256"
    {
        let text = quote(&algorithm.value);
        return Err((At::of(algorithm), Problem::HashAlgorithm(text)));
    }
    let Some(data) = &key.value.data else {
        return Err((At::of(key), Problem::NoKeyData));
    };
    Key::parse_all(&data.value).map_err(|error| (At::of(data), error.into()))
}

fn fixed_rule(fixed: &StaticForm) -> Result<Rule, Misplaced> {
    match (fixed.action.value.as_str(), &fixed.message) {
        ("pass", None) => Ok(Rule::Pass),
        ("pass", Some(message)) => Err((At::of(message), Problem::PassMessage)),
        ("fail", message) => Ok(Rule::Fail {
            message: message.as_ref().map(|message| quote(&message.value)),
        }),
        (other, _) => Err((At::of(&fixed.action), Problem::Action(quote(other)))),
    }
}

fn mode(mode: Option<&Spanned<String>>) -> Result<Mode, Misplaced> {
    match mode.map(|mode| (mode, mode.value.as_str())) {
        None | Some((_, "enforce")) => Ok(Mode::Enforce),
        Some((_, "warn")) => Ok(Mode::Warn),
        Some((mode, other)) => Err((At::of(mode), Problem::Mode(quote(other)))),
    }
}
