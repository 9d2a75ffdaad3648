//! The command line of Watchwork, and what of it other programs can use: a client of the API, and
//! traces drawn as text.

mod args;
pub mod client;
mod execution_view;
mod failure;
mod installation;
mod output;
mod progress_view;
mod run;
mod summary_view;
mod text;
pub mod trace_store;
pub mod trace_tree;
mod verbs;

pub use args::Cli;
pub use run::run;
