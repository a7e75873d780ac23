terraform {
  required_version = ">= 1.11.0, < 2.0.0"

  required_providers {
    ibm = {
      source  = "IBM-Cloud/ibm"
      version = "~> 2.5"
    }
  }
}

# No provider block: a module with one cannot be used with for_each. If you apply this folder by itself, the provider reads the
# environment: IC_API_KEY, or IC_IAM_TOKEN of a person who is logged in, and IC_REGION, the region of Code Engine's project.
