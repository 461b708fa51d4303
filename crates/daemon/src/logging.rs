//! Logs: text on a terminal, JSON lines otherwise, always on standard error.
//!
//! A field can hold bytes that a container or a peer controls. Each line is therefore escaped as a whole
//! before it is written: no value can forge a second line, move the cursor, or turn the text around.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write};

use holdfast_core::display;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("log filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody has set up logging before.
    #[error("logging is set up twice")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The section `[log]` of a configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Log {
    /// As in `RUST_LOG`: `info`, or `warn,holdfast_agent=debug`.
    pub filter: Filter,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: Filter("info".to_owned()),
        }
    }
}

/// What is logged, known to be a filter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Filter(String);

impl TryFrom<String> for Filter {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match EnvFilter::builder().parse(&text) {
            Ok(_filter) => Ok(Self(text)),
            Err(error) => Err(format!(
                "expected a log filter such as \"info\" or \"warn,holdfast_agent=debug\": {error}"
            )),
        }
    }
}

/// Sets up logging for the whole process.
pub fn init(log: &Log) -> Result<(), LoggingError> {
    let filter = EnvFilter::builder().parse(&log.filter.0)?;
    let form = if io::stderr().is_terminal() {
        Form::Text
    } else {
        Form::Json
    };
    let lines = Escaped {
        form,
        target: io::stderr,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false) // the escaping writer would show the colours as text
        .with_target(false)
        .with_writer(lines);
    match form {
        Form::Text => builder.try_init(),
        Form::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(LoggingError::Twice)
}

#[derive(Clone, Copy, Debug)]
enum Form {
    Text,
    Json,
}

/// Makes a writer that escapes one event.
#[derive(Clone, Copy, Debug)]
struct Escaped<T> {
    form: Form,
    target: T,
}

impl<'a, T: MakeWriter<'a>> MakeWriter<'a> for Escaped<T> {
    type Writer = Escaping<T::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Escaping {
            form: self.form,
            target: self.target.make_writer(),
        }
    }
}

/// The subscriber writes each event in one call, its newline included.
#[derive(Debug)]
struct Escaping<W> {
    form: Form,
    target: W,
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let mut escaped = match self.form {
            Form::Text => escape_text(line),
            Form::Json => escape_json(line),
        };
        escaped.push('\n');
        self.target.write_all(escaped.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.flush()
    }
}

/// Leaves backslashes alone: paths in fields are in the reversible form already.
fn escape_text(line: &str) -> String {
    let parts: Vec<String> = line
        .split('\\')
        .map(|part| display::escape(part.as_bytes()))
        .collect();
    parts.join("\\")
}

/// JSON stays JSON: a deceptive character becomes its `\uXXXX`.
fn escape_json(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len());
    for character in line.chars() {
        let mut buffer = [0; 4];
        let shown: &str = character.encode_utf8(&mut buffer);
        if character == '\\' || display::escape(shown.as_bytes()) == shown {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _infallible = write!(escaped, "\\u{unit:04x}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(form: Form) -> String {
        let sink = Sink::default();
        let target = {
            let sink = sink.clone();
            move || sink.clone()
        };
        let builder = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(Escaped { form, target });
        let log = || tracing::info!(path = %"a\n\u{1b}[2K\u{9b}\u{202e}b\\x00", "Message.");
        match form {
            Form::Text => tracing::subscriber::with_default(builder.finish(), log),
            Form::Json => tracing::subscriber::with_default(builder.json().finish(), log),
        }
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_field_cannot_forge_a_line_or_reach_the_terminal() {
        for form in [Form::Text, Form::Json] {
            let logged = logged(form);
            assert_eq!(logged.matches('\n').count(), 1, "{logged:?}");
            let line = logged.trim_end_matches('\n');
            assert!(
                !line.contains(|c: char| c.is_control() || c == '\u{202e}'),
                "{line:?}"
            );
        }
    }

    #[test]
    fn what_was_escaped_before_is_not_escaped_twice() {
        assert!(logged(Form::Text).contains("b\\x00"));
    }

    #[test]
    fn a_json_line_stays_json() {
        let line = logged(Form::Json);
        assert!(line.contains("\\u202eb\\\\x00"), "{line}");
    }

    #[test]
    fn a_filter_that_is_none_is_refused_where_it_is_written() {
        let parse = |text: &str| crate::config::parse::<Log>(text, "a.toml".as_ref());
        assert!(parse("filter = \"warn,holdfast_agent=debug\"").is_ok());
        let refusal = parse("\nfilter = \"holdfast=loud=quiet\"").unwrap_err();
        let refusal = refusal.to_string();
        assert!(refusal.starts_with("a.toml:2:10: "), "{refusal}");
        assert!(refusal.contains("expected a log filter"), "{refusal}");
    }
}
