use proto::v1::Execution;

use crate::client::Client;
use crate::execution_view::{ExecutionView, describe};
use crate::failure::Failure;
use crate::output::Output;

/// Shows one execution.
pub(crate) async fn get(output: &Output, client: &Client, id: &str) -> Result<(), Failure> {
    show(output, &client.get(id).await?)
}

/// Shows an execution that is at hand.
pub(crate) fn show(output: &Output, execution: &Execution) -> Result<(), Failure> {
    if output.is_json() {
        output.json(&ExecutionView::from(execution))?;
    } else {
        output.text(&describe(execution))?;
    }
    Ok(())
}
