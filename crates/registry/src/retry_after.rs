//! Reads `Retry-After`: seconds, or a date. A date is taken against the answer's own `Date`, so that
//! neither side's clock has to be right.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// HTTP's date is that of mail, in GMT. A wrong day of the week changes nothing.
static DATES: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// The pause that an answer asks for; `None` when it asks for none that can be read.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a number has are a long pause, not none.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let until = date(headers, &RETRY_AFTER)?;
    let now = date(headers, &DATE)?;
    // A date that has passed asks for no pause.
    Some(Duration::try_from(until.duration_since(now)).unwrap_or_default())
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    let text = headers.get(name)?.to_str().ok()?;
    DATES.parse_timestamp(text.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(date: Option<&str>, value: &str) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        retry_after(&headers).map(|pause| pause.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_read_and_nonsense_is_not() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for (value, due) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Thu, 01 Dec 9994 16:00:00 GMT", Some(252_457_801_823)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            assert_eq!(read(now, value), due, "{value}");
        }
        assert_eq!(read(None, "Sun, 06 Nov 1994 08:50:07 GMT"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
