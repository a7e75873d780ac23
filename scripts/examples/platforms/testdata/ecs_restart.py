"""Makes the stack of ecs-restart.yaml in moto, in this process, and restarts a service by its state machine, which moto's
interpreter executes. moto starts no machine by a rule: the rule is tried with a queue in the machine's place."""
import json
import pathlib
import time

import boto3
from moto import mock_aws
from moto.ecs.models import ecs_backends
from moto.stepfunctions.models import stepfunctions_backends
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_aws_sdk import StateTaskServiceAwsSdk

REGION = "eu-central-1"
template = (pathlib.Path(__file__).parent.parent / "ecs-restart.yaml").read_text()


def to_boto(_, parameters, *args, **kwargs):
    """What moto leaves out: Step Functions names parameters in PascalCase, and ECS's API in camelCase."""
    for name in list(parameters):
        assert name[0].isupper(), name
        parameters[name[0].lower() + name[1:]] = parameters.pop(name)


StateTaskServiceAwsSdk._normalise_parameters = to_boto


def detail(**more):
    return dict({"rotation": "default", "run_id": "rotate-2026-01-01T10:00:00Z", "mode": "rotate", "version_id": "39261c88", "attempts": 1}, **more)


def main():
    client = lambda service: boto3.client(service, REGION, aws_access_key_id="a", aws_secret_access_key="b")
    ecs, events, sqs = client("ecs"), client("events"), client("sqs")
    events.create_event_bus(Name="tokens")
    ecs.create_cluster(clusterName="jobs")
    ecs.register_task_definition(family="job", containerDefinitions=[{"name": "job", "image": "job", "memory": 64}])
    ecs.create_service(cluster="jobs", serviceName="reader", taskDefinition="job", desiredCount=1)
    parameters = {"EventBusName": "tokens", "Cluster": "jobs", "Service": "reader"}
    client("cloudformation").create_stack(
        StackName="restart", TemplateBody=template, Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()])
    (rule,) = events.list_rules(EventBusName="tokens")["Rules"]
    (target,) = events.list_targets_by_rule(Rule=rule["Name"], EventBusName="tokens")["Targets"]

    # Which events the rule lets through.
    events.remove_targets(Rule=rule["Name"], EventBusName="tokens", Ids=["restart"])
    queue = sqs.create_queue(QueueName="seen")["QueueUrl"]
    events.put_targets(Rule=rule["Name"], EventBusName="tokens", Targets=[{"Id": "queue", "Arn": f"arn:aws:sqs:{REGION}:123456789012:seen"}])
    for name, kind, content in [("good", "Token Rotated", detail()), ("other", "Token Rotated", detail(rotation="other")), ("failed", "Rotation Failed", detail()),
                                ("no mirror", "Token Rotated", detail(error={"step": "mirror", "kind": "denied", "message": "m"}))]:
        events.put_events(Entries=[{"Source": "iam-token-rotator", "DetailType": kind, "Detail": json.dumps(dict(content, run_id=name)), "EventBusName": "tokens"}])
    seen = [json.loads(message["Body"]) for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])]
    assert [event["detail"]["run_id"] for event in seen] == ["good"], seen

    # What the machine does with it: CloudFormation made it where moto executes none.
    (made,) = stepfunctions_backends["123456789012"][REGION].state_machines
    assert made.arn == target["Arn"], target
    states, asked = client("stepfunctions"), []
    machine = states.create_state_machine(name="restart", definition=made.definition, roleArn=made.roleArn)["stateMachineArn"]
    backend = ecs_backends["123456789012"][REGION]
    update_service = backend.update_service
    backend.update_service = lambda properties: (asked.append(dict(properties)), update_service(properties))[1]
    execution = states.start_execution(stateMachineArn=machine, input=json.dumps(seen[0]))["executionArn"]
    for _ in range(300):
        result = states.describe_execution(executionArn=execution)
        if result["status"] != "RUNNING":
            break
        time.sleep(0.1)
    assert result["status"] == "SUCCEEDED", result
    assert asked == [{"cluster": "jobs", "service": "reader", "force_new_deployment": True}], asked


with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
    main()
