//! How often a registry is asked: once for everybody, not while it wants a pause, not while it is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_core::digest::Digest;
use holdfast_registry::{Access, Client, FetchError, Manifest, Pace};
use tokio::task::JoinSet;

use crate::liar::{Liar, body, plain, status, with};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn client(registry: &Liar) -> Client {
    Client::new(plain(&[&registry.host])).unwrap()
}

#[tokio::test]
async fn a_hundred_who_want_the_same_at_once_are_one_request() {
    let registry = Liar::start(|_| body(MANIFEST, b"{}")).await;
    let client = client(&registry);
    let mut waiting = JoinSet::new();
    for _ in 0..100 {
        let (client, repository) = (client.clone(), registry.repository());
        waiting.spawn(async move { client.manifest(&repository, Digest::of(b"{}")).await });
    }
    for found in waiting.join_all().await {
        assert_eq!(found.unwrap().bytes, b"{}");
    }
    assert_eq!(registry.asked().len(), 1);
}

fn pause(answer: &Result<Manifest, FetchError>) -> Duration {
    let pause = match answer {
        Err(FetchError::RateLimited { pause }) => Some(*pause),
        _ => None,
    };
    pause.unwrap()
}

#[tokio::test]
async fn a_pause_of_years_is_an_hour_and_nobody_asks_in_it() {
    for value in [
        "999999999999999999999999",
        "3153600000",
        "Thu, 01 Dec 2094 16:00:00 GMT",
    ] {
        let registry = Liar::start(move |_| with(status(429), "retry-after", value)).await;
        let client = client(&registry);
        for _ in 0..3 {
            let pause = pause(&client.tagged(&registry.repository(), "1").await);
            assert!(pause <= Duration::from_hours(1));
            assert!(pause > Duration::from_mins(55), "{value}: {pause:?}");
        }
        assert_eq!(registry.asked().len(), 1, "{value}");
    }
}

#[tokio::test]
async fn a_registry_that_keeps_failing_is_left_alone() {
    let registry = Liar::start(|_| status(500)).await;
    let client = client(&registry);
    let mut errors = Vec::new();
    for at in 0..4 {
        let name = at.to_string();
        errors.push(
            client
                .tagged(&registry.repository(), &name)
                .await
                .unwrap_err(),
        );
    }
    assert_eq!(errors[0], FetchError::Server(500));
    let alone = FetchError::LeftAlone {
        after: Box::new(FetchError::Server(500)),
    };
    assert_eq!(errors[1..], [alone.clone(), alone.clone(), alone]);
    assert_eq!(registry.asked().len(), 5);
}

#[tokio::test]
async fn a_registry_that_is_back_before_it_is_given_up_is_asked_as_ever() {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let registry = Liar::start(move |_| {
        status(if down.load(Ordering::Relaxed) {
            500
        } else {
            404
        })
    })
    .await;
    let client = client(&registry);
    for _ in 0..3 {
        is_down.store(true, Ordering::Relaxed);
        let failed = client.tagged(&registry.repository(), "1").await;
        assert_eq!(failed, Err(FetchError::Server(500)));
        is_down.store(false, Ordering::Relaxed);
        let answered = client.tagged(&registry.repository(), "1").await;
        assert_eq!(answered, Err(FetchError::NotFound));
    }
}

#[tokio::test]
async fn a_failing_storage_does_not_silence_the_registry() {
    let storage = Liar::start(|_| status(500)).await;
    let elsewhere = format!("http://{}", storage.host);
    let registry = Liar::start(move |asked| {
        if asked.path.contains("/blobs/") {
            return with(status(307), "location", &elsewhere);
        }
        body(MANIFEST, b"{}")
    })
    .await;
    let client = Client::new(plain(&[&registry.host, &storage.host])).unwrap();
    for at in 0..4_u8 {
        let repository = registry.repository();
        assert!(
            client
                .blob(&repository, Digest::of(&[at]), 10)
                .await
                .is_err()
        );
        assert!(client.tagged(&repository, "1").await.is_ok());
    }
    assert_eq!(storage.asked().len(), 5);
}

#[tokio::test]
async fn requests_that_would_wait_too_long_for_the_pace_are_not_sent() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let registry = Liar::start(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        status(404)
    })
    .await;
    let access = Access {
        pace: Pace {
            per_second: 0.01,
            burst: 2.0,
        },
        ..plain(&[&registry.host])
    };
    let client = Client::new(access).unwrap();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(
            client
                .tagged(&registry.repository(), "1")
                .await
                .unwrap_err(),
        );
    }
    assert_eq!(
        answers,
        [
            FetchError::NotFound,
            FetchError::NotFound,
            FetchError::Busy,
            FetchError::Busy
        ]
    );
    assert_eq!(served.load(Ordering::Relaxed), 2);
}
