use proto::v1::fleet_service_client::FleetServiceClient;
use proto::v1::{DrainWorkerRequest, ListWorkersRequest};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::running_gateway::{RunningGateway, signed, with_authorization, within};
use crate::scripted_scheduler::{OPERATOR, SECRET, ScriptedScheduler, TENANT};

fn client(gateway: &RunningGateway) -> FleetServiceClient<Channel> {
    FleetServiceClient::new(gateway.channel())
}

fn by_operator<T>(message: T) -> Request<T> {
    with_authorization(message, &format!("Bearer wk_{OPERATOR}_{SECRET}"))
}

fn drain(worker_id: &str, grace: Option<i64>) -> DrainWorkerRequest {
    let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
    DrainWorkerRequest {
        worker_id: worker_id.to_owned(),
        grace: grace.map(seconds),
    }
}

#[tokio::test]
async fn an_operator_sees_the_tenants_workers_and_has_one_leave() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let list = by_operator(ListWorkersRequest {});
    let workers = within(client(&gateway).list_workers(list)).await.unwrap();
    let [worker] = &workers.into_inner().workers[..] else {
        panic!("there is one")
    };
    assert_eq!(worker.worker_id, format!("of-{TENANT}"));

    let told = within(client(&gateway).drain_worker(by_operator(drain("w", Some(9))))).await;
    assert_eq!(told.unwrap().into_inner().running, 9);
    let told = within(client(&gateway).drain_worker(by_operator(drain("w", None)))).await;
    assert_eq!(told.unwrap().into_inner().running, 0);
}

#[tokio::test]
async fn what_cannot_be_drained_is_refused_with_a_reason() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    let refusal = async |request| -> Status {
        let refused = within(client(&gateway).drain_worker(request)).await;
        refused.unwrap_err()
    };
    let unknown = refusal(by_operator(drain("other", None))).await;
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.message(), "no such worker");
    for wrong in [
        drain("", None),
        drain("w", Some(-1)),
        drain("w", Some(86_401)),
    ] {
        let refused = refusal(by_operator(wrong)).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
        assert_eq!(refused.message().matches(": ").count(), 1, "{refused:?}");
    }
    let refused = refusal(signed(drain("w", None))).await;
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("operate"), "{refused:?}");
}
