//! The token dance, and that no credential and no token reaches another host.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::http::StatusCode;
use holdfast_core::trust::Cause;
use holdfast_registry::{Access, Keyring};
use tempfile::TempDir;

use crate::forge::SigningKey;
use crate::liar::{Asked, Liar, Reply, body, honest, look, look_with, plain, status, with};
use crate::registry::signed;
use crate::told;

/// `user:secret`
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// Access with these credentials, as the file's text.
fn with_file(access: Access, config: &str) -> (TempDir, Access) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, config).unwrap();
    let access = Access {
        keyring: Keyring::new(file, vec![folder.path().to_owned()]),
        ..access
    };
    (folder, access)
}

fn with_credentials(access: Access, host: &str) -> (TempDir, Access) {
    let config = format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpzZWNyZXQ="}}}}}}"#);
    with_file(access, &config)
}

fn challenge(realm: &str) -> Reply {
    let value = format!(
        "Bearer realm=\"{realm}\",service=\"r.example\",scope=\"repository:team/app:pull,push\""
    );
    with(status(401), "www-authenticate", &value)
}

fn json(text: &str) -> Reply {
    body("application/json", text.as_bytes())
}

/// A registry that gives tokens at `/token` and wants one for everything else.
async fn guarded(token: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Liar {
    let signed = signed(&SigningKey::generate().unwrap());
    Liar::start(move |asked| {
        if asked.path == "/token" {
            return token(asked);
        }
        match asked.header("authorization") {
            Some("Bearer good") => honest(&signed, asked),
            _ => challenge(&format!("http://{}/token", asked.header("host").unwrap())),
        }
    })
    .await
}

#[tokio::test]
async fn an_anonymous_token_is_asked_for_once_and_for_reading_only() {
    let registry = guarded(|_| json(r#"{"token":"good","expires_in":300}"#)).await;

    assert_eq!(told(&look(&registry.host).await), (1, vec![]));

    let asked = registry.asked();
    let tokens: Vec<&Asked> = asked
        .iter()
        .filter(|asked| asked.path == "/token")
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].query,
        "service=r.example&scope=repository%3Ateam%2Fapp%3Apull"
    );
    assert_eq!(tokens[0].header("authorization"), None);
}

#[tokio::test]
async fn credentials_go_to_the_registrys_own_token_endpoint() {
    let registry = guarded(|asked| match asked.header("authorization") {
        Some(BASIC) => json(r#"{"access_token":"good"}"#),
        _ => status(401),
    })
    .await;
    let host = &registry.host;

    let anonymous = look(host).await;
    let (_folder, access) = with_credentials(plain(&[host]), host);
    let known = look_with(access, host).await;

    assert_eq!(told(&anonymous), (0, vec![Cause::Denied]));
    assert_eq!(told(&known), (1, vec![]));
}

#[tokio::test]
async fn a_password_answers_a_basic_challenge() {
    let object = signed(&SigningKey::generate().unwrap());
    let registry = Liar::start(move |asked| match asked.header("authorization") {
        Some(BASIC) => honest(&object, asked),
        _ => with(status(401), "www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let host = &registry.host;

    let (_folder, access) = with_credentials(plain(&[host]), host);
    let known = look_with(access, host).await;

    assert_eq!(told(&known), (1, vec![]));
    assert_eq!(told(&look(host).await), (0, vec![Cause::Denied]));
}

#[tokio::test]
async fn a_token_that_is_refused_is_asked_for_anew_and_only_once() {
    let given = AtomicUsize::new(0);
    let registry = guarded(move |_| {
        given.fetch_add(1, Ordering::Relaxed);
        json(r#"{"token":"stale"}"#)
    })
    .await;
    assert_eq!(told(&look(&registry.host).await), (0, vec![Cause::Denied]));
    assert_eq!(registry.asked().len(), 3, "tag, token, tag again");
}

#[tokio::test]
async fn a_token_endpoint_that_fails_is_an_error_by_name() {
    for (code, text, cause) in [
        (403, "", Cause::Denied),
        (429, "", Cause::RateLimited),
        (500, "", Cause::ServerError),
        (302, "", Cause::WrongAnswer),
        (200, "{}", Cause::WrongAnswer),
        (200, "<html>", Cause::WrongAnswer),
    ] {
        let registry = guarded(move |_| {
            let mut reply = json(text);
            *reply.status_mut() = StatusCode::from_u16(code).unwrap();
            with(reply, "location", "/elsewhere")
        })
        .await;
        assert_eq!(
            told(&look(&registry.host).await),
            (0, vec![cause]),
            "{code} {text}"
        );
    }
}

#[tokio::test]
async fn a_token_endpoint_in_plain_http_that_is_not_listed_is_not_asked() {
    let thief = Liar::start(|_| json(r#"{"token":"good"}"#)).await;
    let realm = format!("http://{}/token", thief.host);
    let registry = Liar::start(move |_| challenge(&realm)).await;

    let looked = look(&registry.host).await;

    assert_eq!(told(&looked), (0, vec![Cause::WrongAnswer]));
    assert!(thief.asked().is_empty());
}

#[tokio::test]
async fn a_challenge_in_plain_http_does_not_send_the_password_to_another_host() {
    let thief = Liar::start(|_| json(r#"{"token":"good"}"#)).await;
    let realm = format!("http://{}/token", thief.host);
    let registry = Liar::start(move |_| challenge(&realm)).await;
    let access = plain(&[&registry.host, &thief.host]);

    let (_folder, access) = with_credentials(access, &registry.host);
    let looked = look_with(access, &registry.host).await;

    assert_eq!(told(&looked), (0, vec![Cause::Denied]));
    let asked = thief.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn neither_password_nor_token_follows_a_redirect_to_another_host() {
    let object = signed(&SigningKey::generate().unwrap());
    let storage = Liar::start(move |asked| honest(&object, asked)).await;
    let elsewhere = format!("http://{}", storage.host);
    let registry = Liar::start(move |asked| {
        if asked.path == "/token" {
            return json(r#"{"token":"good"}"#);
        }
        match asked.header("authorization") {
            Some("Bearer good") => with(
                status(302),
                "location",
                &format!("{elsewhere}{}", asked.path),
            ),
            _ => challenge(&format!("http://{}/token", asked.header("host").unwrap())),
        }
    })
    .await;
    let access = plain(&[&registry.host, &storage.host]);

    let (_folder, access) = with_credentials(access, &registry.host);
    let looked = look_with(access, &registry.host).await;

    assert_eq!(told(&looked), (1, vec![]));
    let asked = storage.asked();
    assert!(!asked.is_empty());
    assert!(
        asked
            .iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[tokio::test]
async fn the_challenge_of_another_host_is_not_answered() {
    let thief =
        Liar::start(|asked| challenge(&format!("http://{}/token", asked.header("host").unwrap())))
            .await;
    let elsewhere = format!("http://{}/x", thief.host);
    let registry = Liar::start(move |_| with(status(302), "location", &elsewhere)).await;
    let access = plain(&[&registry.host, &thief.host]);

    let (_folder, access) = with_credentials(access, &registry.host);
    let looked = look_with(access, &registry.host).await;

    assert_eq!(told(&looked), (0, vec![Cause::Denied]));
    assert_eq!(thief.asked().len(), 1);
    assert_eq!(thief.asked()[0].header("authorization"), None);
}

/// A registry whose token endpoint gives `good` to whoever posts the refresh token `refresh`.
async fn refreshing() -> Liar {
    guarded(|asked| {
        let form = String::from_utf8(asked.body.clone()).unwrap();
        let is_due = asked.method == "POST"
            && asked.header("content-type") == Some("application/x-www-form-urlencoded")
            && form.contains("grant_type=refresh_token")
            && form.contains("scope=repository%3Ateam%2Fapp%3Apull")
            && form.ends_with("&refresh_token=refresh");
        if is_due {
            json(r#"{"access_token":"good","refresh_token":"next"}"#)
        } else {
            status(401)
        }
    })
    .await
}

#[tokio::test]
async fn a_refresh_token_is_posted_and_stands_in_no_url_and_no_header() {
    let registry = refreshing().await;
    let host = &registry.host;
    let config = format!(r#"{{"auths":{{"{host}":{{"identitytoken":"refresh"}}}}}}"#);
    let (_folder, access) = with_file(plain(&[host]), &config);

    assert_eq!(told(&look_with(access, host).await), (1, vec![]));

    for asked in registry.asked() {
        let shown = format!("{:?} {:?}", asked.query, asked.headers);
        assert!(!shown.contains("refresh"), "{shown}");
    }
}

#[tokio::test]
async fn a_ready_token_is_used_as_it_is() {
    let registry = guarded(|_| status(500)).await;
    let host = &registry.host;
    let config = format!(r#"{{"auths":{{"{host}":{{"registrytoken":"good"}}}}}}"#);
    let (_folder, access) = with_file(plain(&[host]), &config);
    assert_eq!(told(&look_with(access, host).await), (1, vec![]));
}

#[tokio::test]
async fn a_helper_gives_what_the_file_does_not_hold() {
    let registry = refreshing().await;
    let host = &registry.host;
    let config = format!(r#"{{"credHelpers":{{"{host}":"test"}}}}"#);
    let (folder, access) = with_file(plain(&[host]), &config);
    let failed = look_with(access.clone(), host).await;
    assert_eq!(told(&failed), (0, vec![Cause::Setup]), "there is no helper");

    let program = folder.path().join("docker-credential-test");
    // Written by another process: what this one holds open for writing, another test's child may inherit.
    let written = std::process::Command::new("sh")
        .args([
            "-c",
            "printf '%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"",
            "sh",
        ])
        .arg(&program)
        .arg("#!/bin/sh\necho '{\"Username\":\"<token>\",\"Secret\":\"refresh\"}'")
        .status();
    assert!(written.unwrap().success());
    assert_eq!(told(&look_with(access, host).await), (1, vec![]));
}

#[tokio::test]
async fn credentials_of_one_host_are_not_shown_to_another() {
    let registry = guarded(|asked| match asked.header("authorization") {
        Some(_) => status(400),
        None => json(r#"{"token":"good"}"#),
    })
    .await;
    let (_folder, access) = with_credentials(plain(&[&registry.host]), "other.example");
    let looked = look_with(access, &registry.host).await;
    assert_eq!(told(&looked), (1, vec![]));
}

#[tokio::test]
async fn a_password_that_was_asked_for_once_is_sent_with_the_next_request() {
    let object = signed(&SigningKey::generate().unwrap());
    let registry = Liar::start(move |asked| match asked.header("authorization") {
        Some(BASIC) => honest(&object, asked),
        _ => with(status(401), "www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let (_folder, access) = with_credentials(plain(&[&registry.host]), &registry.host);
    assert_eq!(told(&look_with(access, &registry.host).await), (1, vec![]));
    assert_eq!(registry.asked().len(), 3, "tag, tag again, payload");
}
