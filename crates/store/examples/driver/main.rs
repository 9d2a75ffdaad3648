//! Two ways to write a batch through the driver, measured on the real tables: the one statement of
//! `Writer::commit`, and COPY within a transaction. Prints a table;
//! `docs/decisions/0002-unnest-in-one-statement.md` says what follows from it.
//!
//! `cargo run --release --package store --example driver [seconds of a run] [tcp]`: over the unix socket
//! unless TCP is asked for.

mod cpu;
mod feed;
mod place;
mod run;
mod table;
mod write;

use std::env;
use std::time::Duration;

use place::Place;
use run::{Case, Measured};
use write::Way;

const CONNECTIONS: [usize; 2] = [1, 2];
const SIZES: [u32; 4] = [1, 10, 100, 500];
const RUNS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds = env::args().nth(1).map_or(Ok(2.0), |text| text.parse())?;
    let duration = Duration::from_secs_f64(seconds);
    let over_tcp = env::args().nth(2).is_some_and(|text| text == "tcp");
    let dir = env::current_dir()?.join("target").join("driver");
    let place = Place::make(&dir, over_tcp).await?;
    table::print_head();
    for connections in CONNECTIONS {
        for size in SIZES {
            let case = Case {
                connections,
                size,
                duration,
            };
            let (mut statement, mut copy) = (Vec::new(), Vec::new());
            for _ in 0..RUNS {
                statement.push(run::measure(&place, case, Way::Statement).await?);
                copy.push(run::measure(&place, case, Way::Copy).await?);
            }
            table::print(
                case,
                &Measured::median(&statement),
                &Measured::median(&copy),
            );
        }
    }
    place.remove()
}
