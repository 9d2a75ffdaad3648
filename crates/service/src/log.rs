//! The log: one line for each `tracing` event on standard output, as JSON or for people.
//!
//! `event` is the event's name for machines, `message` its text, every other field goes to
//! `context`, as do the fields of the `tracing` spans around it. The ids of the trace are those of
//! the current OpenTelemetry context: reading them takes no lock that the tracing layer holds.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use opentelemetry::Context as OtelContext;
use opentelemetry::trace::TraceContextExt as _;
use prometheus::{IntCounter, Registry};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::args::LogFormat;
use crate::log_fields::{Fields, SpanFields};
use crate::log_line::{Identity, Line};
use crate::span::SpanSink;
use crate::user_spans;

/// Makes this the log of the whole process, filtered by `RUST_LOG` (INFO by default), and sends
/// `tracing` spans of kept traces to `spans`.
///
/// # Errors
/// If `RUST_LOG` can't be read, or the process has a log already.
pub(crate) fn install(
    identity: Identity,
    format: LogFormat,
    registry: &Registry,
    spans: &SpanSink,
) -> anyhow::Result<()> {
    let lost = IntCounter::new(
        "log_lines_dropped_total",
        "Log lines that couldn't be written.",
    )?;
    registry.register(Box::new(lost.clone()))?;
    let stdout = std::io::stdout();
    let form = match format {
        LogFormat::Json => Form::Json,
        LogFormat::Text => Form::Text {
            coloured: stdout.is_terminal(),
        },
    };
    let log = LogLayer {
        identity,
        form,
        out: Mutex::new(Box::new(stdout)),
        lost,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .context("RUST_LOG isn't a filter such as info,scheduler=debug")?;
    // The filter is the log's alone: on the whole it would remove spans from the traces too.
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        .with(spans.is_enabled().then(|| user_spans::layer(spans.clone())))
        .try_init()
        .context("the process has a log already")?;
    log_panics();
    Ok(())
}

/// Panics become log lines too.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let location = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("a value that is no text");
        tracing::error!(event = "panic", location, "panicked: {message}");
    }));
}

/// Writes events as lines.
struct LogLayer {
    identity: Identity,
    form: Form,
    out: Mutex<Box<dyn Write + Send>>,
    lost: IntCounter,
}

#[derive(Clone, Copy)]
enum Form {
    Json,
    Text { coloured: bool },
}

impl<S> Layer<S> for LogLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(SpanFields(fields.context));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(known) = span.extensions_mut().get_mut::<SpanFields>() {
            known.0.extend(fields.context);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(around) = span.extensions().get::<SpanFields>() {
                fields.context.extend(around.0.clone());
            }
        }
        event.record(&mut fields);
        let line = Line::new(&self.identity, event.metadata(), fields, current_ids(event));
        self.write(match self.form {
            Form::Json => line.json(),
            Form::Text { coloured } => line.text(coloured),
        });
    }
}

impl LogLayer {
    /// In one piece, so that lines of several threads don't mix. A reader that is gone must not
    /// end the process: the line is counted as lost.
    fn write(&self, mut line: String) {
        line.push('\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if out
            .write_all(line.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            self.lost.inc();
        }
    }
}

/// Trace and span id of the current context, if it has any.
fn current_ids(event: &Event<'_>) -> Option<(String, String)> {
    // OpenTelemetry's own events may come while it changes the current context.
    if event.metadata().target().starts_with("opentelemetry") {
        return None;
    }
    OtelContext::map_current(|current| {
        let span = current.span();
        let ids = span.span_context();
        ids.is_valid()
            .then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::trace_context::TraceContext;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _bytes: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn log_to(out: impl Write + Send + 'static, form: Form, piece: impl FnOnce()) -> u64 {
        let identity = Identity {
            service: "worker",
            instance_id: "worker-1".to_owned(),
        };
        let lost = IntCounter::new("lost", "Lost.").unwrap();
        let log = LogLayer {
            identity,
            form,
            out: Mutex::new(Box::new(out)),
            lost: lost.clone(),
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(log), piece);
        lost.get()
    }

    fn lines(form: Form, piece: impl FnOnce()) -> Vec<String> {
        let written = Written::default();
        log_to(written.clone(), form, piece);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    fn json_line(piece: impl FnOnce()) -> Value {
        let lines = lines(Form::Json, piece);
        assert_eq!(lines.len(), 1, "{lines:?}");
        serde_json::from_str(&lines[0]).unwrap()
    }

    #[test]
    fn a_line_has_the_shape_of_the_contract() {
        let context = TraceContext {
            trace_id: [0xab; 16],
            span_id: [0xcd; 8],
            sampled: false,
        };
        let mut line = json_line(|| {
            context.enter(|| {
                tracing::warn!(
                    event = "task_timeout",
                    execution_id = %"e-1",
                    attempt = 2_u32,
                    late = true,
                    share = 0.5,
                    "took {} s",
                    7
                );
            });
        });
        let timestamp = line.as_object_mut().unwrap().remove("timestamp").unwrap();
        let timestamp = timestamp.as_str().unwrap();
        assert_eq!(
            (timestamp.len(), &timestamp[19..20], &timestamp[23..]),
            (24, ".", "Z")
        );
        assert_eq!(
            line,
            json!({
                "level": "WARN",
                "service": "worker",
                "instance_id": "worker-1",
                "trace_id": "ab".repeat(16),
                "span_id": "cd".repeat(8),
                "event": "task_timeout",
                "message": "took 7 s",
                "context": {"execution_id": "e-1", "attempt": 2, "late": true, "share": 0.5},
            })
        );
    }

    #[test]
    fn a_line_outside_of_a_trace_has_the_same_keys() {
        let line = json_line(|| tracing::info!("hello"));
        assert_eq!(line["event"], "log");
        assert_eq!(line.as_object().unwrap().len(), 9);
        assert_eq!(
            (&line["trace_id"], &line["span_id"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(line["context"], json!({}));
    }

    #[test]
    fn the_fields_of_the_spans_around_are_in_the_context() {
        let line = json_line(|| {
            let task = tracing::info_span!("task", execution_id = "e-1", attempt = 1);
            task.in_scope(|| {
                let step = tracing::info_span!("step", attempt = 2, size = tracing::field::Empty);
                step.record("size", 9);
                step.in_scope(|| tracing::info!(size = 10, "hello"));
            });
        });
        assert_eq!(
            line["context"],
            json!({"execution_id": "e-1", "attempt": 2, "size": 10})
        );
    }

    #[test]
    fn an_error_is_logged_with_its_causes_on_one_line() {
        let line = json_line(|| {
            let cause = std::io::Error::other("disk\nfull");
            let error = anyhow::Error::new(cause).context("can't save");
            let error: &(dyn std::error::Error + 'static) = error.as_ref();
            tracing::error!(error, "failed");
        });
        assert_eq!(line["context"]["error"], "can't save: disk\nfull");
    }

    #[test]
    fn the_text_form_reads_from_left_to_right() {
        let line = lines(Form::Text { coloured: false }, || {
            tracing::info!(event = "started", port = 1, host = "a b", "up");
        });
        assert!(
            line[0].ends_with(r#" INFO  started up host="a b" port=1"#),
            "{line:?}"
        );
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
        let lost = log_to(Closed, Form::Json, || {
            tracing::info!("one");
            tracing::info!("two");
        });
        assert_eq!(lost, 2);
    }
}
