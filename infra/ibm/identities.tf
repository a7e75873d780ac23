# No API key is made here: the provider would keep it in the state. rotatorctl setup makes them.

resource "ibm_iam_service_id" "bootstrap" {
  count = local.keyless ? 0 : 1

  name        = "${var.prefix}-bootstrap"
  description = "Opens Secrets Manager for the token rotator: reads the workloads' API keys, adds token versions, nothing else."
  tags        = var.tags
}

resource "ibm_iam_service_id" "workload" {
  name        = "${var.prefix}-workload"
  description = "The identity whose access token is published."
  tags        = var.tags
}

resource "ibm_iam_service_id" "reader" {
  name        = "${var.prefix}-reader"
  description = "Reads the published tokens on behalf of jobs."
  tags        = var.tags
}

# A group of people, service ids and trusted profiles that also read the tokens.
resource "ibm_iam_access_group" "readers" {
  count = var.readers == null ? 0 : 1

  name        = "${var.prefix}-readers"
  description = "Reads the published tokens."
  tags        = var.tags
}

resource "ibm_iam_access_group_members" "readers" {
  count = local.has_readers ? 1 : 0

  access_group_id = one(ibm_iam_access_group.readers[*].id)
  ibm_ids         = var.readers.ibm_ids
  iam_service_ids = var.readers.service_ids
  iam_profile_ids = var.readers.profile_ids
}

# Exactly the actions that the rotator needs. Predefined roles allow more: SecretsReader on the keys would
# also let it list and describe them, and Writer on the tokens read, create and change them.

resource "ibm_iam_custom_role" "key_reader" {
  name         = "${local.role_name_start}KeyRead"
  display_name = "${var.prefix} key reader"
  description  = "Reads the value of a secret."
  service      = "secrets-manager"
  actions      = ["secrets-manager.secret.read"]
}

resource "ibm_iam_custom_role" "token_publisher" {
  name         = "${local.role_name_start}TokenPub"
  display_name = "${var.prefix} token publisher"
  description  = "Adds versions to a secret and reads their metadata and locks. Cannot read a value."
  service      = "secrets-manager"
  actions = [
    "secrets-manager.secret-version.create",
    "secrets-manager.secret-version-metadata.read",
    "secrets-manager.secret-metadata.read",
    "secrets-manager.secret-version-locks.list",
  ]
}
