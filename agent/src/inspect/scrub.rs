//! The scrub: every unpacked layer in use, whole, once a pass, whatever the number of containers on it, and
//! slowly enough that nobody notices.
//!
//! ```text
//! due ─▶ queue ─┬─▶ never seen right: at once, as fast as the node lets
//!               └─▶ within the budget: first what is executed and what was changed last, then the rest in
//!                   the order of paths ─▶ result
//! ```
//! Of each of both one part is made at a time, on a thread of its own that can be left behind; between two
//! parts nothing is open, and the budget and the node's pressure decide when the next one begins. What a
//! part finds is told at once; that something is gone, only the end of a compare can tell. A budget that
//! cannot hold the interval wins, and the scrub says so.
//!
//! Long because the loop, and what it does with what comes back, are read together.

mod mapped;
mod pace;
mod part;
mod queue;
mod rest;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::finding::Check;
use holdfast_daemon::shutdown::{Stop, stopped};
use jiff::SignedDuration;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use self::pace::Pace;
use self::part::{Answer, Found, Job};
use self::queue::{Book, Speed, Work, take_next};
use self::rest::Rest;
use super::content::PATIENCE;
use super::lowers::Lowers;
use crate::files::ScanOutcome;
use crate::files::budget::Limits;
use crate::files::history::News;
use crate::files::layers::LayerKey;
use crate::files::lower::{Part, SoFar};
use crate::files::reading::Source;
use crate::telemetry::{Metrics, Pause};
use crate::worker::{WorkError, Workers};

/// How often progress is made durable; a restart loses at most this much of it.
const SAVED_EVERY: Duration = Duration::from_mins(1);

/// The gauges are brought up to date at least this often, also in a long pause and within a long file.
const PUBLISHED_EVERY: Duration = Duration::from_secs(10);

/// How a scrub is to be made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// In which time each layer is due again.
    pub interval: Duration,
    /// What it may use.
    pub limits: Limits,
    /// Where it reads.
    pub source: Source,
    /// Where the kernel says how pressed the node is.
    pub pressure: PathBuf,
}

/// What a scrub has to say about a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scrubbed {
    /// Its containers have something new to say.
    News(LayerKey),
    /// It was compared, and is due again after this.
    Done {
        /// Which.
        layer: LayerKey,
        /// After how long.
        again: Duration,
    },
    /// It could not be compared, or nobody stands on it any more.
    Failed(LayerKey),
}

/// The scrub.
#[derive(Debug)]
pub struct Scrub {
    lowers: Arc<Lowers>,
    workers: Workers,
    metrics: Metrics,
    settings: Settings,
    pace: Arc<Pace>,
    rest: Rest,
    queue: Vec<Work>,
    book: Book,
    /// At most one of each speed.
    parts: JoinSet<(Work, Result<Answer, WorkError>)>,
    /// Speeds of which none is under way.
    free: Vec<Speed>,
    is_late: bool,
    saved: Instant,
    said: mpsc::Sender<Scrubbed>,
}

impl Scrub {
    /// Compares what is due, and says so to `said`.
    pub fn new(
        (lowers, workers): (Arc<Lowers>, Workers),
        metrics: Metrics,
        settings: Settings,
        said: mpsc::Sender<Scrubbed>,
    ) -> Self {
        Self {
            lowers,
            workers,
            pace: Arc::new(Pace::new(settings.limits, metrics.clone())),
            rest: Rest::new(&settings.pressure, settings.interval),
            metrics,
            settings,
            queue: Vec::new(),
            book: Book::default(),
            parts: JoinSet::new(),
            free: vec![Speed::AtOnce, Speed::Budgeted],
            is_late: false,
            saved: Instant::now(),
            said,
        }
    }

    /// Runs until stopped.
    pub async fn run(
        mut self,
        mut due: mpsc::Receiver<LayerKey>,
        mut stop: Stop,
    ) -> Result<(), JoinError> {
        if self.pace.is_limited() && !self.rest.is_told_of_pressure() {
            tracing::info!(
                "The kernel does not say how pressed the node is: the scrub makes no pauses for it."
            );
        }
        let ended = tokio::select! {
            () = stopped(&mut stop) => Ok(()),
            ended = self.work(&mut due) => ended,
        };
        // On the way out, so it may block.
        self.lowers.history.save();
        ended
    }

