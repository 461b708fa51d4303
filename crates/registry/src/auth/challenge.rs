//! What a registry's 401 asks for. The text is a registry's: bounded, and read without trust.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Longest challenge that is read.
const MAX_CHALLENGE: usize = 4096;

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

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

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
}
