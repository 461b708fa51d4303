//! `DriftPolicy` documents as they are written, and what they become. Every field that is not known is
//! refused with its place: one that is read and not honoured would be a promise that nobody keeps.
//!
//! Long because the whole of the format, and what each field may hold, is in one place.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::exception::{Content, Exception};
use super::rule::Rule;
use super::{DriftPolicy, DriftPolicyError, NamePattern, PathPattern, Problem};
use crate::digest::Digest;
use crate::display;
use crate::drift::{ChangeKind, Class};
use crate::finding::Severity;
use crate::trust::policy::Glob;
use crate::yaml::{self, At, Header, MAX_FILE, quote};

/// The only version so far.
pub(super) const API_VERSION: &str = "holdfast.dev/v1alpha1";

/// The kind of these documents.
pub(super) const KIND: &str = "DriftPolicy";

/// Most images, namespaces, rules, paths of one rule: each is tried for each change.
const MAX_ENTRIES: usize = 100;

/// Most exceptions of one policy, which stand for one file each.
pub(super) const MAX_EXCEPTIONS: usize = 1_000;

/// Longest name (a Kubernetes name has at most 253 characters).
const MAX_NAME: usize = 253;

type Misplaced = (At, Problem);
type Texts = Spanned<Vec<Spanned<String>>>;

/// Reads all policies of one file, each with the place of its name.
pub(super) fn read(file: &str, bytes: &[u8]) -> Result<Vec<(DriftPolicy, At)>, DriftPolicyError> {
    let refuse = |(at, problem)| DriftPolicyError::new(file, at, problem);
    let of_yaml = |error| DriftPolicyError::of_yaml(file, &error);
    if bytes.len() > MAX_FILE {
        return Err(refuse((At::START, Problem::TooLarge)));
    }
    // The kind first: another kind's fields would be reported as typing errors of this one.
    for header in yaml::documents::<Header>(bytes).map_err(of_yaml)? {
        check(&header).map_err(refuse)?;
    }
    yaml::documents::<Document>(bytes)
        .map_err(of_yaml)?
        .into_iter()
        .map(|document| document.into_policy().map_err(refuse))
        .collect()
}

