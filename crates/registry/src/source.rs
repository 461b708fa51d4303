//! Where signatures are looked for: folders, then the registry, if it may be asked.
//!
//! Every place is asked, whatever an earlier one had: a folder that was copied last year must not hide
//! the signature that was pushed today. Nothing here judges what is found.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_core::reference::{Reference, Repository};
use holdfast_core::trust::{Cause, Evidence, Looked, Missed};
use tokio::time::Instant;

use crate::client::Client;
use crate::discover;
use crate::layout::Layout;

/// Repositories that are looked into for one image: each name costs requests.
const MAX_REPOSITORIES: usize = 8;
/// Time for one look at a registry, all its requests together: whoever waits has other images.
const LOOK_DEADLINE: Duration = Duration::from_secs(45);
/// Time for all looks of one image, however many names it has.
const COLLECT_DEADLINE: Duration = Duration::from_mins(1);

/// A look that is under way.
pub type Look<'a> = Pin<Box<dyn Future<Output = Looked> + Send + 'a>>;

/// A source of signatures: one of the two seams of the program.
pub trait SignatureSource: Send + Sync {
    /// Looks for the signatures of `subject`, an image of `repository`.
    fn signatures<'a>(&'a self, repository: &'a Repository, subject: Digest) -> Look<'a>;
}

/// The places that a program is configured with.
#[derive(Debug)]
pub struct Sources {
    layouts: Vec<Layout>,
    registry: Option<Client>,
}

impl Sources {
    /// Folders in this order, then the registry of the image, if there is a client.
    pub const fn new(layouts: Vec<Layout>, registry: Option<Client>) -> Self {
        Self { layouts, registry }
    }

    async fn look(&self, repository: &Repository, subject: Digest) -> Looked {
        let mut looked: Option<Looked> = None;
        for layout in &self.layouts {
            let place = in_folder(layout.clone(), subject).await;
            looked = Some(together(looked, place));
        }
        if let Some(client) = &self.registry {
            let place = in_registry(client, repository, subject).await;
            looked = Some(together(looked, place));
        }
        looked.unwrap_or_else(|| {
            Looked::could_not_look(Missed {
                cause: Cause::NoSource,
                message: "no folder is configured and no registry may be asked".to_owned(),
            })
        })
    }
}

impl SignatureSource for Sources {
    fn signatures<'a>(&'a self, repository: &'a Repository, subject: Digest) -> Look<'a> {
        Box::pin(self.look(repository, subject))
    }
}

fn together(before: Option<Looked>, place: Looked) -> Looked {
    match before {
        Some(before) => before.and(place),
        None => place,
    }
}

async fn in_folder(layout: Layout, subject: Digest) -> Looked {
    tokio::task::spawn_blocking(move || layout.signatures(subject))
        .await
        .unwrap_or_else(|_stopped| {
            Looked::could_not_look(Missed {
                cause: Cause::Layout,
                message: "reading the folder was stopped".to_owned(),
            })
        })
}

async fn in_registry(client: &Client, repository: &Repository, subject: Digest) -> Looked {
    let look = discover::signatures(client, repository, subject);
    tokio::time::timeout(LOOK_DEADLINE, look)
        .await
        .unwrap_or_else(|_elapsed| no_answer(repository))
}

fn no_answer(repository: &Repository) -> Looked {
    Looked::could_not_look(Missed {
        cause: Cause::Timeout,
        message: format!("{repository}: no answer in time"),
    })
}

/// Looks for the signatures of every subject under every name of an image.
///
/// Names that are no references lead nowhere. If none leads anywhere, nothing is known about the
/// subjects, which is an error to the verifier and not "unsigned".
pub async fn collect<N: AsRef<str>>(
    source: &dyn SignatureSource,
    names: &[N],
    subjects: &[Digest],
) -> Evidence {
    let mut evidence = Evidence::none();
    let started = Instant::now();
    for repository in repositories(names) {
        for subject in subjects {
            let left = COLLECT_DEADLINE.saturating_sub(started.elapsed());
            let look = tokio::time::timeout(left, source.signatures(&repository, *subject));
            let looked = look.await.unwrap_or_else(|_elapsed| no_answer(&repository));
            evidence.add(*subject, looked);
        }
    }
    evidence
}

/// The repositories that the names mean, each once, in their order.
pub fn repositories<N: AsRef<str>>(names: &[N]) -> Vec<Repository> {
    let mut repositories: Vec<Repository> = Vec::new();
    for name in names.iter().map(AsRef::as_ref) {
        // An image ID, which CRI stores as a name, would mean a repository `sha256` of Docker Hub.
        let is_image_id = name.parse::<Digest>().is_ok();
        let Ok(reference) = name.parse::<Reference>() else {
            continue;
        };
        let repository = reference.repository();
        if !is_image_id && !repositories.contains(repository) {
            repositories.push(repository.clone());
        }
    }
    repositories.truncate(MAX_REPOSITORIES);
    repositories
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repository_is_looked_into_once() {
        let digest = Digest::of(b"").to_string();
        let names = [
            "r.example/a:1".to_owned(),
            format!("r.example/a@{digest}"),
            digest,
            "busybox".to_owned(),
            "NO REFERENCE".to_owned(),
        ];
        let found: Vec<String> = repositories(&names)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, ["r.example/a", "index.docker.io/library/busybox"]);
        let many: Vec<String> = (0..100).map(|at| format!("r.example/a{at}")).collect();
        assert_eq!(repositories(&many).len(), MAX_REPOSITORIES);
    }

    #[tokio::test]
    async fn without_a_place_to_look_nothing_is_known() {
        let sources = Sources::new(Vec::new(), None);
        let digest = Digest::of(b"");
        let evidence = collect(&sources, &["r.example/a"], &[digest]).await;
        let looked = evidence.about(digest).unwrap();
        assert_eq!(looked.missed()[0].cause, Cause::NoSource);
        let nowhere = collect(&sources, &["NO REFERENCE"], &[digest]).await;
        assert_eq!(nowhere.about(digest), None);
    }

    /// Never answers.
    struct Silent;

    impl SignatureSource for Silent {
        fn signatures<'a>(&'a self, _: &'a Repository, _: Digest) -> Look<'a> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_never_answers_ends_all_looks_of_an_image_together() {
        let subjects = [Digest::of(b"a"), Digest::of(b"b")];
        let started = Instant::now();

        let evidence = collect(&Silent, &["r.example/a", "r.example/b"], &subjects).await;

        // The clock is the test's: it stands still but for the deadline.
        assert!(started.elapsed() <= COLLECT_DEADLINE.saturating_add(Duration::from_secs(1)));
        for subject in subjects {
            let looked = evidence.about(subject).unwrap();
            let causes: Vec<Cause> = looked.missed().iter().map(|missed| missed.cause).collect();
            assert_eq!(causes, [Cause::Timeout, Cause::Timeout]);
        }
    }
}
