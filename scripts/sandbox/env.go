package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/envfile"
)

// environment renders the variables as NAME='value' lines for sh. With several rotations a file
// lists them, else the two ids stand for the only one. What scripts/set-up-secrets wants to know, as
// Terraform tells it elsewhere, is of the first.
func environment(cloud *ibmcloudtest.Cloud, origin, rotationsFile string) string {
	variables := [][2]string{
		{"SECRETS_MANAGER_URL", origin},
		{"IAM_URL", origin},
		{"LOGS_ROUTING_URL", origin},
		{"SECRETS_MANAGER_APIKEY", cloud.BootstrapAPIKey()},
		{"READER_APIKEY", cloud.ReaderAPIKey()},
		{"ADMIN_APIKEY", cloud.AdminAPIKey()},
		{"ACCOUNT_ID", cloud.AccountID()},
		{"KEY_GROUP_ID", cloud.KeyGroupID()},
		{"TOKEN_GROUP_ID", cloud.TokenGroupID()},
		{"BOOTSTRAP_IAM_ID", cloud.BootstrapIAMID()},
		{"WORKLOAD_IAM_ID", cloud.Rotations()[0].IAMID},
		{"READER_IAM_ID", cloud.ReaderIAMID()},
	}
	if rotationsFile != "" {
		variables = append(variables, [2]string{"ROTATIONS_FILE", rotationsFile})
	} else {
		only := cloud.Rotations()[0]
		variables = append(variables, [2]string{"API_KEY_SECRET", only.APIKeySecret}, [2]string{"TOKEN_SECRET", only.TokenSecret})
	}
	return envfile.Lines(variables)
}

// writeRotations writes the rotations as ROTATIONS_FILE holds them and returns the file's absolute
// path: FILE.rotations.json beside the environment file FILE, or a temporary file for "-".
func writeRotations(rotations []ibmcloudtest.Rotation, env string) (string, error) {
	type rotation struct {
		Name         string `json:"name"`
		APIKeySecret string `json:"api_key_secret"`
		TokenSecret  string `json:"token_secret"`
	}
	list := make([]rotation, len(rotations))
	for i, r := range rotations {
		list[i] = rotation{r.Name, r.APIKeySecret, r.TokenSecret}
	}
	text, err := json.MarshalIndent(list, "", " ")
	if err != nil {
		return "", fmt.Errorf("encoding the rotations: %w", err)
	}
	text = append(text, '\n')
	if env == "-" {
		return envfile.WriteTemp("", "rotations-*.json", text, 0o600)
	}
	path, err := filepath.Abs(env + ".rotations.json")
	if err != nil {
		return "", fmt.Errorf("naming the rotations file: %w", err)
	}
	return path, envfile.WriteWhole(path, text, 0o600)
}
