"""Makes moto execute state machines. Python loads this first, as sitecustomize.

moto's interpreter lacks some features that a fleet uses. This adds
  - machines that CloudFormation creates, which moto keeps apart from those that it executes;
  - $$ for the context in a definition, which the Fn::Sub of moto's CloudFormation turns into $;
  - ItemBatcher: the reader returns batches of the form that Step Functions has;
  - a whole number as ToleratedFailurePercentage; any number tolerates all failures;
  - a second execution of a machine, for which moto would try to copy the first, and fail;
  - listExecutions with the names of fields that a state uses;
  - credentials, and the address of the Lambda that runs functions: see Moto.ServeHTTP.
A retry waits one second, to keep tests short. Time-outs of machines, logs, redrive and permissions are still missing.
"""

import gc

gc.set_threshold(100_000)  # moto creates many objects when it loads, and frees few: by default, the garbage collector takes a third of that time

import io
import json
import os
import re

import boto3
from moto.stepfunctions import models, responses


class Backends:
    """The backends that execute. They are loaded with the first machine, because that takes a second."""

    def __getitem__(self, account):
        from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser as Parser
        from moto.stepfunctions.parser.backend.execution import Execution
        from moto.stepfunctions.parser.models import stepfunctions_parser_backends

        if not hasattr(Parser, "parse_plain"):
            Execution.__deepcopy__ = lambda self, memo: self
            Parser.parse_plain = Parser.parse
            Parser.parse = staticmethod(lambda definition, *rest: Parser.parse_plain(plain(definition), *rest))
        return stepfunctions_parser_backends[account]


models.stepfunctions_backends = Backends()
responses.get_backend = lambda account, region: models.stepfunctions_backends[account][region]


def plain(definition):
    """Replace the parts of a definition that the interpreter does not know."""
    definition = re.sub(r"(?<!\$)\$\.(?=(Execution|StateMachine)\.)", "$$.", definition)
    machine = json.loads(re.sub(r'("IntervalSeconds": )\d+', r"\g<1>1", definition))
    for state in machine["States"].values():
        batcher = state.pop("ItemBatcher", None)
        if batcher:
            state["ToleratedFailurePercentage"] = float(state["ToleratedFailurePercentage"])
            state["ItemSelector"] = {"Items.$": "$$.Map.Item.Value", "BatchInput": batcher["BatchInput"]}
            file = state["ItemReader"]["Parameters"]
            file["Key"] = "%d//%s" % (batcher["MaxItemsPerBatch"], file["Key"])
    return json.dumps(machine)


def in_batches(get_object):
    """Read SIZE//KEY: the items of the object KEY in lists of SIZE."""

    def get(Bucket, Key):
        size, key = Key.split("//", 1)
        items, size = json.load(get_object(Bucket=Bucket, Key=key)["Body"]), int(size)
        return {"Body": io.BytesIO(json.dumps([items[i : i + size] for i in range(0, len(items), size)]).encode())}

    return get


def with_keys(change, value):
    """Change the first letter of every key."""
    if isinstance(value, dict):
        return {change(k[0]) + k[1:]: with_keys(change, v) for k, v in value.items()}
    return [with_keys(change, v) for v in value] if isinstance(value, list) else value


connect = boto3.client


def client(*service, **options):
    if options.get("aws_access_key_id") != "ak":  # the interpreter's
        return connect(*service, **options)
    made = connect(**dict(
        options,
        endpoint_url=os.environ["AWSTEST_URL"],
        aws_access_key_id=os.environ["AWSTEST_KEY_ID"],
        aws_secret_access_key=os.environ["AWSTEST_SECRET"],
    ))
    if options["service_name"] == "s3":
        made.get_object = in_batches(made.get_object)
    if options["service_name"] == "stepfunctions":
        listed = made.list_executions
        made.list_executions = lambda **asked: with_keys(str.upper, listed(**with_keys(str.lower, asked)))
    return made


boto3.client = client
