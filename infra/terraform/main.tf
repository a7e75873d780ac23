# Both clouds in one apply: first IBM's side, then `rotatorctl setup` for the secrets that Terraform must not make, then AWS's.
# You need `make build-local package`, IC_API_KEY, IAM_TOKEN and AWS credentials: see README.md of infra/ibm and infra/aws.

terraform {
  required_version = ">= 1.11.0, < 2.0.0"

  required_providers {
    ibm = {
      source  = "IBM-Cloud/ibm"
      version = "~> 2.5"
    }
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0"
    }
    local = {
      source  = "hashicorp/local"
      version = "~> 2.5"
    }
  }
}

variable "bucket" {
  description = "An S3 bucket of yours in aws_region, for the function's zip."
  type        = string
}

variable "ibm_region" {
  description = "Region of the Secrets Manager instance."
  type        = string
  default     = "us-south"
}

variable "aws_region" {
  description = "Region of the stack, and of the bootstrap secret."
  type        = string
  default     = "us-east-1"
}

variable "parameters" {
  description = "Other parameters of infra/aws/template.yaml, such as { AlarmEmail = \"you@example.com\" }."
  type        = map(string)
  default     = {}
}

provider "ibm" {
  region = var.ibm_region
}

provider "aws" {
  region = var.aws_region
}

module "ibm" {
  source = "../ibm"
  region = var.ibm_region
}

locals {
  repository = abspath("${path.module}/../..")
  outputs    = { for name, value in module.ibm : upper(name) => value }
}

# It writes ids and ARNs to build/ibm.env. If that file is missing, for example on another machine, write it again with
# `terraform apply -replace=terraform_data.setup`: setup changes nothing that exists.
resource "terraform_data" "setup" {
  triggers_replace = local.outputs

  provisioner "local-exec" {
    command     = "build/local/rotatorctl setup --env build/ibm.env"
    working_dir = local.repository
    environment = merge(local.outputs, { AWS_REGION = var.aws_region })
  }
}

data "local_file" "ibm" {
  filename   = "${local.repository}/build/ibm.env"
  depends_on = [terraform_data.setup]
}

locals {
  ibm = { for pair in regexall("([A-Z_]+)='([^']*)'", data.local_file.ibm.content) : pair[0] => pair[1] }
}

module "aws" {
  source = "../aws/terraform"

  bucket               = var.bucket
  zip                  = "${local.repository}/build/rotate.zip"
  parameters           = var.parameters
  secrets_manager_url  = local.ibm.SECRETS_MANAGER_URL
  bootstrap_secret_arn = local.ibm.BOOTSTRAP_SECRET_ARN
  bootstrap_key_secret = lookup(local.ibm, "BOOTSTRAP_KEY_SECRET", "")
  api_key_secret       = local.ibm.API_KEY_SECRET
  token_secret         = local.ibm.TOKEN_SECRET
  expect_account       = local.ibm.EXPECT_ACCOUNT
  expect_iam_id        = local.ibm.EXPECT_IAM_ID
}

output "stack" {
  description = "All outputs of the stack."
  value       = module.aws.outputs
}
