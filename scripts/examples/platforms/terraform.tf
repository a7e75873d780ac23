# Terraform as the workload, with the token in place of an API key. No block here puts it into the state or a plan: an
# ephemeral resource is never stored, and neither is a provider's configuration.
terraform {
  required_version = ">= 1.11"
  required_providers {
    aws = { source = "hashicorp/aws", version = ">= 5.83" }
    ibm = { source = "IBM-Cloud/ibm", version = "~> 2.5" }
  }
}

variable "token_secret_arn" {
  description = "The rotation's mirror in AWS, format raw or bearer."
  type        = string
}

ephemeral "aws_secretsmanager_secret_version" "iam_token" {
  secret_id = var.token_secret_arn
}

provider "ibm" {
  region    = "us-south"
  iam_token = ephemeral.aws_secretsmanager_secret_version.iam_token.secret_string
}

# Without AWS, leave the ephemeral resource and iam_token out, and run
#   IC_IAM_TOKEN="$(scripts/iam-token --min-ttl 30m --wait 50m)" terraform apply
# A plan of before has no token in it, so apply reads the newer one. The provider cannot renew it: an apply must end before
# it expires. Not so: data "external" with ["iam-token", "--format", "json"]. Terraform writes its result into the state.
