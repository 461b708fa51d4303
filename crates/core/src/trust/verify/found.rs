//! Steps 2 and 3 of the verifier: which digests mean this image, and which of the signatures that were
//! found state one of them. Who made them is not asked here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::digest::Digest;
use crate::trust::classic::{self, Layer, MAX_SIGNATURES};
use crate::trust::evidence::{Evidence, Missed, SignatureObject};
use crate::trust::payload::Payload;
use crate::trust::verdict::{Refusal, Refused};

/// Most refusals in one verdict; the rest is counted.
pub(super) const MAX_REFUSALS: usize = 100;

/// The digests of one image, with the bytes that tie them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageDigests<'a> {
    /// The platform manifest that runs.
    pub manifest: Digest,
    /// The index that was pulled, if one was, with its bytes. Bytes that are not at hand are given as
    /// empty: then nobody can say "unsigned", since the index may be what was signed.
    pub index: Option<(Digest, &'a [u8])>,
}

/// The digests whose signatures count.
pub(super) struct Subjects {
    pub(super) digests: Vec<Digest>,
    /// The index belongs to the set, and its bytes are not at hand.
    pub(super) no_index: bool,
}

impl ImageDigests<'_> {
    /// An index counts only when its bytes are its own and list the manifest, else a signature of any
    /// index would vouch for any image.
    pub(super) fn subjects(&self, refusals: &mut Refusals) -> Subjects {
        let mut subjects = Subjects {
            digests: vec![self.manifest],
            no_index: false,
        };
        let Some((index, bytes)) = self.index.filter(|(index, _)| *index != self.manifest) else {
            return subjects;
        };
        match self.refuse_index(index, bytes) {
            None => subjects.digests.push(index),
            Some(refusal) => {
                subjects.no_index = matches!(refusal, Refusal::OtherIndex { .. });
                refusals.push(Some(index), None, refusal);
            }
        }
        subjects
    }

    fn refuse_index(&self, index: Digest, bytes: &[u8]) -> Option<Refusal> {
        let actual = Digest::of(bytes);
        if actual != index {
            return Some(Refusal::OtherIndex { actual });
        }
        match classic::lists(bytes, self.manifest) {
            Ok(true) => None,
            Ok(false) => Some(Refusal::NotListed),
            Err(refusal) => Some(Refusal::Index(refusal)),
        }
    }
}

/// A signature that is about this image, by whomever.
pub(super) struct Statement<'a> {
    pub(super) subject: Digest,
    pub(super) at: usize,
    pub(super) payload: &'a [u8],
    pub(super) signature: Vec<u8>,
}

/// Everything that was found about all digests of the image.
pub(super) struct Found<'a> {
    pub(super) statements: Vec<Statement<'a>>,
    /// Whether anything at all was there, good or bad.
    pub(super) any: bool,
    pub(super) missed: Vec<&'a Missed>,
    /// A digest that nobody has looked for.
    pub(super) not_looked: Option<Digest>,
    pub(super) no_index: bool,
}

/// Step 3.
pub(super) fn examine<'a>(
    subjects: &Subjects,
    evidence: &'a Evidence,
    refusals: &mut Refusals,
) -> Found<'a> {
    let mut found = Found {
        statements: Vec::new(),
        any: false,
        missed: Vec::new(),
        not_looked: None,
        no_index: subjects.no_index,
    };
    for subject in &subjects.digests {
        let Some(looked) = evidence.about(*subject) else {
            found.not_looked = Some(*subject);
            continue;
        };
        found.missed.extend(looked.missed());
        let mut budget = MAX_SIGNATURES;
        for object in looked.objects() {
            let before = refusals.total();
            let statements = statements(object, *subject, &subjects.digests, &mut budget, refusals);
            // An object that lists nothing is no signature, good or bad.
            found.any |= !statements.is_empty() || refusals.total() > before;
            found.statements.extend(statements);
        }
    }
    found
}

/// The statements of one signature object; what is none leaves its refusal.
fn statements<'a>(
    object: &'a SignatureObject,
    subject: Digest,
    subjects: &[Digest],
    budget: &mut usize,
    refusals: &mut Refusals,
) -> Vec<Statement<'a>> {
    let layers = match classic::layers(&object.manifest) {
        Ok(layers) => layers,
        Err(refusal) => {
            refusals.push(Some(subject), None, refusal.into());
            return Vec::new();
        }
    };
    let looked_at = layers.first.len().min(*budget);
    let beyond = layers.first.len().saturating_sub(looked_at);
    *budget = budget.saturating_sub(looked_at);
    let mut statements = Vec::new();
    for (at, layer) in layers.first.into_iter().take(looked_at).enumerate() {
        let statement = layer
            .map_err(Refusal::from)
            .and_then(|layer| statement(&layer, object, subjects));
        match statement {
            Ok((payload, signature)) => statements.push(Statement {
                subject,
                at,
                payload,
                signature,
            }),
            Err(refusal) => refusals.push(Some(subject), Some(at), refusal),
        }
    }
    let rest = layers.rest.saturating_add(beyond);
    if rest > 0 {
        refusals.push(Some(subject), None, Refusal::Rest { rest });
    }
    statements
}

/// One layer: its payload is the one it names, and states one of this image's digests.
fn statement<'a>(
    layer: &Layer,
    object: &'a SignatureObject,
    subjects: &[Digest],
) -> Result<(&'a [u8], Vec<u8>), Refusal> {
    let payload = object
        .payloads
        .get(&layer.payload)
        .ok_or(Refusal::NoPayload(layer.payload))?;
    // Hashed here, whoever hashed it before: evidence may have come from anybody.
    let actual = Digest::of(payload);
    if actual != layer.payload {
        return Err(Refusal::OtherPayload {
            named: layer.payload,
            actual,
        });
    }
    // Before the key is asked: a replayed genuine signature of another image is the cheapest attack.
    let signed = Payload::parse(payload)?.subject;
    if !subjects.contains(&signed) {
        return Err(Refusal::OtherSubject { signed });
    }
    let signature = decode(&layer.signature).ok_or(Refusal::Encoding)?;
    Ok((payload, signature))
}

/// Some tools break base64 into lines.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD.decode(compact).ok().filter(|raw| !raw.is_empty())
}

/// The refusals of one verdict, bounded.
#[derive(Default)]
pub(super) struct Refusals {
    list: Vec<Refused>,
    more: usize,
}

impl Refusals {
    pub(super) fn push(
        &mut self,
        subject: Option<Digest>,
        signature: Option<usize>,
        refusal: Refusal,
    ) {
        if self.list.len() == MAX_REFUSALS {
            self.more = self.more.saturating_add(1);
        } else {
            self.list.push(Refused {
                subject,
                signature,
                refusal,
            });
        }
    }

    pub(super) const fn total(&self) -> usize {
        self.list.len().saturating_add(self.more)
    }

    pub(super) fn into_list(mut self) -> Vec<Refused> {
        if self.more > 0 {
            self.list.push(Refused {
                subject: None,
                signature: None,
                refusal: Refusal::More(self.more),
            });
        }
        self.list
    }
}
