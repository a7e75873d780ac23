locals {
  # Who does what in which secret group. The reader has the predefined SecretsReader: over the bare
  # secret.read it adds the metadata of the same tokens, by which a job sees when one expires.
  bootstrap_grants = {
    keys   = { role = ibm_iam_custom_role.key_reader.display_name, group = ibm_sm_secret_group.keys.secret_group_id }
    tokens = { role = ibm_iam_custom_role.token_publisher.display_name, group = ibm_sm_secret_group.tokens.secret_group_id }
  }
  service_id_grants = merge(
    { reader = {
      iam_id = ibm_iam_service_id.reader.iam_id
      role   = "SecretsReader"
      group  = ibm_sm_secret_group.tokens.secret_group_id
    } },
    { for name, grant in local.bootstrap_grants : "bootstrap-${name}" => merge(
      grant, { iam_id = one(ibm_iam_service_id.bootstrap[*].iam_id) }
    ) if !local.keyless },
  )
}

resource "ibm_iam_service_policy" "secret_group" {
  for_each = local.service_id_grants

  iam_id      = each.value.iam_id
  roles       = [each.value.role]
  description = "${var.prefix}: ${each.key}"

  resource_attributes {
    name     = "serviceName"
    operator = "stringEquals"
    value    = "secrets-manager"
  }
  resource_attributes {
    name     = "serviceInstance"
    operator = "stringEquals"
    value    = local.instance_guid
  }
  resource_attributes {
    name     = "resourceType"
    operator = "stringEquals"
    value    = "secret-group"
  }
  resource_attributes {
    name     = "resource"
    operator = "stringEquals"
    value    = each.value.group
  }
}

resource "ibm_iam_service_policy" "workload" {
  count = length(var.workload_policies)

  iam_id      = ibm_iam_service_id.workload.iam_id
  roles       = var.workload_policies[count.index].roles
  description = "${var.prefix}: what the published token may do"

  dynamic "resource_attributes" {
    for_each = merge(
      { serviceName = var.workload_policies[count.index].service },
      var.workload_policies[count.index].attributes,
    )
    content {
      name     = resource_attributes.key
      operator = "stringEquals"
      value    = resource_attributes.value
    }
  }
}

# Secrets Manager makes the keys of the service ids itself: this instance alone, and as Operator, who manages keys and no
# policies. The finest scope that IBM documents is the account's service ids.
resource "ibm_iam_authorization_policy" "keys" {
  count = var.managed_keys ? 1 : 0

  source_service_name         = "secrets-manager"
  source_resource_instance_id = local.instance_guid
  target_service_name         = "iam-identity"
  roles                       = ["Operator"]
  description                 = "${var.prefix}: Secrets Manager makes, rotates and deletes API keys"
}
