package main

import (
	"fmt"

	"iam-token-rotator/functions/ibmcloudtest"
)

// setting is a path that differs from a good one in some variables.
func setting(sub subject, how string, env func(*stage) map[string]string) path {
	return path{subject: sub, how: how, env: env}
}

// misplaced puts secrets into variables that are for something else.
func misplaced() []path {
	secrets := map[string]func(*stage) string{
		"an API key": func(s *stage) string { return s.cloud.BootstrapAPIKey() },
		"a token":    func(s *stage) string { return s.old },
	}
	var all []path
	for _, sub := range []subject{command, lambda} {
		for _, variable := range []string{
			"SECRETS_MANAGER_URL", "IAM_URL", "SECRETS_MANAGER_APIKEY_ARN", "API_KEY_SECRET", "TOKEN_SECRET", "ROTATIONS", "ROTATIONS_FILE",
			"TOKEN_FORMAT", "MIN_REMAINING", "ROTATION_INTERVAL", "SECRETS_MANAGER_MAX_RPS", "CONCURRENCY", "LOG_LEVEL", "BOOTSTRAP_EXPIRES_AT",
			"IAM_PROFILE_NAME", "IAM_PROFILE_ID", "CR_TOKEN_FILENAME", "AWS_PROFILE", "AWS_CONFIG_FILE", "HTTPS_PROXY", "SSL_CERT_FILE",
		} {
			for what, secret := range inOrder(secrets) {
				all = append(all, setting(sub, what+" in "+variable, func(s *stage) map[string]string {
					return map[string]string{variable: secret(s)}
				}))
			}
		}
		for how, shape := range inOrder(urlShapes) {
			all = append(all, setting(sub, how, func(s *stage) map[string]string {
				return map[string]string{"SECRETS_MANAGER_URL": fmt.Sprintf(shape, s.cloud.BootstrapAPIKey())}
			}))
		}
		for how, shape := range inOrder(rotationShapes) {
			all = append(all, setting(sub, how, func(s *stage) map[string]string {
				only := s.cloud.Rotations()[0]
				return map[string]string{"API_KEY_SECRET": "", "TOKEN_SECRET": "",
					"ROTATIONS": fmt.Sprintf(shape, only.APIKey, only.APIKeySecret, only.TokenSecret)}
			}))
		}
		all = append(all, misshapenKeys(sub)...)
	}
	return all
}

// bootstraps are the ways in that are secrets, by variable.
var bootstraps = map[string]func(*stage) string{
	"SECRETS_MANAGER_APIKEY": func(s *stage) string { return s.cloud.BootstrapAPIKey() },
	"IAM_TOKEN":              func(s *stage) string { return s.admin },
}

// misshapenKeys have a bootstrap key or token in a form that it must not have.
func misshapenKeys(sub subject) []path {
	var all []path
	for how, shape := range inOrder(keyShapes) {
		for variable, secret := range inOrder(bootstraps) {
			all = append(all, setting(sub, variable+" as "+how, func(s *stage) map[string]string {
				return map[string]string{"SECRETS_MANAGER_APIKEY": "", variable: fmt.Sprintf(shape, secret(s))}
			}))
		}
	}
	return all
}

// storedOddly are keys that Secrets Manager holds in a form that they must not have.
func storedOddly() []path {
	var all []path
	for how, shape := range inOrder(storedShapes) {
		body := `{"id":"cb1e238c-d449-4fe7-bd68-04f0c5b59eb1","secret_type":"arbitrary","payload":"` + shape + `"}`
		for _, sub := range []subject{command, lambda} {
			all = append(all, path{subject: sub, how: "a stored key as " + how, faults: []ibmcloudtest.Fault{{Op: ibmcloudtest.OpSecretsGet, Status: 200, Body: body}}})
		}
	}
	return all
}
