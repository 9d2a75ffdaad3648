use proto::v1::{SubmitRequest, WatchExecutionsRequest};
use tonic::Code;

use crate::running_gateway::{RunningGateway, signed, submission, within};
use crate::scripted_scheduler::ScriptedScheduler;

#[tokio::test]
async fn a_shutdown_lets_calls_end_and_sends_watchers_elsewhere() {
    let mut scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    scheduler.close_gate();
    let mut client = gateway.client();
    let call = tokio::spawn(async move {
        let request = signed(SubmitRequest {
            submission: Some(submission("a")),
        });
        client.submit(request).await
    });
    within(scheduler.forwards.recv()).await.unwrap();
    let execution_ids = vec![format!("{:032x}", 1 << 18)];
    let request = signed(WatchExecutionsRequest { execution_ids });
    let mut watch = within(gateway.client().watch_executions(request))
        .await
        .unwrap()
        .into_inner();
    within(scheduler.watches.recv()).await.unwrap();

    gateway.process.shutdown.cancel();
    let status = within(watch.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!gateway.served.is_finished(), "a call is still under way");
    scheduler.gate.add_permits(1);
    assert_eq!(
        within(call)
            .await
            .unwrap()
            .unwrap()
            .into_inner()
            .execution_id,
        "a"
    );
    within(gateway.served).await.unwrap().unwrap();
}
