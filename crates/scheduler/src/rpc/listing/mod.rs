//! Lists of executions: from the rows, and from the memory of whoever owns their lanes. Three ways through
//! them, by the states that are asked for (docs/decisions/0006-lists.md).

mod candidates;
mod filter;
mod owners;
mod page;
mod summary;
mod token;
mod wire;

use proto::internal::v1::{ListExecutionsRequest, ListExecutionsResponse};
use tonic::Status;

use super::scheduler_service::Internal;
use page::Page;

/// How often a call looks further for executions that pass its filter.
const ROUNDS: usize = 4;

impl Internal {
    /// A page of a tenant's executions. It may have fewer than are asked for though more follow: a call ends
    /// somewhere, however few pass its filter.
    pub(super) async fn list(
        &self,
        request: ListExecutionsRequest,
    ) -> Result<ListExecutionsResponse, Status> {
        let Some(list) = self.asked(request).await? else {
            return Ok(Page::empty());
        };
        let mut page = Page::new(&list);
        for _ in 0..ROUNDS {
            let stretch = self.candidates(&list, page.before()).await?;
            let shown = self.shown(&list, stretch.items).await?;
            if page.take(shown, stretch.end) {
                break;
            }
        }
        Ok(page.finish())
    }
}
