locals {
  # Each grant below adds the group's id as `resource`. Without that a policy would be for the whole instance.
  secret_group = { serviceName = "secrets-manager", serviceInstance = local.instance_guid, resourceType = "secret-group" }

  # The role of each identity in each secret group. The reader has the predefined SecretsReader, which
  # also reads the metadata of the tokens: it shows a job when a token expires.
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

  dynamic "resource_attributes" {
    for_each = merge(local.secret_group, { resource = each.value.group })
    content {
      name     = resource_attributes.key
      operator = "stringEquals"
      value    = resource_attributes.value
    }
  }
}

resource "ibm_iam_access_group_policy" "secret_group" {
  for_each = { for name in ["readers"] : name => { group = ibm_sm_secret_group.tokens.secret_group_id } if var.readers != null }

  access_group_id = one(ibm_iam_access_group.readers[*].id)
  roles           = ["SecretsReader"]
  description     = "${var.prefix}: ${each.key}"

  dynamic "resource_attributes" {
    for_each = merge(local.secret_group, { resource = each.value.group })
    content {
      name     = resource_attributes.key
      operator = "stringEquals"
      value    = resource_attributes.value
    }
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

# This instance of Secrets Manager may make the keys of the service ids, as Operator, which manages keys but not policies. IBM
# documents no smaller scope than all service ids of the account.
resource "ibm_iam_authorization_policy" "keys" {
  count = var.managed_keys ? 1 : 0

  source_service_name         = "secrets-manager"
  source_resource_instance_id = local.instance_guid
  target_service_name         = "iam-identity"
  roles                       = ["Operator"]
  description                 = "${var.prefix}: Secrets Manager makes, rotates and deletes API keys"
}

# Context-based restrictions: the instance answers only these networks, even to a valid key. A Code Engine job has no address in
# any of them, so the zone names its service.
resource "ibm_cbr_zone" "allowed" {
  count = var.restrict_to == null ? 0 : 1

  account_id  = ibm_iam_service_id.workload.account_id
  name        = "${var.prefix}-allowed"
  description = "From where the rotator, its readers and its administrators reach Secrets Manager."

  dynamic "addresses" {
    for_each = concat(
      [for value in var.restrict_to.ip_addresses : { type = "ipAddress", value = value }],
      [for value in var.restrict_to.subnets : { type = "subnet", value = value }],
      [for value in var.restrict_to.vpcs : { type = "vpc", value = value }],
    )
    content {
      type  = addresses.value.type
      value = addresses.value.value
    }
  }
  dynamic "addresses" {
    for_each = local.keyless ? ["codeengine"] : []
    content {
      type = "serviceRef"
      ref {
        account_id   = ibm_iam_service_id.workload.account_id
        service_name = addresses.value
      }
    }
  }
}

resource "ibm_cbr_rule" "allowed" {
  count = var.restrict_to == null ? 0 : 1

  description      = "${var.prefix}: the Secrets Manager instance from these networks alone"
  enforcement_mode = var.restrict_to.enforcement_mode

  contexts {
    attributes {
      name  = "networkZoneId"
      value = one(ibm_cbr_zone.allowed[*].id)
    }
  }
  resources {
    attributes {
      name  = "accountId"
      value = ibm_iam_service_id.workload.account_id
    }
    attributes {
      name  = "serviceName"
      value = "secrets-manager"
    }
    attributes {
      name  = "serviceInstance"
      value = local.instance_guid
    }
  }
}
