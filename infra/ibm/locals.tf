locals {
  # crn:v1:bluemix:public:secrets-manager:REGION:a/ACCOUNT:GUID::
  given_instance = var.secrets_manager_crn == null ? null : split(":", var.secrets_manager_crn)
  new_instance   = local.given_instance == null
  region         = local.new_instance ? var.region : local.given_instance[5]

  # The middle of the instance's host name: REGION, or private.REGION.
  private       = var.service_endpoints == "private"
  endpoint_zone = local.private ? "private.${local.region}" : local.region

  keyless         = var.code_engine != null
  new_project     = local.keyless && try(var.code_engine.project_crn, null) == null
  role_name_start = replace(title(replace(var.prefix, "-", " ")), " ", "")
}
