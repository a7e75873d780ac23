variable "prefix" {
  description = "Beginning of every name here. Two set-ups in one account need two prefixes."
  type        = string
  default     = "iam-token-rotator"

  # The name of a custom role in IAM begins with it, and has only letters and digits, 30 at most.
  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9])*$", var.prefix)) && length(var.prefix) <= 20
    error_message = "The prefix must be lower-case letters, digits and single hyphens, begin with a letter, and have at most 20 characters."
  }
}

variable "secrets_manager_crn" {
  description = "CRN of the Secrets Manager instance to use. If null, a new instance is created. An instance must have public endpoints to be reached from AWS."
  type        = string
  default     = null

  validation {
    condition = var.secrets_manager_crn == null || can(regex(
      "^crn:v1:[a-z0-9-]+:[a-z0-9-]+:secrets-manager:[a-z0-9-]+:a/[0-9a-f]{32}:[0-9a-f-]{36}::$", var.secrets_manager_crn
    ))
    error_message = "This is not the CRN of a Secrets Manager instance: `ibmcloud resource service-instance NAME --crn` prints it."
  }
}

variable "region" {
  description = "Region of the new instance, such as us-south or eu-de. Without effect with secrets_manager_crn, which has the region."
  type        = string
  default     = "us-south"

  validation {
    condition     = can(regex("^[a-z]{2,3}-[a-z]+[0-9]*$", var.region))
    error_message = "A region looks like us-south or eu-de: `ibmcloud regions` lists them."
  }
}

variable "service_endpoints" {
  description = "Endpoints of the new instance: public-and-private, or private if everything that uses it is in IBM's network (the rotator on Code Engine, the readers, and whoever runs Terraform and the set-up). It also decides which endpoint of an existing instance is used."
  type        = string
  default     = "public-and-private"

  validation {
    condition     = contains(["public-and-private", "private"], var.service_endpoints)
    error_message = "The endpoints must be public-and-private or private."
  }
  validation {
    condition     = var.service_endpoints != "private" || var.code_engine != null
    error_message = "A private instance does not answer outside IBM's network, so nothing on AWS reaches it: set code_engine too, or leave service_endpoints out."
  }
}

variable "plan" {
  description = "Plan of the new instance: standard, or trial (free for 30 days, once per account, then its secrets are lost)."
  type        = string
  default     = "standard"

  validation {
    condition     = contains(["standard", "trial"], var.plan)
    error_message = "The plan must be standard or trial."
  }
}

variable "resource_group_id" {
  description = "Resource group of the new instance and of a new Code Engine project. If null, the account's default group."
  type        = string
  default     = null

  validation {
    condition     = var.resource_group_id == null || can(regex("^[0-9a-f]{32}$", var.resource_group_id))
    error_message = "A resource group's id has 32 hexadecimal digits: `ibmcloud resource groups` lists them."
  }
}

variable "managed_keys" {
  description = "Whether Secrets Manager makes, rotates and deletes the API keys of the workload and the bootstrap service id. If true, it gets the authorization to manage keys of the account's service ids. If false, `rotatorctl setup` makes keys that a person has to change."
  type        = bool
  default     = true

  validation {
    condition     = var.managed_keys != null
    error_message = "managed_keys must be true or false."
  }
}

variable "workload_policies" {
  description = "What the published token may do: services, the IAM roles on them, and optional resource attributes that restrict these. The default lets it read Logs Routing. With an empty list this module grants nothing."
  type = list(object({
    service    = string
    roles      = list(string)
    attributes = optional(map(string), {})
  }))
  default = [{ service = "logs-router", roles = ["Viewer"] }]

  validation {
    condition     = alltrue([for policy in var.workload_policies : length(policy.service) > 0 && length(policy.roles) > 0])
    error_message = "Each policy needs a service and at least one role."
  }
  validation {
    condition     = alltrue([for policy in var.workload_policies : can(regex("^[a-z][a-z0-9-]*$", policy.service))])
    error_message = "A service is named by lower-case letters, digits and hyphens, as `ibmcloud catalog service-marketplace` lists it."
  }
  validation {
    condition     = alltrue([for policy in var.workload_policies : policy.service != "secrets-manager"])
    error_message = "A published token for Secrets Manager would open the vault that contains it: grant another service."
  }
  # IAM's services can make keys of other identities and grant policies, and so get around the rule above.
  validation {
    condition     = alltrue([for policy in var.workload_policies : !can(regex("^(iam|all|user-management)(-|$)", policy.service))])
    error_message = "A published token that changes identities, keys or policies could give itself the vault: grant another service."
  }
  validation {
    condition = alltrue(flatten([for policy in var.workload_policies : [
      for name in keys(policy.attributes) : !can(regex("(?i)^service[_-]?(name|type|group([_-]?id)?)$", name))
    ]]))
    error_message = "The service is named by `service`: leave serviceName, serviceType and service_group_id out of the attributes."
  }
}

