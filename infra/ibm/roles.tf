# What the rotator does, action by action. No predefined role fits: SecretsReader on the keys would
# let it list and describe them too, Writer on the tokens would let it read, create and change them.

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
