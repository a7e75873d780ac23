package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"iam-token-rotator/functions/ibmcloudtest"
)

// environment renders the variables as NAME='value' lines for sh. With several rotations a file
// lists them, else the two ids stand for the only one.
func environment(cloud *ibmcloudtest.Cloud, origin, rotationsFile string) string {
	variables := [][2]string{
		{"SECRETS_MANAGER_URL", origin},
		{"IAM_URL", origin},
		{"LOGS_ROUTING_URL", origin},
		{"SECRETS_MANAGER_APIKEY", cloud.BootstrapAPIKey()},
		{"READER_APIKEY", cloud.ReaderAPIKey()},
		{"ADMIN_APIKEY", cloud.AdminAPIKey()},
	}
	if rotationsFile != "" {
		variables = append(variables, [2]string{"ROTATIONS_FILE", rotationsFile})
	} else {
		only := cloud.Rotations()[0]
		variables = append(variables, [2]string{"API_KEY_SECRET", only.APIKeySecret}, [2]string{"TOKEN_SECRET", only.TokenSecret})
	}
	var text strings.Builder
	for _, v := range variables {
		fmt.Fprintf(&text, "%s=%s\n", v[0], quote(v[1]))
	}
	return text.String()
}

// quote makes a word of the shell that stands for the text itself.
func quote(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
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
		return writeTemp("", "rotations-*.json", text, 0o600)
	}
	path, err := filepath.Abs(env + ".rotations.json")
	if err != nil {
		return "", fmt.Errorf("naming the rotations file: %w", err)
	}
	return path, writeFile(path, text, 0o600)
}

// writeFile puts a whole file in place by renaming it: a reader sees all of it or the one before.
func writeFile(path string, content []byte, mode os.FileMode) error {
	temp, err := writeTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*", content, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("putting a file in place: %w", err)
	}
	return nil
}

// writeTemp writes a new file in dir, the system's temporary one if empty, and returns its path.
func writeTemp(dir, pattern string, content []byte, mode os.FileMode) (string, error) {
	file, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return "", fmt.Errorf("making a file: %w", err)
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Chmod(mode)
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return "", fmt.Errorf("writing a file: %w", err)
	}
	return file.Name(), nil
}
