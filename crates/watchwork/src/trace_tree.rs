//! A trace as a tree of text: who did what, for how long, and when.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::text;
use crate::trace_store::{Span, Trace};

/// Characters of the time bar.
const BAR: u64 = 40;

/// Draws a trace: a line a span, children under their parents in the order of their begin, each with its
/// service, its duration, and a bar that shows when it was. A span whose parent isn't there stands at
/// the top.
#[must_use]
pub fn draw(trace: &Trace) -> String {
    let tree = Tree::new(trace);
    let head = ["SPAN", "SERVICE", " DURATION", ""]
        .map(str::to_owned)
        .to_vec();
    let mut rows = vec![head];
    for root in &tree.roots {
        tree.add_rows(root, &Branch::default(), &mut rows);
    }
    format!("{}\n{}", tree.title(), text::table(&rows))
}

/// The spans of a trace in their order.
struct Tree<'a> {
    trace: &'a Trace,
    roots: Vec<&'a Span>,
    children: HashMap<&'a str, Vec<&'a Span>>,
    begin: u64,
    end: u64,
}

/// What stands left of a span's name.
#[derive(Default)]
struct Branch {
    /// Of the span itself: `├─ `.
    own: String,
    /// Of what lies below it: `│  `.
    below: String,
}

impl<'a> Tree<'a> {
    fn new(trace: &'a Trace) -> Self {
        let mut seen = HashSet::new();
        let mut spans: Vec<&Span> = trace
            .spans
            .iter()
            .filter(|span| seen.insert(span.span_id.as_str()))
            .collect();
        spans.sort_by_key(|span| (span.start_time, std::cmp::Reverse(span.duration)));
        let mut roots = Vec::new();
        let mut children: HashMap<&str, Vec<&Span>> = HashMap::new();
        for span in &spans {
            match span
                .parent_id()
                .filter(|parent| seen.contains(parent) && *parent != span.span_id)
            {
                Some(parent) => children.entry(parent).or_default().push(span),
                None => roots.push(*span),
            }
        }
        let begin = spans.iter().map(|span| span.start_time).min().unwrap_or(0);
        let end = spans
            .iter()
            .map(|span| span.start_time + span.duration)
            .max()
            .unwrap_or(0);
        Self {
            trace,
            roots,
            children,
            begin,
            end,
        }
    }

    fn title(&self) -> String {
        let ids: HashSet<_> = self.trace.spans.iter().map(|span| &span.span_id).collect();
        let services: HashSet<_> = self
            .trace
            .spans
            .iter()
            .map(|span| self.service(span))
            .collect();
        format!(
            "trace {}: {} spans of {} services, {}\n",
            self.trace.trace_id,
            ids.len(),
            services.len(),
            text::duration(Duration::from_micros(self.end - self.begin)),
        )
    }

    fn add_rows(&self, span: &Span, branch: &Branch, rows: &mut Vec<Vec<String>>) {
        let duration = text::duration(Duration::from_micros(span.duration));
        rows.push(vec![
            format!("{}{}", branch.own, label(span)),
            self.service(span).to_owned(),
            format!("{duration:>9}"),
            format!("{}{}", self.bar(span), complaint(span)),
        ]);
        let children = self
            .children
            .get(span.span_id.as_str())
            .map_or(&[][..], Vec::as_slice);
        for (index, child) in children.iter().enumerate() {
            let is_last = index + 1 == children.len();
            let (own, below) = if is_last {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            let branch = Branch {
                own: format!("{}{own}", branch.below),
                below: format!("{}{below}", branch.below),
            };
            self.add_rows(child, &branch, rows);
        }
    }

    fn service(&self, span: &Span) -> &'a str {
        self.trace
            .processes
            .get(&span.process_id)
            .map_or("?", |it| it.service_name.as_str())
    }

    /// When the span was, within the whole; at least a thin line.
    fn bar(&self, span: &Span) -> String {
        let whole = (self.end - self.begin).max(1);
        let cell = |time: u64| (time - self.begin).saturating_mul(BAR) / whole;
        let first = cell(span.start_time).min(BAR - 1);
        let last = cell(span.start_time + span.duration).max(first).min(BAR);
        let body = match last - first {
            0 => "▏".to_owned(),
            cells => "█".repeat(cells as usize),
        };
        let (lead, body_cells) = (first as usize, body.chars().count());
        let rest = (BAR as usize).saturating_sub(lead + body_cells);
        format!("│{}{body}{}│", " ".repeat(lead), " ".repeat(rest))
    }
}

