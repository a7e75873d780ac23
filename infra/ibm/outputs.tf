# `rotatorctl setup --terraform infra/ibm` reads these by name.

output "secrets_manager_url" {
  description = "Endpoint of the Secrets Manager instance, SECRETS_MANAGER_URL of the function: the private one with service_endpoints = private."
  value       = "https://${local.instance_guid}.${local.endpoint_zone}.secrets-manager.appdomain.cloud"
}

output "account_id" {
  description = "The account of all these resources."
  value       = ibm_iam_service_id.workload.account_id
}

output "key_group_id" {
  description = "Secret group of the API keys."
  value       = ibm_sm_secret_group.keys.secret_group_id
}

output "token_group_id" {
  description = "Secret group of the tokens."
  value       = ibm_sm_secret_group.tokens.secret_group_id
}

output "bootstrap_iam_id" {
  description = "IAM id of the bootstrap service id; empty with code_engine, when a trusted profile replaces it."
  value       = local.keyless ? "" : one(ibm_iam_service_id.bootstrap[*].iam_id)
}

output "workload_iam_id" {
  description = "IAM id of the service id whose token is published."
  value       = ibm_iam_service_id.workload.iam_id
}

output "reader_iam_id" {
  description = "IAM id of the service id that reads the tokens."
  value       = ibm_iam_service_id.reader.iam_id
}

output "managed_keys" {
  description = "Whether Secrets Manager makes the API keys: true or false, as text."
  value       = tostring(var.managed_keys)
}

output "iam_profile_id" {
  description = "Trusted profile of the Code Engine job, IAM_PROFILE_ID of the function; empty without code_engine."
  value       = local.keyless ? one(ibm_iam_trusted_profile.bootstrap[*].profile_id) : ""
}
