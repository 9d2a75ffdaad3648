use proto::v1::GetExecutionRequest;
use tonic::Code;

use crate::running_gateway::{RunningGateway, signed, within};
use crate::scripted_scheduler::{ScriptedScheduler, view};

/// An id of `lane` that the scripted scheduler knows, unless `seq` is 0.
fn id(lane: u128, seq: u128) -> String {
    format!("{:032x}", lane << 64 | seq << 18)
}

async fn get(gateway: &RunningGateway, execution_id: String) -> Result<String, Code> {
    let request = signed(GetExecutionRequest { execution_id });
    let answer = within(gateway.client().get_execution(request)).await;
    answer
        .map(|answer| answer.into_inner().execution.unwrap().execution_id)
        .map_err(|status| status.code())
}

#[tokio::test]
async fn an_execution_is_asked_of_its_lanes_owner() {
    let mut one = ScriptedScheduler::start("s1");
    let two = ScriptedScheduler::start("s2");
    let both = view(&[("s1", &one.address), ("s2", &two.address)], &[1, 2]);
    one.say_view(both.clone());
    two.say_view(both);
    let gateway = RunningGateway::ready(&[&one.address, &two.address]).await;
    assert!(get(&gateway, id(0, 1)).await.is_ok());
    assert!(get(&gateway, id(1, 1)).await.is_ok());
    one.kill();
    assert_eq!(get(&gateway, id(0, 1)).await, Err(Code::Unavailable));
    two.say_view(view(&[("s2", &two.address)], &[1, 1]));
    within(async { while get(&gateway, id(0, 1)).await.is_err() {} }).await;
}

#[tokio::test]
async fn what_is_no_id_and_what_is_nobodys_are_told_apart() {
    let scheduler = ScriptedScheduler::start("s1");
    let gateway = RunningGateway::ready(&[&scheduler.address]).await;
    for bad in [
        "",
        "7",
        "0199c8a1-7d2e-8003-8000-0000000c3a9",
        "zz99c8a1-7d2e-8003-8000-0000000c3a91",
    ] {
        assert_eq!(
            get(&gateway, bad.to_owned()).await,
            Err(Code::InvalidArgument),
            "{bad}"
        );
    }
    assert_eq!(get(&gateway, id(0, 0)).await, Err(Code::NotFound));
    assert_eq!(
        get(&gateway, id(4_000, 1)).await,
        Err(Code::NotFound),
        "no such lane"
    );
}
