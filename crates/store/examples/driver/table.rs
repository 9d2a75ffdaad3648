//! The report, in Markdown.

use crate::run::{Case, Measured};

pub(crate) fn print_head() {
    println!(
        "| connections | batch | statement: executions/s | client µs | PostgreSQL µs \
         | COPY: executions/s | client µs | PostgreSQL µs | COPY's rate |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

pub(crate) fn print(case: Case, statement: &Measured, copy: &Measured) {
    let ratio = 100.0 * copy.rate / statement.rate;
    println!(
        "| {} | {} | {} | {} | {ratio:.0} % |",
        case.connections,
        case.size,
        figures(statement),
        figures(copy)
    );
}

fn figures(measured: &Measured) -> String {
    format!(
        "{:.0} | {:.1} | {:.1}",
        measured.rate, measured.client_us, measured.server_us
    )
}
