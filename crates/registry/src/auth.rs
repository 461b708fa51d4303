//! The token dance: what a registry's 401 asks for, and the token that answers it.
//!
//! Credentials belong to one registry. They go to that registry, or to the token endpoint that it names
//! over an authenticated channel, and nowhere else. A token is asked for reading one repository,
//! whatever scope the challenge would like.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

/// Longest challenge that is read.
const MAX_CHALLENGE: usize = 4096;
/// Longest answer of a token endpoint; registries' tokens have up to some 5 KiB.
pub(crate) const MAX_TOKEN_ANSWER: usize = 64 << 10;
/// Life of a token that names none (distribution's token specification).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
/// Longest life that is believed: a token is asked for anew when it fails anyway.
const MAX_LIFE: Duration = Duration::from_hours(1);

/// User and password for one registry.
#[derive(Clone)]
pub struct Credentials {
    /// The user.
    pub username: String,
    /// The password; never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

impl Credentials {
    /// The header that proves them.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let pair = STANDARD.encode(format!("{}:{}", self.username, self.password));
        sensitive(&format!("Basic {pair}"))
    }
}

/// What a 401 asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A token from this endpoint.
    Bearer {
        realm: String,
        service: Option<String>,
    },
    /// User and password.
    Basic,
}

impl Challenge {
    /// The first challenge that we can answer; a token is worth more than a password.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let text = value
                .to_str()
                .ok()
                .filter(|text| text.len() <= MAX_CHALLENGE)?;
            for challenge in challenges(text) {
                match challenge {
                    Self::Bearer { .. } => return Some(challenge),
                    Self::Basic => basic = Some(challenge),
                }
            }
        }
        basic
    }
}

/// The challenges of one header: `scheme name="value", name=value, scheme …`.
fn challenges(text: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut rest = text;
    let mut scheme = String::new();
    let mut parameters: Vec<(String, String)> = Vec::new();
    while let Some((word, after)) = word(rest) {
        if let Some(after) = after.strip_prefix('=') {
            let (value, after) = value(after);
            parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else {
            challenges.extend(challenge(&scheme, &parameters));
            scheme = word.to_ascii_lowercase();
            parameters.clear();
            rest = after;
        }
    }
    challenges.extend(challenge(&scheme, &parameters));
    challenges
}

/// The next word, past separators.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',', ';', '=', '"']);
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    let (word, after) = text.split_at_checked(end)?;
    (!word.is_empty()).then_some((word, after))
}

/// A parameter's value, quoted or not.
fn value(text: &str) -> (String, &str) {
    if let Some(quoted) = text.strip_prefix('"')
        && let Some((value, after)) = quoted.split_once('"')
    {
        return (value.to_owned(), after);
    }
    let end = text.find([' ', ',']).unwrap_or(text.len());
    let (value, after) = text.split_at_checked(end).unwrap_or((text, ""));
    (value.to_owned(), after)
}

fn challenge(scheme: &str, parameters: &[(String, String)]) -> Option<Challenge> {
    let parameter = |name: &str| {
        parameters
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.clone())
    };
    match scheme {
        "bearer" => Some(Challenge::Bearer {
            realm: parameter("realm")?,
            service: parameter("service"),
        }),
        "basic" => Some(Challenge::Basic),
        _ => None,
    }
}

/// The endpoint's URL with the question for reading `path`.
pub(crate) fn question(realm: &str, service: Option<&str>, path: &str) -> Option<Url> {
    let mut url = Url::parse(realm).ok()?;
    // Part of a URL that would be sent as credentials of the registry's choice.
    if !url.username().is_empty() || url.password().is_some() {
        return None;
    }
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{path}:pull"));
    }
    Some(url)
}

/// A token and how long it lives.
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

/// A header value that no debug output shows.
fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        }
    }

    #[test]
    fn a_challenge_is_read_in_all_its_spellings() {
        let due = Some(bearer("https://t.example/token", Some("r.example")));
        for header in [
            r#"Bearer realm="https://t.example/token",service="r.example",scope="repository:a:pull,push""#,
            r#"bearer Service="r.example", Realm="https://t.example/token""#,
            r#"Basic realm="x", Bearer realm="https://t.example/token", service=r.example"#,
        ] {
            assert_eq!(of(&[header]), due, "{header}");
        }
        assert_eq!(
            of(&[
                "Basic realm=\"x\"",
                "Bearer realm=\"https://t.example/token\",service=\"r.example\""
            ]),
            due
        );
        assert_eq!(of(&["Bearer realm=\"r\""]), Some(bearer("r", None)));
        assert_eq!(
            of(&["Basic realm=\"a, Bearer realm=b\""]),
            Some(Challenge::Basic)
        );
    }

    #[test]
    fn what_is_no_challenge_of_ours_is_none() {
        for header in [
            "",
            "Negotiate",
            "Bearer",
            "Bearer service=\"x\"",
            "=\",,\"= \"",
            "Digest realm=\"x\"",
        ] {
            assert_eq!(of(&[header]), None, "{header}");
        }
        let long = format!("Basic realm=\"{}\"", "x".repeat(MAX_CHALLENGE));
        assert_eq!(of(&[&long]), None);
    }

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
        let shown = format!(
            "{:?}",
            Credentials {
                username: "u".into(),
                password: "pw".into()
            }
        );
        assert!(!shown.contains("pw"));
    }
}
