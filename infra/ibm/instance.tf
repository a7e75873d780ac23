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
  tags              = var.tags

  parameters = merge(
    { allowed_network = local.private ? "private-only" : "public-and-private" },
    var.kms_key_crn == null ? {} : { kms_key = var.kms_key_crn },
  )
  depends_on = [ibm_iam_authorization_policy.kms]

  # An instance is its own machine: it takes 5 to 15 minutes.
  timeouts {
    create = "30m"
    update = "30m"
    delete = "30m"
  }
}

# The instance is made with the key, so the right comes before it: to all of the resource group, for that key's instance.
resource "ibm_iam_authorization_policy" "kms" {
  count = local.new_instance && var.kms_key_crn != null ? 1 : 0

  source_service_name         = "secrets-manager"
  source_resource_group_id    = var.resource_group_id
  target_service_name         = split(":", var.kms_key_crn)[4]
  target_resource_instance_id = split(":", var.kms_key_crn)[7]
  roles                       = ["Reader"]
  description                 = "${var.prefix}: Secrets Manager encrypts with a key of the account's"
}

resource "ibm_resource_tag" "access" {
  count = local.new_instance && length(var.access_tags) > 0 ? 1 : 0

  resource_id = one(ibm_resource_instance.secrets_manager[*].crn)
  tag_type    = "access"
  tags        = var.access_tags
}

locals {
  instance_guid = local.new_instance ? one(ibm_resource_instance.secrets_manager[*].guid) : local.given_instance[7]
}

# A secret group is the finest thing that a policy can name, so the keys and the tokens have one each.
resource "ibm_sm_secret_group" "keys" {
  instance_id   = local.instance_guid
  region        = local.region
  endpoint_type = local.endpoint_type
  name          = "${var.prefix}-keys"
  description   = "API keys of the workloads whose tokens are published. Only the rotator reads them."
}

resource "ibm_sm_secret_group" "tokens" {
  instance_id   = local.instance_guid
  region        = local.region
  endpoint_type = local.endpoint_type
  name          = "${var.prefix}-tokens"
  description   = "IAM access tokens. The rotator writes them, jobs read them."
}
