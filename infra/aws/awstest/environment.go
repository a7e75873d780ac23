package awstest

// Region is the one that Environment names.
const Region = "eu-central-1"

// Environment returns the variables that lead the aws CLI, an SDK or the function to endpoint, with
// credentials of no worth, and keep them from the accounts that this machine knows. Version 1 of the
// CLI looks for the region in AWS_DEFAULT_REGION alone, which is left to the caller.
func Environment(endpoint string) map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL":            endpoint,
		"AWS_ACCESS_KEY_ID":           "test",
		"AWS_SECRET_ACCESS_KEY":       "test",
		"AWS_REGION":                  Region,
		"AWS_CONFIG_FILE":             "/dev/null",
		"AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
		"AWS_EC2_METADATA_DISABLED":   "true",
	}
}
