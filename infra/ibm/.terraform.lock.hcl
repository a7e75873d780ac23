# This file is maintained automatically by "terraform init".
# Manual edits may be lost in future updates.

provider "registry.terraform.io/ibm-cloud/ibm" {
  version     = "2.5.0"
  constraints = "~> 2.5"
}
