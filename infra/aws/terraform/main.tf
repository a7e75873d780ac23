# Deploys infra/aws/template.yaml as it is. The schedules run new code at once, unchecked, while `rotatorctl deploy` checks a
# version first. So after an apply run `make invoke MODE=check`, and `make status`.

terraform {
  required_version = ">= 1.11.0, < 2.0.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0, < 7.0"
    }
  }
}

resource "aws_s3_object" "zip" {
  bucket = var.bucket
  key    = "${var.name}/rotate-${filesha256(var.zip)}.zip" # new code is a new key, so CloudFormation sees it
  source = var.zip
  tags   = var.tags
}

# If a code signing configuration is enforced, Lambda rejects an unsigned zip.
resource "aws_signer_signing_job" "zip" {
  count = var.signing_profile == null ? 0 : 1

  profile_name = var.signing_profile
  source {
    s3 {
      bucket  = aws_s3_object.zip.bucket
      key     = aws_s3_object.zip.key
      version = aws_s3_object.zip.version_id # only if the bucket keeps versions
    }
  }
  destination {
    s3 {
      bucket = aws_s3_object.zip.bucket
      prefix = "${var.name}/signed-"
    }
  }
}

resource "aws_cloudformation_stack" "rotator" {
  name          = var.name
  template_body = file("${path.module}/../template.yaml")
  capabilities  = ["CAPABILITY_IAM"]
  iam_role_arn  = var.service_role_arn
  tags          = var.tags

  parameters = merge({ AliasVersion = "$LATEST" }, var.parameters, {
    CodeBucket         = aws_s3_object.zip.bucket
    CodeKey            = var.signing_profile == null ? aws_s3_object.zip.key : one(aws_signer_signing_job.zip[*].signed_object[0].s3[0].key)
    Architecture       = var.architecture
    SecretsManagerUrl  = var.secrets_manager_url
    BootstrapSecretArn = var.bootstrap_secret_arn
    BootstrapKeySecret = var.bootstrap_key_secret
    ApiKeySecret       = var.api_key_secret
    TokenSecret        = var.token_secret
    ExpectAccount      = var.expect_account
    ExpectIamId        = var.expect_iam_id
  })
}

output "function_name" {
  description = "Value of STACK for rotatorctl status, invoke, logs and doctor."
  value       = aws_cloudformation_stack.rotator.outputs["FunctionName"]
}

output "outputs" {
  description = "All outputs of the stack, by the names that infra/aws/template.yaml gives them."
  value       = aws_cloudformation_stack.rotator.outputs
}
