//! How values look to people.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;

/// A duration with three digits or so: `0.3 ms`, `12.4 ms`, `1.24 s`, `2 m 03 s`, `5 h 00 m`.
pub(crate) fn duration(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    let seconds = duration.as_secs();
    match seconds {
        _ if ms < 0.95 => format!("{ms:.2} ms"),
        _ if ms < 999.5 => format!("{ms:.1} ms"),
        0..60 => format!("{:.2} s", ms / 1e3),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds / 60 % 60),
    }
}

/// How long ago something was: `12 s`, `2 m 03 s`, `5 h 00 m`, `3 d 04 h`.
pub(crate) fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {:02} m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// A proto duration; `-` if there is none.
pub(crate) fn proto_duration(given: Option<prost_types::Duration>) -> String {
    given
        .and_then(|given| Duration::try_from(given).ok())
        .map_or_else(|| "-".to_owned(), duration)
}

/// A point in time as RFC 3339, UTC, with microseconds.
pub(crate) fn timestamp(given: &prost_types::Timestamp) -> Option<String> {
    let form =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
    point(given)?.format(form).ok()
}

/// The same with whole seconds, for tables.
pub(crate) fn short_timestamp(given: &prost_types::Timestamp) -> Option<String> {
    let form = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    point(given)?.format(form).ok()
}

fn point(given: &prost_types::Timestamp) -> Option<OffsetDateTime> {
    let nanos = i128::from(given.seconds) * 1_000_000_000 + i128::from(given.nanos);
    OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
}

/// The time of day now, UTC, with milliseconds.
pub(crate) fn time_of_day() -> String {
    let form = format_description!("[hour]:[minute]:[second].[subsecond digits:3]");
    OffsetDateTime::now_utc().format(form).unwrap_or_default()
}

/// A proto enum's name without its prefix: `SUCCEEDED`.
pub(crate) fn short_name<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// That a process ended, what it said last, and where the rest is.
pub(crate) fn end_of(process: &str, status: &str, log: &Path) -> String {
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    let last = last.map_or_else(
        || "it said nothing".to_owned(),
        |line| format!("its last line: {}", one_line(line, 300)),
    );
    format!(
        "{process} ended ({status}); {last}; its log: {}",
        log.display()
    )
}

/// Text as a terminal may show it: whatever would steer the terminal, or turn the order of what is read, is
/// written out. Anybody who submits may have chosen it.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
    };
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let write_out = |text: &mut String, c: char| match steers(c) {
        true => text.extend(c.escape_default()),
        false => text.push(c),
    };
    Cow::Owned(text.chars().fold(String::new(), |mut text, c| {
        write_out(&mut text, c);
        text
    }))
}

/// Text on one line, cut after `most` characters.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    let mut cut: String = line.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Rows as aligned columns, two spaces apart, the last one not padded.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    Columns::default().lines(rows)
}

/// Aligned columns that come page by page: each is as wide as the widest cell so far.
#[derive(Default)]
pub(crate) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// Further rows, a line each.
    pub(crate) fn lines(&mut self, rows: &[Vec<String>]) -> String {
        let cells = |row: &Vec<String>| {
            row.iter()
                .map(|cell| printable(cell).into_owned())
                .collect()
        };
        let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
        self.widen(&rows);
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&self.widths) {
                // Writing to a String can't fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn widen(&mut self, rows: &[Vec<String>]) {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (cell, width) in row.iter().zip(&mut self.widths) {
                *width = cell.chars().count().max(*width);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_about_three_digits() {
        let told: Vec<_> = [300, 12_440, 999_600, 1_240_000, 123_000_000, 18_000_000_000]
            .into_iter()
            .map(|us| duration(Duration::from_micros(us)))
            .collect();
        assert_eq!(
            told,
            [
                "0.30 ms", "12.4 ms", "1.00 s", "1.24 s", "2 m 03 s", "5 h 00 m"
            ]
        );
    }

    #[test]
    fn ages_have_two_units() {
        let told: Vec<_> = [0, 59, 123, 18_000, 100 * 3_600]
            .into_iter()
            .map(|seconds| age(Duration::from_secs(seconds)))
            .collect();
        assert_eq!(told, ["0 s", "59 s", "2 m 03 s", "5 h 00 m", "4 d 04 h"]);
    }

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let text = table(&[row(&["A", "LONG", "C"]), row(&["äöü", "b", ""])]);
        assert_eq!(text, "A    LONG  C\näöü  b\n");
    }

    #[test]
    fn what_would_steer_a_terminal_is_written_out() {
        let row = vec![
            "\u{1b}[31mred\r\n\u{7}".to_owned(),
            "a\u{202e}b äöü".to_owned(),
        ];
        let text = table(&[row]);
        assert_eq!(text, "\\u{1b}[31mred\\r\\n\\u{7}  a\\u{202e}b äöü\n");
    }

    #[test]
    fn a_further_page_is_aligned_with_those_before() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let mut columns = Columns::default();
        assert_eq!(columns.lines(&[row(&["LONG", "B"])]), "LONG  B\n");
        assert_eq!(columns.lines(&[row(&["a", "b"])]), "a     b\n");
    }

    #[test]
    fn a_timestamp_is_rfc_3339() {
        let given = prost_types::Timestamp {
            seconds: 1_790_000_000,
            nanos: 1_000,
        };
        assert_eq!(timestamp(&given).unwrap(), "2026-09-21T14:13:20.000001Z");
        assert_eq!(short_timestamp(&given).unwrap(), "2026-09-21T14:13:20Z");
    }
}
