"""Makes moto number versions of a function as Lambda does, create aliases in a stack, and delete with a stack what CloudFormation deletes."""

from moto.awslambda.exceptions import LambdaClientError
from moto.awslambda.models import LambdaFunction, LambdaStorage, lambda_backends
from moto.core.common_models import CloudFormationModel
from moto.iam.models import Role
from moto.logs.models import LogGroup, logs_backends

try:  # with libyaml moto reads templates in a third of the time
    import yaml, yaml.loader

    yaml.Loader = yaml.loader.Loader = yaml.CLoader
except (ImportError, AttributeError):
    pass


class InUse(LambdaClientError):
    code = 409


class Alias(CloudFormationModel):
    """An alias in a template, which moto does not know."""

    __module__ = LambdaFunction.__module__  # by which moto finds the service

    def __init__(self, alias, function):
        self.physical_resource_id, self.name, self.function = alias.arn, alias.name, function

    @staticmethod
    def cloudformation_type():
        return "AWS::Lambda::Alias"

    @staticmethod
    def cloudformation_name_type():
        return None

    @classmethod
    def create_from_cloudformation_json(cls, resource_name, cloudformation_json, account_id, region_name, **_):
        return cls.put(cloudformation_json["Properties"], lambda_backends[account_id][region_name].create_alias)

    @classmethod
    def update_from_cloudformation_json(cls, original_resource, new_resource_name, cloudformation_json, account_id, region_name):
        backend, properties = lambda_backends[account_id][region_name], cloudformation_json["Properties"]
        there = any(alias.name == properties["Name"] for alias in backend.list_aliases(properties["FunctionName"]))
        return cls.put(properties, backend.update_alias if there else backend.create_alias)

    @classmethod
    def put(cls, properties, how):
        name, function = properties["Name"], properties["FunctionName"]
        return cls(how(name, function, properties["FunctionVersion"], properties.get("Description"), None), function)

    def delete(self, account, region):
        try:
            lambda_backends[account][region].delete_alias(self.name, self.function)
        except LambdaClientError:
            pass  # it was deleted with the function


publish, delete_version = LambdaStorage.publish_version, LambdaStorage.del_function
delete_function = LambdaFunction.delete


def publish_version(self, name_or_arn, description=""):
    """moto would reuse the number of a deleted version."""
    group = self._functions[self.get_function_by_name_or_arn_forbid_qualifier(name_or_arn).function_name]
    before = len(group["versions"])
    version = publish(self, name_or_arn, description)
    if len(group["versions"]) > before:
        group["last"] = group.get("last", 0) + 1
        version.set_version(group["last"])
        self._arns.update({v.function_arn: v for v in group["versions"]})
    return version


def del_function(self, name_or_arn, qualifier=None):
    """moto would delete a version to which an alias points."""
    if qualifier and any(alias.function_version == qualifier for alias in self.list_aliases(name_or_arn)):
        raise InUse("ResourceConflictException", "Version was not able to be deleted because an alias references it.")
    delete_version(self, name_or_arn, qualifier)


def with_log(self, account, region):
    """After an update moto no longer deletes the log group with its stack, and could then not create it again."""
    delete_function(self, account, region)
    logs_backends[account][region].groups.pop("/aws/lambda/" + self.function_name, None)


def without_group(self, account, region):
    """The group may be gone with its function: moto deletes a stack's resources in any order."""
    logs_backends[account][region].groups.pop(self.name, None)


def detached(self, account, region):
    """moto would not delete a role to which a policy is attached by the policy's own Roles."""
    for policy in list(self.managed_policies.values()):
        policy.detach_from(self)
    self.delete_from_cloudformation_json(self.name, None, account, region)


LambdaStorage.publish_version, LambdaStorage.del_function = publish_version, del_function
LambdaFunction.delete, LogGroup.delete, Role.delete = with_log, without_group, detached
