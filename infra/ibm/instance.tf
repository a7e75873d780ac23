# New instances are private-only unless created otherwise, and a private-only host does not
# answer outside IBM's network: from AWS neither the function nor a job could reach it.
# The endpoints are asked for in both ways: service_endpoints is the provider's documented argument,
# allowed_network the service's own parameter, which IBM's pages no longer name and which alone was
# not always honoured.
resource "ibm_resource_instance" "secrets_manager" {
  count = local.new_instance ? 1 : 0

  name              = "${var.prefix}-secrets"
  service           = "secrets-manager"
  plan              = var.plan
  location          = local.region
  resource_group_id = var.resource_group_id
  service_endpoints = var.service_endpoints

  parameters = {
    allowed_network = local.private ? "private-only" : "public-and-private"
  }

  # An instance is its own machine: it takes 5 to 15 minutes.
  timeouts {
    create = "30m"
    update = "30m"
    delete = "30m"
  }
}

locals {
  instance_guid = local.new_instance ? one(ibm_resource_instance.secrets_manager[*].guid) : local.given_instance[7]
}

# A secret group is the finest thing that a policy can name, so the keys and the tokens have one each.
resource "ibm_sm_secret_group" "keys" {
  instance_id   = local.instance_guid
  region        = local.region
  endpoint_type = local.private ? "private" : "public"
  name          = "${var.prefix}-keys"
  description   = "API keys of the workloads whose tokens are published. Only the rotator reads them."
}

resource "ibm_sm_secret_group" "tokens" {
  instance_id   = local.instance_guid
  region        = local.region
  endpoint_type = local.private ? "private" : "public"
  name          = "${var.prefix}-tokens"
  description   = "IAM access tokens. The rotator writes them, jobs read them."
}