    /// Ends when nobody can say any more what is due.
    async fn work(&mut self, due: &mut mpsc::Receiver<LayerKey>) -> Result<(), JoinError> {
        loop {
            let rest = self.start_parts().await;
            let wait = rest.map_or(PUBLISHED_EVERY, |(_, wait)| wait.min(PUBLISHED_EVERY));
            let began = Instant::now();
            let event = tokio::select! {
                biased;
                Some(done) = self.parts.join_next() => Event::Part(Box::new(done?)),
                layer = due.recv() => match layer {
                    Some(layer) => Event::Due(layer),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(wait) => Event::Rested,
            };
            if let Some((why, _)) = rest {
                self.metrics.scrub_paused(why, wait.min(began.elapsed()));
            }
            match event {
                Event::Part(done) => self.on_part(*done).await,
                Event::Due(layer) => self.on_due(layer).await,
                Event::Rested => {}
            }
            self.publish();
        }
    }

    /// Starts what may begin; gives why, and for how long, the next part within the budget may not.
    async fn start_parts(&mut self) -> Option<(Pause, Duration)> {
        while self.free.contains(&Speed::AtOnce)
            && let Some(work) = take_next(&mut self.queue, Speed::AtOnce)
        {
            self.start_part(work).await;
        }
        let is_waiting = |work: &Work| work.speed == Speed::Budgeted;
        while self.free.contains(&Speed::Budgeted) && self.queue.iter().any(is_waiting) {
            if self.pace.is_limited()
                && let Some(pause) = self.rest.before_next()
            {
                return Some(pause);
            }
            if let Some(work) = take_next(&mut self.queue, Speed::Budgeted) {
                self.start_part(work).await;
            }
        }
        None
    }

    /// A layer is due.
    async fn on_due(&mut self, layer: LayerKey) {
        if self.book.has(&layer) {
            return;
        }
        let Some(expected) = self.lowers.expected(&layer) else {
            self.say(Scrubbed::Failed(layer)).await;
            return;
        };
        let now = crate::now();
        let right = self.lowers.history.right(&layer);
        let compared = self.lowers.compared_at(&layer);
        // What an earlier run saw stands, with its time, until this one has looked.
        if let Some(at) = right
            && compared.is_none()
        {
            let nothing = ScanOutcome::default();
            self.lowers.keep(&layer, &expected, at, nothing);
            self.say(Scrubbed::News(layer.clone())).await;
        }
        let interval =
            SignedDuration::try_from(self.settings.interval).unwrap_or(SignedDuration::MAX);
        let progress = self.lowers.history.progress(&layer, now, interval);
        let resumed = progress.and_then(|progress| {
            let so_far = SoFar::resumed(progress.after()?, progress.entries);
            Some((so_far, progress.begun))
        });
        let is_begun = resumed.is_some();
        if !is_begun {
            self.lowers.history.begin(&layer);
        }
        let (so_far, begun) = resumed.unwrap_or_else(|| (SoFar::default(), now));
        let due = Instant::now();
        self.book.begin(&layer, expected.tree.entries(), due);
        self.queue.push(Work {
            layer,
            expected,
            speed: Speed::of(right.or(compared)),
            so_far,
            is_begun,
            begun,
            due,
            right,
            compared: compared.or(right),
            unlike: BTreeSet::new(),
            told: 0,
            took: Duration::ZERO,
        });
    }

    async fn start_part(&mut self, mut work: Work) {
        if !self.lowers.stands.are_on(&work.layer) {
            self.book.drop(&work.layer);
            self.say(Scrubbed::Failed(work.layer)).await;
            return;
        }
        if self.book.is_over(Some(&work.layer)) {
            self.end_pass();
        }
        let job = Job {
            lowers: Arc::clone(&self.lowers),
            pace: Arc::clone(&self.pace),
            source: self.settings.source,
            layer: work.layer.clone(),
            expected: work.expected.clone(),
            speed: work.speed,
            so_far: std::mem::take(&mut work.so_far),
            is_begun: work.is_begun,
            right: work.right,
            now: work.begun,
        };
        self.free.retain(|free| *free != work.speed);
        let (workers, subject) = (self.workers.clone(), work.layer.to_string());
        self.parts.spawn(async move {
            let run = move |progress: &_| job.run(progress);
            let answer = workers.run(&subject, PATIENCE, run).await;
            (work, answer)
        });
    }

    async fn on_part(&mut self, (mut work, answer): (Work, Result<Answer, WorkError>)) {
        self.free.push(work.speed);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.on_failed(work, error.to_string()).await,
        };
        self.metrics.scrub_not_direct.inc_by(answer.not_direct);
        work.took = work.took.saturating_add(answer.took);
        if work.speed == Speed::Budgeted {
            self.rest.owe(answer.wait);
        }
        for (container, unlike) in answer.unlike {
            let stands = &self.lowers.stands;
            stands.differs(&container, &work.layer, unlike);
            work.unlike.insert(container);
        }
        match answer.found {
            Found::Part(Part::More(so_far)) => {
                work.so_far = *so_far;
                work.is_begun = true;
                self.on_progress(&mut work).await;
                self.queue.push(work);
            }
            Found::Part(Part::Last(outcome)) => self.on_compared(work, *outcome).await,
            // Nobody waits for it: the agent ends.
            Found::Part(Part::GivenUp) => self.queue.push(work),
            Found::Error(message) => self.on_failed(work, message).await,
        }
    }

