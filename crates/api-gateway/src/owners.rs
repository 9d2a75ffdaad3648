//! Asking the owner of an execution's lane what may be asked twice.

use std::sync::Arc;
use std::time::Duration;

use domain::ExecutionId;
use tonic::Code;

use crate::cluster_view::{ClusterView, View, no_owner};
use crate::problem::Problem;
use crate::scheduler_link::{CallFailure, SchedulerLink};

/// How long a question that failed waits for news of the cluster before it is asked once more.
const PATIENCE: Duration = Duration::from_millis(250);
/// The reason of every answer that there is no such execution.
const NOT_FOUND: &str = "EXECUTION_NOT_FOUND";

/// Asks the owner of the execution's lane; and once more, whoever owns it then, if there was no answer
/// or nobody could decide. So `ask` must be harmless to repeat.
///
/// # Errors
/// `NOT_FOUND` if there is no execution of this id, `UNAVAILABLE` if its lane has no owner that answers,
/// or what the owner says.
pub(crate) async fn ask_owner<T, F>(
    cluster: &ClusterView,
    id: ExecutionId,
    ask: impl Fn(Arc<SchedulerLink>) -> F,
) -> Result<T, Problem>
where
    F: Future<Output = Result<T, CallFailure>>,
{
    let view = cluster.now();
    let answer = match ask(owner(&view, id)?).await {
        Err(failure) if failure.is_worth_repeating() => {
            cluster.newer_than(&view, PATIENCE).await;
            ask(owner(&cluster.now(), id)?).await
        }
        answer => answer,
    };
    answer.map_err(|failure| match failure.of_repeatable() {
        problem if problem.code == Code::NotFound => Problem {
            reason: NOT_FOUND,
            ..problem
        },
        problem => problem,
    })
}

/// There is no execution of this id, as far as this tenant may know.
pub(crate) fn not_found(id: ExecutionId) -> Problem {
    let message = format!("there is no execution {id}");
    Problem::new(Code::NotFound, NOT_FOUND, message)
}

/// Whether the id was made elsewhere: the cluster is known and has no such lane.
pub(crate) fn is_foreign(view: &View, id: ExecutionId) -> bool {
    view.has_schedulers() && !view.has_lane(id.lane())
}

fn owner(view: &View, id: ExecutionId) -> Result<Arc<SchedulerLink>, Problem> {
    if is_foreign(view, id) {
        return Err(not_found(id));
    }
    let owner = view.owner(id.lane()).cloned();
    owner.ok_or_else(|| no_owner(view, id.lane()))
}
