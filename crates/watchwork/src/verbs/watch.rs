use std::collections::HashMap;

use proto::v1::{ExecutionState, WatchExecutionsResponse};
use serde_json::json;

use crate::client::{Client, is_final};
use crate::execution_view::{reason_name, state_name};
use crate::failure::{Failure, Kind};
use crate::output::Output;
use crate::text;

/// Prints every change of these executions until all are final.
pub(crate) async fn watch(
    output: &Output,
    client: &Client,
    ids: Vec<String>,
) -> Result<(), Failure> {
    if !output.is_json() {
        let (time, id, state) = ("TIME", "EXECUTION", "STATE");
        output.text(&format!(
            "{time:<12}  {id:<36}  {state:<13}  ATTEMPT  WORKER\n"
        ))?;
    }
    let mut changes = client.watch(ids);
    let mut shown: HashMap<String, WatchExecutionsResponse> = HashMap::new();
    let mut bad_ends = 0;
    while let Some(change) = changes.next().await? {
        // A watch that was broken off begins with what is known already.
        if shown.get(&change.execution_id) == Some(&change) {
            continue;
        }
        print(output, &change)?;
        let state = change.state();
        bad_ends += usize::from(is_final(state) && state != ExecutionState::Succeeded);
        shown.insert(change.execution_id.clone(), change);
    }
    match (bad_ends, shown.len()) {
        (0, _) => Ok(()),
        (1, 1) => Err(Failure::new(
            Kind::BadEnd,
            "it ended badly: `watchwork get` tells why",
        )),
        (bad, all) => Err(Failure::new(
            Kind::BadEnd,
            format!("{bad} of {all} ended badly"),
        )),
    }
}

fn print(output: &Output, change: &WatchExecutionsResponse) -> Result<(), Failure> {
    let state = state_name(change.state());
    let reason = reason_name(change.reason());
    if output.is_json() {
        output.json(&json!({
            "execution_id": change.execution_id,
            "state": state,
            "reason": reason,
            "attempt": change.attempt,
            "fence": change.fence,
            "worker_id": change.worker_id,
        }))?;
        return Ok(());
    }
    let attempt = match change.attempt {
        0 => "-".to_owned(),
        number => number.to_string(),
    };
    let reason = reason
        .map(|reason| format!("({reason})"))
        .unwrap_or_default();
    let (time, id, worker) = (text::time_of_day(), &change.execution_id, &change.worker_id);
    let line = format!("{time}  {id:<36}  {state:<13}  {attempt:<7}  {worker}  {reason}");
    Ok(output.text(&format!("{}\n", line.trim_end()))?)
}
