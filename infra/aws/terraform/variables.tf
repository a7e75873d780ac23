# No variable is for a secret: the values are ids, ARNs and addresses. The template checks them again.

variable "name" {
  description = "Name of the stack and of the function."
  type        = string
  default     = "iam-token-rotator"

  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9-]{0,47}$", var.name))
    error_message = "A stack's name has at most 48 letters, digits and hyphens, and begins with a letter."
  }
}

variable "bucket" {
  description = "An S3 bucket of yours in the stack's region, for the function's zip."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "This is not the name of an S3 bucket."
  }
}

variable "zip" {
  description = "Path of the zip that `make package` has made, build/rotate.zip."
  type        = string

  validation {
    condition     = fileexists(var.zip)
    error_message = "There is no such file: run `make package` first."
  }
}

variable "architecture" {
  description = "What the binary in the zip was built for: arm64, or x86_64 after `make package ARCH=amd64`."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "The architecture must be arm64 or x86_64."
  }
}

variable "secrets_manager_url" {
  description = "SECRETS_MANAGER_URL, as rotatorctl setup writes it."
  type        = string

  validation {
    condition     = can(regex("^https://[A-Za-z0-9.-]+(:[0-9]+)?/?$", var.secrets_manager_url))
    error_message = "It must be the instance's https origin."
  }
}

variable "bootstrap_secret_arn" {
  description = "BOOTSTRAP_SECRET_ARN, as rotatorctl setup writes it."
  type        = string

  validation {
    condition     = can(regex("^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]+-[A-Za-z0-9]{6}$", var.bootstrap_secret_arn))
    error_message = "It must be the secret's whole ARN, with the six characters at its end."
  }
}

variable "bootstrap_key_secret" {
  description = "BOOTSTRAP_KEY_SECRET, as rotatorctl setup writes it; empty if no key is renewed."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9A-Fa-f-]{36})?$", var.bootstrap_key_secret))
    error_message = "It must be the id of a secret."
  }
}

variable "api_key_secret" {
  description = "API_KEY_SECRET, as rotatorctl setup writes it."
  type        = string

  validation {
    condition     = can(regex("^([0-9A-Fa-f-]{36}|[^/\\s]+/\\S+)$", var.api_key_secret))
    error_message = "It must be the id of a secret, or group/name."
  }
}

variable "token_secret" {
  description = "TOKEN_SECRET, as rotatorctl setup writes it."
  type        = string

  validation {
    condition     = can(regex("^[0-9A-Fa-f-]{36}$", var.token_secret))
    error_message = "It must be the id of a secret."
  }
}

variable "expect_account" {
  description = "EXPECT_ACCOUNT: the IBM Cloud account that the token must be of; empty to accept any."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^([0-9a-f]{32})?$", var.expect_account))
    error_message = "An account's id has 32 hexadecimal digits."
  }
}

variable "expect_iam_id" {
  description = "EXPECT_IAM_ID: the IAM id that the token must be of; empty to accept any."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^((iam|IBMid|crn)-[A-Za-z0-9._@-]+)?$", var.expect_iam_id))
    error_message = "It must be an IAM id such as iam-ServiceId-…."
  }
}

variable "parameters" {
  description = "Other parameters of infra/aws/template.yaml, such as { AlarmEmail = \"you@example.com\", EventBusName = \"tokens\" }. With AliasVersion = \"7\" the schedules run that version."
  type        = map(string)
  default     = {}

  validation {
    condition     = length(setintersection(keys(var.parameters), ["CodeBucket", "CodeKey", "Architecture", "SecretsManagerUrl", "BootstrapSecretArn", "BootstrapKeySecret", "ApiKeySecret", "TokenSecret", "ExpectAccount", "ExpectIamId"])) == 0
    error_message = "One of these keys has a variable of its own: bucket, zip, architecture, secrets_manager_url and so on."
  }
}

variable "service_role_arn" {
  description = "Service role for CloudFormation; null to use your own rights."
  type        = string
  default     = null

  validation {
    condition     = var.service_role_arn == null || can(regex("^arn:aws[a-z-]*:iam::[0-9]{12}:role/", var.service_role_arn))
    error_message = "It must be a role's ARN."
  }
}

variable "signing_profile" {
  description = "Profile of AWS Signer that signs the zip, for use with the parameter CodeSigningConfigArn; the bucket must keep versions. Null to sign nothing."
  type        = string
  default     = null

  validation {
    condition     = var.signing_profile == null || can(regex("^[A-Za-z0-9_]{2,64}$", var.signing_profile))
    error_message = "A signing profile's name has 2 to 64 letters, digits and underscores."
  }
}

variable "tags" {
  description = "Tags of the zip, the stack and everything in it."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key, _ in var.tags : !startswith(lower(key), "aws:")])
    error_message = "AWS keeps keys that begin with aws: for itself."
  }
}
