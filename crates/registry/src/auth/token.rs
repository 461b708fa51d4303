//! Asking a token endpoint, and reading what it answers. A token is asked for reading one repository,
//! whatever scope the challenge would like.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::sensitive;

/// Longest answer of a token endpoint; registries' tokens have up to some 5 KiB.
pub(crate) const MAX_TOKEN_ANSWER: usize = 64 << 10;
/// Life of a token that names none (distribution's token specification).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// Longest life that is believed: a token is asked for anew when it fails anyway.
const MAX_LIFE: Duration = Duration::from_hours(1);
/// What we call ourselves where a token is given for a refresh token.
const CLIENT_ID: &str = "holdfast";

fn scope(path: &str) -> String {
    format!("repository:{path}:pull")
}

/// The endpoint of a challenge, without the credentials that it may not choose.
pub(crate) fn endpoint(realm: &str) -> Option<Url> {
    let url = Url::parse(realm).ok()?;
    // Part of a URL that would be sent as credentials of the registry's choice.
    (url.username().is_empty() && url.password().is_none()).then_some(url)
}

/// The endpoint's URL with the question for reading `path`.
pub(crate) fn question(realm: &str, service: Option<&str>, path: &str) -> Option<Url> {
    let mut url = endpoint(realm)?;
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &scope(path));
    }
    Some(url)
}

/// The form that buys a token for reading `path` with a refresh token.
pub(crate) fn form(service: Option<&str>, path: &str, refresh_token: &str) -> Option<String> {
    // A URL's query is written in the same encoding.
    let mut url = Url::parse("form:").ok()?;
    {
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("grant_type", "refresh_token");
        pairs.append_pair("client_id", CLIENT_ID);
        if let Some(service) = service {
            pairs.append_pair("service", service);
        }
        pairs.append_pair("scope", &scope(path));
        pairs.append_pair("refresh_token", refresh_token);
    }
    url.query().map(str::to_owned)
}

/// What proves us to a registry, and how long it lives.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) header: HeaderValue,
    pub(crate) life: Duration,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Token {
    /// Reads the endpoint's answer.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        let answer: Answer = serde_json::from_slice(json).ok()?;
        let token = answer
            .token
            .filter(|token| !token.is_empty())
            .or(answer.access_token)
            .filter(|token| !token.is_empty())?;
        let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        Some(Self {
            header: sensitive(&format!("Bearer {token}"))?,
            life: life.min(MAX_LIFE),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_for_reading_and_nothing_else() {
        let url = question("https://t.example/token?a=1", Some("r x"), "team/app").unwrap();
        assert_eq!(
            url.as_str(),
            "https://t.example/token?a=1&service=r+x&scope=repository%3Ateam%2Fapp%3Apull"
        );
        assert!(question("https://u:p@t.example/", None, "a").is_none());
        assert!(question("not a url", None, "a").is_none());
    }

    #[test]
    fn a_token_has_a_bounded_life_and_is_not_shown() {
        let token = Token::parse(br#"{"token":"secret","expires_in":999999}"#).unwrap();
        assert_eq!(token.life, MAX_LIFE);
        assert!(!format!("{token:?}").contains("secret"));
        let other = Token::parse(br#"{"token":"","access_token":"x"}"#).unwrap();
        assert_eq!(
            (other.life, other.header.as_bytes()),
            (DEFAULT_LIFE, b"Bearer x".as_slice())
        );
        for answer in [
            "{}",
            "x",
            r#"{"token":""}"#,
            "{\"token\":\"a\\nb\"}",
            r#"{"token":1}"#,
        ] {
            assert!(Token::parse(answer.as_bytes()).is_none(), "{answer}");
        }
    }

    #[test]
    fn a_refresh_token_is_sent_as_a_form_and_escaped() {
        let form = form(Some("r.example"), "team/app", "a&b=c").unwrap();
        assert_eq!(
            form,
            "grant_type=refresh_token&client_id=holdfast&service=r.example&scope=repository%3Ateam%2Fapp%3Apull&refresh_token=a%26b%3Dc"
        );
    }
}
