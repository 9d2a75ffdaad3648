use proto::internal::v1::{ListExecutionsRequest, ListExecutionsResponse};
use tonic::Status;

use super::scheduler_service::Internal;

impl Internal {
    pub(super) async fn list(
        &self,
        _request: ListExecutionsRequest,
    ) -> Result<ListExecutionsResponse, Status> {
        Err(Status::unimplemented("lists are being built"))
    }
}
