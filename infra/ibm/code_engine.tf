# The function as a Code Engine job, without a stored bootstrap key: Code Engine identifies the job to IAM. The provider can
# neither run the build nor make the cron subscription: code-engine.md has the commands.

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

  # One job of the project, not all of its workloads.
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

  dynamic "resource_attributes" {
    for_each = merge(local.secret_group, { resource = each.value.group })
    content {
      name     = resource_attributes.key
      operator = "stringEquals"
      value    = resource_attributes.value
    }
  }
}

locals {
  project_id = local.new_project ? one(ibm_code_engine_project.rotator[*].project_id) : try(split(":", var.code_engine.project_crn)[7], "")
}

# How to build the image from a repository; `ibmcloud ce buildrun submit --build NAME` builds it.
resource "ibm_code_engine_build" "image" {
  count = try(var.code_engine.build, null) == null ? 0 : 1

  project_id         = local.project_id
  name               = var.code_engine.job_name
  source_type        = "git"
  source_url         = var.code_engine.build.source_url
  source_revision    = var.code_engine.build.revision
  strategy_type      = "dockerfile"
  strategy_spec_file = "infra/Dockerfile"
  output_image       = var.code_engine.image
  output_secret      = var.code_engine.image_secret
  timeout            = 1200
}

resource "ibm_code_engine_job" "rotator" {
  count = local.makes_job ? 1 : 0

  project_id                         = local.project_id
  name                               = var.code_engine.job_name
  image_reference                    = var.code_engine.image
  image_secret                       = var.code_engine.image_secret
  run_compute_resource_token_enabled = true # what IAM exchanges for the trusted profile
  scale_cpu_limit                    = "0.125"
  scale_memory_limit                 = "0.25G"
  scale_max_execution_time           = 120
  scale_retry_limit                  = 0 # the next minute's run is the retry

  dynamic "run_env_variables" {
    for_each = merge({
      SECRETS_MANAGER_URL = "https://${local.instance_guid}.${local.endpoint_zone}.secrets-manager.appdomain.cloud"
      IAM_PROFILE_ID      = one(ibm_iam_trusted_profile.bootstrap[*].profile_id)
      MIN_REMAINING       = "15m"
    }, var.code_engine.environment)
    content {
      type  = "literal"
      name  = run_env_variables.key
      value = run_env_variables.value
    }
  }
}
