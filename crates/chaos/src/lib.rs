//! Real processes under load while they are killed, stopped and cut off, and a checker that compares
//! what clients, handlers and tables say of it with what is promised. See `docs/chaos.md`.

mod checker;
mod clock;
mod faults;
mod history;
mod journal;
mod load;
mod place;
mod plan;
mod proxy;
mod recovery;
mod report;
mod run;
mod site;
mod tables;
mod under_way;
mod witness;

pub use checker::{Finding, Report, Violation, check};
pub use clock::Micros;
pub use history::{
    CallLine, ChainRow, ClientLine, Ended, ExecutionRow, Fault, FaultKind, History, How,
    OutcomeRow, Said, Setting, State, Step,
};
pub use journal::Journal;
pub use place::{Place, PlaceError};
pub use plan::{Counts, Planned};
pub use proxy::{Network, Proxy, Trouble, Wire};
pub use run::{Args, run};
pub use witness::{JOB_TYPE, Witness, Work};
