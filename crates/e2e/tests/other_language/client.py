"""A client that knows nothing of Watchwork but the files in proto/ and a key.

usage: client.py HOST:PORT KEY
"""

import json
import sys

import grpc
from watchwork.v1 import common_pb2, executions_pb2, executions_pb2_grpc

DEADLINE = 30
FINAL = {
    common_pb2.EXECUTION_STATE_SUCCEEDED,
    common_pb2.EXECUTION_STATE_FAILED,
    common_pb2.EXECUTION_STATE_DEAD_LETTERED,
}


def main(address, key):
    with grpc.insecure_channel(address) as channel:
        stub = executions_pb2_grpc.ExecutionServiceStub(channel)
        metadata = [("authorization", f"Bearer {key}")]
        submits_watches_and_gets(stub, metadata)
        every_item_of_a_batch_has_its_own_verdict(stub, metadata)
        a_wrong_key_is_refused(stub)


def submits_watches_and_gets(stub, metadata):
    submission = executions_pb2.Submission(
        job_type="command",
        payload=json.dumps({"argv": ["printf", "hello"]}).encode(),
        content_type="application/json",
        correlation_id="from-python",
    )
    submission.retry_policy.max_attempts = 3
    submission.timeout.seconds = 10
    request = executions_pb2.SubmitRequest(submission=submission)
    execution_id = stub.Submit(request, metadata=metadata, timeout=DEADLINE).execution_id

    request = executions_pb2.WatchExecutionsRequest(execution_ids=[execution_id])
    states = [
        change.state
        for change in stub.WatchExecutions(request, metadata=metadata, timeout=DEADLINE)
    ]
    assert states and states[-1] in FINAL, states

    request = executions_pb2.GetExecutionRequest(execution_id=execution_id)
    execution = stub.GetExecution(request, metadata=metadata, timeout=DEADLINE).execution
    assert execution.state == common_pb2.EXECUTION_STATE_SUCCEEDED, execution
    assert execution.output == b"hello", execution
    assert execution.correlation_id == "from-python", execution
    assert [attempt.number for attempt in execution.attempts] == [1], execution


def every_item_of_a_batch_has_its_own_verdict(stub, metadata):
    good = executions_pb2.Submission(job_type="noop")
    bad = executions_pb2.Submission(job_type="noop", queue="no-such-queue")
    request = executions_pb2.SubmitBatchRequest(submissions=[good, bad])
    verdicts = stub.SubmitBatch(request, metadata=metadata, timeout=DEADLINE).verdicts
    assert [verdict.WhichOneof("verdict") for verdict in verdicts] == ["execution_id", "refusal"]
    assert verdicts[1].refusal.code == grpc.StatusCode.NOT_FOUND.value[0], verdicts


def a_wrong_key_is_refused(stub):
    metadata = [("authorization", "Bearer wk_0000000000000000_nobody")]
    request = executions_pb2.GetExecutionRequest(execution_id="x")
    try:
        stub.GetExecution(request, metadata=metadata, timeout=DEADLINE)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
    else:
        raise AssertionError("a wrong key was taken")


if __name__ == "__main__":
    main(*sys.argv[1:])
