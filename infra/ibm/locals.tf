locals {
  # crn:v1:bluemix:public:secrets-manager:REGION:a/ACCOUNT:GUID::
  given_instance = var.secrets_manager_crn == null ? null : split(":", var.secrets_manager_crn)
  new_instance   = local.given_instance == null
  region         = local.new_instance ? var.region : local.given_instance[5]

  # The middle of the instance's host name: REGION, or private.REGION.
  private       = var.service_endpoints == "private"
  endpoint_type = coalesce(var.endpoint_type, local.private ? "private" : "public")
  endpoint_zone = local.private ? "private.${local.region}" : local.region

  keyless         = var.code_engine != null
  makes_job       = try(var.code_engine.image, null) != null
  new_project     = local.keyless && try(var.code_engine.project_crn, null) == null
  has_readers     = try(length(concat(var.readers.ibm_ids, var.readers.service_ids, var.readers.profile_ids)), 0) > 0
  role_name_start = replace(title(replace(var.prefix, "-", " ")), " ", "")
}
