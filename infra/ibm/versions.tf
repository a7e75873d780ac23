terraform {
  required_version = ">= 1.11.0, < 2.0.0"

  required_providers {
    ibm = {
      source  = "IBM-Cloud/ibm"
      version = "= 2.5.0"
    }
  }
}

# Credentials come from the environment: IC_API_KEY, or IC_IAM_TOKEN of a person who is logged in.
provider "ibm" {
  region = local.region
}