fn check(header: &Header) -> Result<(), Misplaced> {
    if header.kind.value != KIND {
        let kind = quote(&header.kind.value);
        return Err((At::of(&header.kind), Problem::Kind(kind)));
    }
    if header.api_version.value != API_VERSION {
        let version = quote(&header.api_version.value);
        return Err((At::of(&header.api_version), Problem::ApiVersion(version)));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Metadata,
    spec: Spanned<Spec>,
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
    #[serde(rename = "match")]
    selects: Selects,
    volatile: Option<Texts>,
    classes: Option<Classes>,
    rules: Option<Spanned<Vec<RuleForm>>>,
    exceptions: Option<Spanned<Vec<ExceptionForm>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selects {
    images: Texts,
    namespaces: Option<Texts>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Classes {
    device_node: Option<Spanned<String>>,
    trust_anchor: Option<Spanned<String>>,
    program: Option<Spanned<String>>,
    bytecode_cache: Option<Spanned<String>>,
    volatile: Option<Spanned<String>>,
    configuration: Option<Spanned<String>>,
    data: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleForm {
    name: Option<Spanned<String>>,
    paths: Texts,
    classes: Texts,
    changes: Option<Texts>,
    severity: Spanned<String>,
    #[serde(default, rename = "reason")]
    _reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExceptionForm {
    name: Option<Spanned<String>>,
    image: Spanned<String>,
    path: Spanned<String>,
    content: Spanned<String>,
    mode: Option<Spanned<String>>,
    owner: Option<Spanned<String>>,
    capability: Option<Spanned<String>>,
    reason: Spanned<String>,
    expires: Spanned<String>,
}

impl Document {
    fn into_policy(self) -> Result<(DriftPolicy, At), Misplaced> {
        let at = At::of(&self.metadata.name);
        let name = name(&self.metadata.name)?;
        let spec_at = At::of(&self.spec);
        let spec = self.spec.value;
        let is_empty = spec.volatile.is_none()
            && spec.classes.is_none()
            && spec.rules.is_none()
            && spec.exceptions.is_none();
        if is_empty {
            return Err((spec_at, Problem::DecidesNothing));
        }
        let mut names = Names {
            policy: &name,
            taken: BTreeSet::new(),
        };
        let policy = DriftPolicy {
            images: each(&spec.selects.images, |glob| Ok(Glob::parse(glob)?))?,
            namespaces: maybe(spec.selects.namespaces.as_ref(), |namespace| {
                Ok(NamePattern::parse(namespace)?)
            })?,
            volatile: maybe(spec.volatile.as_ref(), path)?.unwrap_or_default(),
            classes: spec
                .classes
                .map(Classes::levels)
                .transpose()?
                .unwrap_or_default(),
            rules: rules(spec.rules, &mut names)?,
            exceptions: exceptions(spec.exceptions, &mut names)?,
            name,
        };
        Ok((policy, at))
    }
}

/// Names of one policy's rules and exceptions.
struct Names<'a> {
    policy: &'a str,
    taken: BTreeSet<String>,
}

impl Names<'_> {
    /// The whole name: that of the policy, and the own one or else a number.
    fn take(
        &mut self,
        own: Option<&Spanned<String>>,
        (word, index): (&str, usize),
        at: At,
    ) -> Result<String, Misplaced> {
        let (own, at) = match own {
            Some(own) => (name(own)?, At::of(own)),
            None => (format!("{word}-{index}"), at),
        };
        let whole = format!("{}/{own}", self.policy);
        if !self.taken.insert(own.clone()) {
            return Err((at, Problem::DuplicateName(own)));
        }
        Ok(whole)
    }
}

impl Classes {
    fn levels(self) -> Result<BTreeMap<Class, Option<Severity>>, Misplaced> {
        let Self {
            device_node,
            trust_anchor,
            program,
            bytecode_cache,
            volatile,
            configuration,
            data,
        } = self;
        let all = [
            (Class::DeviceNode, device_node),
            (Class::TrustAnchor, trust_anchor),
            (Class::Program, program),
            (Class::BytecodeCache, bytecode_cache),
            (Class::Volatile, volatile),
            (Class::Configuration, configuration),
            (Class::Data, data),
        ];
        let written = all
            .into_iter()
            .filter_map(|(class, word)| Some((class, word?)));
        written
            .map(|(class, word)| Ok((class, level(&word)?)))
            .collect()
    }
}

fn rules(
    forms: Option<Spanned<Vec<RuleForm>>>,
    names: &mut Names<'_>,
) -> Result<Vec<Rule>, Misplaced> {
    let Some(forms) = forms else {
        return Ok(Vec::new());
    };
    bounded(&forms, MAX_ENTRIES)?;
    let of = |(index, form): (usize, &RuleForm)| {
        let at = At::of(&form.paths);
        Ok(Rule {
            name: names.take(form.name.as_ref(), ("rule", index), at)?,
            paths: each(&form.paths, path)?,
            classes: each(&form.classes, class)?.into_iter().flatten().collect(),
            changes: maybe(form.changes.as_ref(), kind)?,
            level: level(&form.severity)?,
        })
    };
    forms.value.iter().enumerate().map(of).collect()
}

fn exceptions(
    forms: Option<Spanned<Vec<ExceptionForm>>>,
    names: &mut Names<'_>,
) -> Result<Vec<Exception>, Misplaced> {
    let Some(forms) = forms else {
        return Ok(Vec::new());
    };
    bounded(&forms, MAX_EXCEPTIONS)?;
    let of = |(index, form): (usize, &ExceptionForm)| {
        let at = At::of(&form.image);
        if form.reason.value.trim().is_empty() {
            return Err((At::of(&form.reason), Problem::NoReason));
        }
        Ok(Exception {
            name: names.take(form.name.as_ref(), ("exception", index), at)?,
            image: one(&form.image, digest)?,
            path: one(&form.path, path)?,
            content: one(&form.content, content)?,
            mode: form.mode.as_ref().map(|it| one(it, mode)).transpose()?,
            owner: form.owner.as_ref().map(|it| one(it, owner)).transpose()?,
            capability: form
                .capability
                .as_ref()
                .map(|it| one(it, capability))
                .transpose()?,
            expires: one(&form.expires, time)?,
        })
    };
    forms.value.iter().enumerate().map(of).collect()
}

/// Names become words of findings and log lines.
fn name(name: &Spanned<String>) -> Result<String, Misplaced> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let text = &name.value;
    if (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_allowed) {
        Ok(text.clone())
    } else {
        Err((At::of(name), Problem::Name))
    }
}

fn bounded<T>(list: &Spanned<Vec<T>>, limit: usize) -> Result<(), Misplaced> {
    if list.value.is_empty() {
        Err((At::of(list), Problem::Empty))
    } else if list.value.len() > limit {
        Err((At::of(list), Problem::TooManyEntries(limit)))
    } else {
        Ok(())
    }
}

/// One text as what it stands for; a refusal has its place.
fn one<T>(
    text: &Spanned<String>,
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Result<T, Misplaced> {
    read(&text.value).map_err(|problem| (At::of(text), problem))
}

/// The same for a list.
fn each<T>(texts: &Texts, read: impl Fn(&str) -> Result<T, Problem>) -> Result<Vec<T>, Misplaced> {
    bounded(texts, MAX_ENTRIES)?;
    texts.value.iter().map(|text| one(text, &read)).collect()
}

/// The same for a list that may be left out.
fn maybe<T>(
    texts: Option<&Texts>,
    read: impl Fn(&str) -> Result<T, Problem>,
) -> Result<Option<Vec<T>>, Misplaced> {
    texts.map(|texts| each(texts, read)).transpose()
}

fn path(text: &str) -> Result<PathPattern, Problem> {
    Ok(PathPattern::parse(text)?)
}

/// A severity, or that there is no finding.
fn level(word: &Spanned<String>) -> Result<Option<Severity>, Misplaced> {
    one(word, |text| match text {
        "none" => Ok(None),
        other => match other.parse() {
            Ok(severity) => Ok(Some(severity)),
            Err(_) => Err(Problem::word(
                "severity",
                other,
                "none, info, warning or critical",
            )),
        },
    })
}

/// One class, or all of them. They have to be written: a rule for all paths that reaches programs should have
/// been meant so.
fn class(text: &str) -> Result<Vec<Class>, Problem> {
    if text == "*" {
        return Ok(Class::ALL.to_vec());
    }
    let known = Class::ALL.into_iter().find(|class| class.as_str() == text);
    known.map(|class| vec![class]).ok_or_else(|| {
        let expected = "device-node, trust-anchor, program, bytecode-cache, volatile, configuration, data \
                        or \"*\"";
        Problem::word("class", text, expected)
    })
}

fn kind(text: &str) -> Result<ChangeKind, Problem> {
    // A redirect is nothing that a rule could allow.
    let mut known = ChangeKind::ALL.into_iter();
    let known = known.find(|kind| *kind != ChangeKind::Redirected && kind.as_str() == text);
    known.ok_or_else(|| {
        Problem::word(
            "change",
            text,
            "metadata, moved, modified, added or removed",
        )
    })
}

fn digest(text: &str) -> Result<Digest, Problem> {
    let expected = "sha256: and 64 hex digits, as findings show the image";
    text.parse()
        .map_err(|_digest| Problem::word("image digest", text, expected))
}

fn content(text: &str) -> Result<Content, Problem> {
    let expected = "sha256: and 64 hex digits, removed, link: and a target, or any";
    let refuse = || Problem::word("content", text, expected);
    match text {
        "removed" => Ok(Content::Removed),
        "any" => Ok(Content::Any),
        _ => match text.strip_prefix("link:") {
            Some(target) => {
                let target = display::unescape(target).filter(|target| !target.is_empty());
                target.map(Content::LinkTo).ok_or_else(refuse)
            }
            None => text
                .parse()
                .map(Content::Digest)
                .map_err(|_digest| refuse()),
        },
    }
}

fn mode(text: &str) -> Result<u32, Problem> {
    let is_octal = text.len() == 4 && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let mode = u32::from_str_radix(text, 8).ok().filter(|_| is_octal);
    mode.ok_or_else(|| Problem::word("mode", text, "four octal digits such as \"0755\""))
}

fn owner(text: &str) -> Result<(u32, u32), Problem> {
    let number = |text: &str| {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain)
    };
    let ids = text.split_once(':');
    let ids = ids.and_then(|(uid, gid)| Some((number(uid)?, number(gid)?)));
    ids.ok_or_else(|| Problem::word("owner", text, "UID:GID such as \"0:0\""))
}

fn capability(text: &str) -> Result<Vec<u8>, Problem> {
    let bytes = hex::decode(text).ok().filter(|bytes| !bytes.is_empty());
    bytes.ok_or_else(|| {
        Problem::word(
            "capability",
            text,
            "security.capability in hex, as findings show it",
        )
    })
}

fn time(text: &str) -> Result<Timestamp, Problem> {
    text.parse()
        .map_err(|_time| Problem::word("expiry", text, "a time such as \"2027-01-31T00:00:00Z\""))
}
