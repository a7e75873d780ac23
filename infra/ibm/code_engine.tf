# The keyless way in: a job that Code Engine vouches for, and no stored bootstrap key. The job itself
# and its cron subscription are made with the CLI (code-engine.md): the provider has no subscriptions.

resource "ibm_code_engine_project" "rotator" {
  count = local.new_project ? 1 : 0

  name              = var.prefix
  resource_group_id = var.resource_group_id
}

resource "ibm_iam_trusted_profile" "bootstrap" {
  count = local.keyless ? 1 : 0

  name        = "${var.prefix}-bootstrap"
  description = "Opens Secrets Manager for the token rotator: reads the workloads' API keys, adds token versions, nothing else."
}

resource "ibm_iam_trusted_profile_link" "job" {
  count = local.keyless ? 1 : 0

  profile_id = one(ibm_iam_trusted_profile.bootstrap[*].profile_id)
  cr_type    = "CE"
  name       = "${var.prefix}-job"

  # One job of one project, not every workload in it.
  link {
    crn            = local.new_project ? one(ibm_code_engine_project.rotator[*].crn) : var.code_engine.project_crn
    component_type = "job"
    component_name = var.code_engine.job_name
  }
}

resource "ibm_iam_trusted_profile_policy" "secret_group" {
  for_each = { for name, grant in local.bootstrap_grants : name => grant if local.keyless }

  iam_id      = one(ibm_iam_trusted_profile.bootstrap[*].iam_id)
  roles       = [each.value.role]
  description = "${var.prefix}: bootstrap-${each.key}"

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
