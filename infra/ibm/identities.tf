# No API key is made here: the provider would keep it in the state. rotatorctl setup makes them.

resource "ibm_iam_service_id" "bootstrap" {
  count = local.keyless ? 0 : 1

  name        = "${var.prefix}-bootstrap"
  description = "Opens Secrets Manager for the token rotator: reads the workloads' API keys, adds token versions, nothing else."
}

resource "ibm_iam_service_id" "workload" {
  name        = "${var.prefix}-workload"
  description = "The identity whose access token is published."
}

resource "ibm_iam_service_id" "reader" {
  name        = "${var.prefix}-reader"
  description = "Reads the published tokens on behalf of jobs."
}
