//! `policy except CONTAINER`: exceptions for what one container has changed, exact and with an expiry, for a
//! person who has decided that it may stay. Findings carry none: each would be as long as the finding.

use std::cell::RefCell;
use std::io::{self, Write as _};

use holdfast_core::display;
use holdfast_core::drift::policy::{
    DriftPolicies, NoException, PathPattern, PatternError, Snippet,
};
use jiff::{SignedDuration, Timestamp};

use super::super::check::{self, Looked};
use super::super::selection::{Reach, Selection};
use super::super::{Exit, complain};
use super::{Except, is_whole, rules_for};
use crate::trust::TrustError;

/// Why not everything is excused.
#[derive(Debug, thiserror::Error)]
enum NotExcused {
    #[error("--path: {0}")]
    Pattern(#[from] PatternError),
    #[error("the image of the container is not known")]
    NoImage,
    #[error("nothing to excuse")]
    Nothing,
    #[error("not all of its files could be looked at")]
    NotWhole,
    #[error("{0}: {1}")]
    Cannot(String, #[source] NoException),
}

/// What is asked for.
struct Asked<'a> {
    present: DriftPolicies,
    pattern: Option<PathPattern>,
    reason: &'a str,
    now: Timestamp,
    expires: Timestamp,
}

pub(super) fn run(arguments: &Except) -> Result<Exit, TrustError> {
    let pattern = arguments.path.as_deref().map(PathPattern::parse);
    let pattern = match pattern.transpose() {
        Ok(pattern) => pattern,
        Err(error) => {
            complain(&NotExcused::from(error));
            return Ok(Exit::Usage);
        }
    };
    let now = crate::now();
    let days = SignedDuration::from_hours(24 * i64::from(arguments.days));
    // A whole second: nobody wants to read more.
    let expires = now.saturating_add(days).unwrap_or(now).as_second();
    let asked = Asked {
        present: arguments.present.policies()?,
        pattern,
        reason: &arguments.reason,
        now,
        expires: Timestamp::from_second(expires).unwrap_or(now),
    };
    let scope = &arguments.present.scope;
    let selection = Selection::unruled(scope, Some(&arguments.container), Reach::One);
    let seen = RefCell::new(None);
    Ok(check::looking_at_each(
        &selection,
        |looked| *seen.borrow_mut() = Some(looked),
        async || {
            let looked = seen.borrow_mut().take();
            looked.map_or(Exit::Usage, |looked| asked.print(looked))
        },
    ))
}

impl Asked<'_> {
    fn print(&self, looked: Looked) -> Exit {
        let mut not_excused = Vec::new();
        let text = self.exceptions(looked, &mut not_excused);
        let mut out = io::stdout().lock();
        let written = text.map_or(Ok(()), |text| out.write_all(text.as_bytes()));
        if let Err(error) = written.and_then(|()| out.flush()) {
            complain(&error);
            return Exit::Failure;
        }
        let mut exit = Exit::Clean;
        for reason in &not_excused {
            complain(reason);
            if !matches!(reason, NotExcused::Nothing) {
                exit = Exit::Incomplete;
            }
        }
        exit
    }

    /// The policy, if there is anything to excuse.
    fn exceptions(&self, looked: Looked, not_excused: &mut Vec<NotExcused>) -> Option<String> {
        let Looked { report, lists } = looked;
        let status = report.containers.first()?;
        if !is_whole(status) || lists.container.left_out() > 0 {
            not_excused.push(NotExcused::NotWhole);
        }
        let digest = status
            .image
            .as_ref()
            .and_then(|image| image.manifest_digest);
        let Some(digest) = digest else {
            not_excused.push(NotExcused::NoImage);
            return None;
        };
        let rules = rules_for(&self.present, status);
        let mut snippet = Snippet::new(&status.container.id, digest, self.reason, self.expires);
        for listed in lists.container.into_listed() {
            let change = &listed.change;
            let pattern = self.pattern.as_ref();
            let is_meant = pattern.is_none_or(|pattern| pattern.matches(&change.path))
                && rules.decide(change, self.now).severity.is_some();
            if is_meant && let Err(reason) = snippet.add(change) {
                not_excused.push(NotExcused::Cannot(display::path(&change.path), reason));
            }
        }
        let text = snippet.finish();
        if text.is_none() && not_excused.is_empty() {
            not_excused.push(NotExcused::Nothing);
        }
        text
    }
}