variable "code_engine" {
  description = "Set it, even to {}, to run the rotator as a Code Engine job: a trusted profile then replaces the bootstrap service id, and no bootstrap key exists. project_crn names an existing project; without it a project with the prefix as its name is created. With image the job is made too; its environment is what rotatorctl setup wrote. With build Code Engine can make that image from a git repository. image_secret is the name of the project's registry secret."
  type = object({
    project_crn  = optional(string)
    job_name     = optional(string, "iam-token-rotator")
    image        = optional(string)
    image_secret = optional(string)
    environment  = optional(map(string), {})
    build        = optional(object({ source_url = string, revision = optional(string) }))
  })
  default = null

  validation {
    condition = try(var.code_engine.project_crn, null) == null || can(regex(
      "^crn:v1:[a-z0-9-]+:[a-z0-9-]+:codeengine:[a-z0-9-]+:a/[0-9a-f]{32}:[0-9a-f-]{36}::$", var.code_engine.project_crn
    ))
    error_message = "project_crn is not the CRN of a Code Engine project: `ibmcloud resource service-instance NAME --crn` prints it."
  }
  validation {
    condition     = var.code_engine == null || can(regex("^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$", var.code_engine.job_name))
    error_message = "A job's name has at most 63 lower-case letters, digits and hyphens, and begins with a letter."
  }
  validation {
    condition     = try(var.code_engine.build, null) == null || try(var.code_engine.image != null && var.code_engine.image_secret != null, false)
    error_message = "A build needs image, the name of the image to make, and image_secret, the registry secret that may push it."
  }
  # The state holds the environment: ids and addresses, no key.
  validation {
    condition = alltrue([for name, value in try(var.code_engine.environment, {}) :
      can(regex("^[A-Z][A-Z0-9_]*$", name)) && !can(regex("API_?KEY$|ACCESS_KEY$|PASSWORD|TOKEN$", name)) && !can(regex("://[^/]*@", value))
    ])
    error_message = "The environment has names in capitals, and no key, password or token, also not in an address: Terraform would keep it in its state."
  }
}

variable "tags" {
  description = "User tags of the new instance, the service ids and the readers' access group, such as [\"team:data\"]."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for tag in var.tags : can(regex("^[A-Za-z0-9 :_.-]{1,128}$", tag))])
    error_message = "A tag has at most 128 letters, digits, blanks and : _ . -"
  }
}

variable "access_tags" {
  description = "Access tags of the new instance, as key:value. An administrator of the account must have made them."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for tag in var.access_tags : can(regex("^[A-Za-z0-9 _.-]+:[A-Za-z0-9 _.-]+$", tag))])
    error_message = "An access tag is key:value."
  }
}

variable "kms_key_crn" {
  description = "CRN of a root key of Key Protect or Hyper Protect Crypto Services that encrypts the new instance. Null for IBM's own key. It cannot be changed later."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_crn == null || can(regex("^crn:v1:[a-z0-9-]+:[a-z0-9-]+:(kms|hs-crypto):[a-z0-9-]+:a/[0-9a-f]{32}:[0-9a-f-]{36}:key:[0-9a-f-]{36}$", var.kms_key_crn))
    error_message = "This is not the CRN of a root key: `ibmcloud kp key show` prints it."
  }
  validation {
    condition     = var.kms_key_crn == null || var.secrets_manager_crn == null
    error_message = "An existing instance keeps its key: leave out kms_key_crn or secrets_manager_crn."
  }
}

variable "endpoint_type" {
  description = "Endpoint through which Terraform itself reaches Secrets Manager: public or private. If null, private with service_endpoints = private, else public."
  type        = string
  default     = null

  validation {
    condition     = var.endpoint_type == null || contains(["public", "private"], coalesce(var.endpoint_type, "public"))
    error_message = "endpoint_type must be public or private."
  }
}

variable "readers" {
  description = "Set it, even to {}, to make an access group that reads the tokens. Its members are named by their ids: people, service ids (ServiceId-…) and trusted profiles (Profile-…)."
  type = object({
    ibm_ids     = optional(list(string), [])
    service_ids = optional(list(string), [])
    profile_ids = optional(list(string), [])
  })
  default = null

  validation {
    condition = var.readers == null || alltrue(concat(
      [for id in try(var.readers.service_ids, []) : can(regex("^ServiceId-[0-9a-f-]{36}$", id))],
      [for id in try(var.readers.profile_ids, []) : can(regex("^Profile-[0-9a-f-]{36}$", id))],
      [for id in try(var.readers.ibm_ids, []) : can(regex("^\\S+@\\S+$", id))],
    ))
    error_message = "Service ids begin with ServiceId-, trusted profiles with Profile-, and people are named by their address."
  }
}

variable "restrict_to" {
  description = "Context-based restriction: the only networks that the Secrets Manager instance answers, which must include those of the rotator, readers, administrators and Terraform. Begin with enforcement_mode report, and read what it would have denied."
  type = object({
    ip_addresses     = optional(list(string), [])
    subnets          = optional(list(string), [])
    vpcs             = optional(list(string), [])
    enforcement_mode = optional(string, "report")
  })
  default = null

  validation {
    condition     = var.restrict_to == null || contains(["report", "enabled", "disabled"], try(var.restrict_to.enforcement_mode, ""))
    error_message = "enforcement_mode must be report, enabled or disabled."
  }
  validation {
    condition     = var.restrict_to == null || try(length(concat(var.restrict_to.ip_addresses, var.restrict_to.subnets, var.restrict_to.vpcs)), 0) > 0
    error_message = "Without a network nobody would reach the instance, Terraform included: name ip_addresses, subnets (CIDR) or vpcs (CRN)."
  }
  validation {
    condition     = alltrue([for subnet in try(var.restrict_to.subnets, []) : can(cidrhost(subnet, 0)) && !endswith(subnet, "/0")])
    error_message = "A subnet is written as 192.0.2.0/24, and /0 restricts nothing."
  }
}
