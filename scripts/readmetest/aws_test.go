package readmetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"strings"

	"iam-token-rotator/infra/aws/awstest"
)

// serveAWS starts an AWS whose Lambda runs what is deployed.
func (w *world) serveAWS() {
	w.t.Helper()
	w.moto = awstest.Start(w.t)
	server := httptest.NewServer(&awstest.Lambda{Moto: w.moto, Program: filepath.Join(programsFolder(w.t), "invoke")})
	w.t.Cleanup(server.Close)
	maps.Copy(w.env, awstest.Environment(server.URL))
	w.env["AWS_DEFAULT_REGION"] = awstest.Region // the pages say that the aws CLI is set up
	w.env["DENIED_FOR"] = "0"                    // no permission is on its way here
}

// secret stores a secret in AWS and returns its ARN.
func (w *world) secret(name, value string) string {
	w.t.Helper()
	made := w.moto.MustCall(w.t, "secretsmanager", "secretsmanager.CreateSecret", map[string]any{
		"Name": name, "SecretString": value, "ClientRequestToken": strings.Repeat("c", 32)})
	return fmt.Sprint(made["ARN"])
}

// writeEnv writes build/ibm.env as scripts/set-up-secrets does.
func (w *world) writeEnv() {
	w.t.Helper()
	rotation := w.cloud.Rotations()[0]
	arn := w.secret("iam-token-rotator/bootstrap", w.cloud.BootstrapAPIKey())
	w.write(filepath.Join(w.dir, "build", "ibm.env"), fmt.Sprintf("SECRETS_MANAGER_URL=%s\nAPI_KEY_SECRET=%s\nTOKEN_SECRET=%s\nBOOTSTRAP_EXPIRES_AT=2099-12-31\nBOOTSTRAP_SECRET_ARN=%s\n",
		w.origin, rotation.APIKeySecret, rotation.TokenSecret, arn))
}

// writeFleet writes the list of rotations and makes the bucket.
func (w *world) writeFleet() {
	w.t.Helper()
	rotation := w.cloud.Rotations()[0]
	list, err := json.Marshal([]map[string]string{{"name": "only", "api_key_secret": rotation.APIKeySecret, "token_secret": rotation.TokenSecret}})
	if err == nil {
		err = w.moto.MakeBucket(w.t.Context(), "my-code-bucket")
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(filepath.Join(w.dir, "rotations.json"), string(list))
}

// copyToAWS makes the copy that a job on AWS reads.
func (w *world) copyToAWS() {
	w.t.Helper()
	w.env["TOKEN_SECRET_ARN"] = w.secret("iam-token", w.newToken())
	delete(w.env, "TOKEN_SECRET")
	delete(w.env, "SECRETS_MANAGER_URL")
}