    /// What was found so far is told, and what was not found is remembered.
    async fn on_progress(&mut self, work: &mut Work) {
        let (layer, so_far) = (&work.layer, &work.so_far);
        let (outcome, found) = (&so_far.outcome, work.found());
        let history = &self.lowers.history;
        self.book.reached(layer, outcome.entries);
        if work.is_clean() && !so_far.after.is_empty() {
            history.reached(layer, &so_far.after, work.begun, outcome.entries);
            self.save(Urgency::Sometime).await;
        } else if found > work.told {
            work.told = found;
            // Before anybody can hear of it: a restart must not take what an earlier pass saw for the truth.
            let urgency = Urgency::of(history.is_wrong(layer));
            self.save(urgency).await;
            self.lowers
                .keep_so_far(&work.layer, &work.expected, &work.so_far.outcome);
            self.say(Scrubbed::News(work.layer.clone())).await;
        }
    }

    async fn on_compared(&mut self, work: Work, outcome: ScanOutcome) {
        let (layer, begun) = (work.layer, work.begun);
        let history = &self.lowers.history;
        let is_wrong = !outcome.changes.is_empty() || !outcome.corrupt.is_empty();
        let urgency = if is_wrong || !work.unlike.is_empty() {
            Urgency::of(history.is_wrong(&layer))
        } else if outcome.unverifiable.is_empty() {
            Urgency::of(history.is_right(&layer, begun))
        } else {
            history.begin(&layer);
            Urgency::Sometime
        };
        self.save(urgency).await;
        self.lowers.stands.end_pass(&layer, &work.unlike);
        self.lowers.keep(&layer, &work.expected, begun, outcome);
        self.metrics.check_took(Check::Layers, work.took);
        self.book.finish(&layer);
        self.keep_time(work.due);
        let age = Duration::try_from(crate::now().duration_since(begun)).unwrap_or_default();
        let again = self.settings.interval.saturating_sub(age);
        self.say(Scrubbed::Done { layer, again }).await;
    }

    async fn on_failed(&mut self, work: Work, message: String) {
        let (layer, lowers) = (work.layer, &self.lowers);
        lowers.history.begin(&layer);
        lowers.keep_failure(&layer, &work.expected, work.begun, message);
        self.book.drop(&layer);
        // Its containers say so, and it is tried again soon.
        self.say(Scrubbed::News(layer.clone())).await;
        self.say(Scrubbed::Failed(layer)).await;
    }

    /// Says once when the interval is not kept, and once when it is again.
    fn keep_time(&mut self, due: Instant) {
        let is_late = due.elapsed() > self.settings.interval;
        if is_late && !self.is_late {
            tracing::warn!(
                interval = ?self.settings.interval,
                "The scrub does not keep its interval within its budget; the budget holds."
            );
        }
        self.is_late = is_late;
        self.metrics.scrub_late.set(i64::from(is_late));
    }

    fn end_pass(&mut self) {
        if let Some(took) = self.book.end(Instant::now()) {
            self.metrics.scrub_pass_seconds.set(took.as_secs_f64());
        }
    }

    /// Gauges.
    fn publish(&mut self) {
        let progress = f64::from(self.book.progress()) / 1_000.0;
        self.metrics.scrub_progress.set(progress);
        if self.book.is_over(None) {
            self.end_pass();
        }
        if let Some(oldest) = self.lowers.oldest() {
            let oldest = oldest.as_duration().as_secs_f64();
            self.metrics.oldest_layer_check.set(oldest);
        }
        if let Some(due) = self.book.oldest_due()
            && !self.is_late
        {
            self.keep_time(due);
        }
    }

    async fn save(&mut self, urgency: Urgency) {
        if urgency == Urgency::Sometime && self.saved.elapsed() < SAVED_EVERY {
            return;
        }
        self.saved = Instant::now();
        let lowers = Arc::clone(&self.lowers);
        let saved = self
            .workers
            .run("what is known of layers", PATIENCE, move |_| {
                lowers.history.save();
            });
        if let Err(error) = saved.await {
            tracing::warn!(%error, "What is known of layers could not be kept.");
        }
    }

    /// The loop is gone only when the agent ends.
    async fn say(&self, what: Scrubbed) {
        let _gone = self.said.send(what).await;
    }
}

/// What the loop waits for.
#[derive(Debug)]
enum Event {
    /// A part was made.
    Part(Box<(Work, Result<Answer, WorkError>)>),
    Due(LayerKey),
    /// A pause is over, or a part of it.
    Rested,
}

/// When something is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    Now,
    Sometime,
}

impl Urgency {
    /// What is no news for the next run can wait.
    const fn of(news: News) -> Self {
        match news {
            News::Yes => Self::Now,
            News::No => Self::Sometime,
        }
    }
}
