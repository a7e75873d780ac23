# New instances are private-only by default. A private-only host does not answer outside IBM's network, so
# neither the function on AWS nor a job there could reach it. Two settings name the endpoints: service_endpoints
# is the provider's documented argument. allowed_network is a parameter of the service that IBM no longer
# documents; alone it did not always work.
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

  # IBM needs 5 to 15 minutes to create an instance.
  timeouts {
    create = "30m"
    update = "30m"
    delete = "30m"
  }
}

# The new instance needs this right at its creation, so all Secrets Manager instances of the resource group get it.
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

# A policy can name nothing smaller than a secret group, so keys and tokens have a group each.
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