/// The span's name, with what tells it from others of that name.
fn label(span: &Span) -> String {
    let name = &span.operation_name;
    match (span.tag("attempt"), span.tag("worker_id")) {
        (Some(attempt), Some(worker)) => format!("{name} (attempt {attempt}, {worker})"),
        (Some(attempt), None) => format!("{name} (attempt {attempt})"),
        (None, _) => name.clone(),
    }
}

fn complaint(span: &Span) -> String {
    if !span.is_error() {
        return String::new();
    }
    let text = span
        .tag("otel.status_description")
        .or_else(|| span.tag("error.type"));
    format!(
        " ✗ {}",
        text::one_line(&text.unwrap_or_else(|| "failed".to_owned()), 60)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn span(id: &str, parent: Option<&str>, name: &str, times: (u64, u64)) -> serde_json::Value {
        let parent = parent.map(|id| json!({"refType": "CHILD_OF", "traceID": "t", "spanID": id}));
        json!({
            "spanID": id, "operationName": name, "processID": "p1",
            "references": parent.into_iter().collect::<Vec<_>>(),
            "startTime": times.0, "duration": times.1, "tags": [],
        })
    }

    fn trace(spans: Vec<serde_json::Value>) -> Trace {
        let processes = json!({"p1": {"serviceName": "scheduler", "tags": []}});
        serde_json::from_value(json!({"traceID": "t", "spans": spans, "processes": processes}))
            .unwrap()
    }

    #[test]
    fn children_stand_under_their_parents_in_time() {
        let trace = trace(vec![
            span("c", Some("a"), "task_execution", (50, 50)),
            span("d", Some("b"), "queue_enqueue", (10, 0)),
            span("b", Some("a"), "schedule_job", (0, 25)),
            span("a", None, "api_request", (0, 100)),
            span("a", None, "api_request", (0, 100)),
        ]);
        let drawn = draw(&trace);
        assert!(
            drawn.starts_with("trace t: 4 spans of 1 services, 0.10 ms\n"),
            "{drawn}"
        );
        let lines: Vec<_> = drawn.lines().skip(3).collect();
        let columns: Vec<_> = lines
            .iter()
            .map(|line| line.split_once("scheduler").unwrap())
            .collect();
        let names: Vec<_> = columns.iter().map(|(name, _)| name.trim_end()).collect();
        let tree = [
            "api_request",
            "├─ schedule_job",
            "│  └─ queue_enqueue",
            "└─ task_execution",
        ];
        assert_eq!(names, tree);
        let bars: Vec<_> = columns
            .iter()
            .map(|(_, rest)| rest.split_once('│').unwrap().1)
            .collect();
        assert_eq!(bars[0], format!("{}│", "█".repeat(40)));
        assert_eq!(bars[2], format!("    ▏{}│", " ".repeat(35)));
        assert_eq!(bars[3], format!("{}{}│", " ".repeat(20), "█".repeat(20)));
    }

    #[test]
    fn a_span_whose_parent_is_missing_stands_at_the_top() {
        let trace = trace(vec![
            span("a", Some("callers"), "api_request", (0, 10)),
            span("b", Some("gone"), "task_execution", (5, 5)),
        ]);
        assert!(
            draw(&trace)
                .lines()
                .any(|line| line.starts_with("task_execution"))
        );
        assert!(!trace.is_whole(1), "a parent is missing");
    }

    #[test]
    fn a_failed_span_says_what_went_wrong() {
        let mut failed = span("a", None, "task_execution", (0, 10));
        failed["tags"] = json!([
            {"key": "error", "value": true}, {"key": "attempt", "value": 2},
            {"key": "otel.status_description", "value": "connection\nrefused"},
        ]);
        let drawn = draw(&trace(vec![failed]));
        assert!(drawn.contains("task_execution (attempt 2)"), "{drawn}");
        assert!(drawn.contains("✗ connection refused"), "{drawn}");
    }
}
