package readmetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// logsRouting is where a job of the page calls IBM Cloud's API.
const logsRouting = "api.us-south.logs-router.cloud.ibm.com"

// serveIBM starts an IBM Cloud, of which terraform, ibmcloud and curl know.
func (w *world) serveIBM() {
	w.t.Helper()
	w.cloud = ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1})
	door := withReaderProfile{w.cloud}
	server, secure := httptest.NewServer(door), httptest.NewTLSServer(door)
	w.t.Cleanup(server.Close)
	w.t.Cleanup(secure.Close)
	w.origin = server.URL
	w.env["IAM_URL"] = server.URL
	w.write(filepath.Join(w.home, ".curlrc"), fmt.Sprintf("insecure\nconnect-to = \"%s:443:%s\"\n", logsRouting, secure.Listener.Addr()))
	w.write(filepath.Join(w.state, "admin.key"), w.cloud.AdminAPIKey())
	w.write(filepath.Join(w.state, "outputs.json"), w.outputs(w.cloud.BootstrapIAMID(), ""))
	w.write(filepath.Join(w.state, "outputs-code_engine.json"), w.outputs("", w.cloud.ProfileID()))
}

// withReaderProfile adds to the sandbox a trusted profile of a job, token-reader, which may do what
// the reader may.
type withReaderProfile struct{ cloud *ibmcloudtest.Cloud }

func (d withReaderProfile) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/identity/token" {
		body, _ := io.ReadAll(r.Body)
		if form, err := url.ParseQuery(string(body)); err == nil && form.Get("profile_name") == "token-reader" && form.Get("cr_token") != "" {
			body = []byte(url.Values{"grant_type": {"urn:ibm:params:oauth:grant-type:apikey"}, "apikey": {d.cloud.ReaderAPIKey()}}.Encode())
		}
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(string(body))), int64(len(body))
	}
	d.cloud.ServeHTTP(rw, r)
}

// outputs is what `terraform output -json` prints.
func (w *world) outputs(bootstrap, profile string) string {
	w.t.Helper()
	outputs := map[string]any{}
	for name, value := range w.ids(bootstrap, profile) {
		outputs[name] = map[string]any{"sensitive": false, "type": "string", "value": value}
	}
	text, err := json.Marshal(outputs)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

func (w *world) ids(bootstrap, profile string) map[string]string {
	return map[string]string{
		"secrets_manager_url": w.origin, "account_id": w.cloud.AccountID(), "key_group_id": w.cloud.KeyGroupID(), "token_group_id": w.cloud.TokenGroupID(),
		"bootstrap_iam_id": bootstrap, "workload_iam_id": w.cloud.Rotations()[0].IAMID, "reader_iam_id": w.cloud.ReaderIAMID(), "iam_profile_id": profile,
	}
}

// exportOutputs puts Terraform's outputs into the environment, and a person's token beside them.
func (w *world) exportOutputs() {
	for name, value := range w.ids(w.cloud.BootstrapIAMID(), "") {
		w.env[strings.ToUpper(name)] = value
	}
	w.env["IAM_TOKEN"] = w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour)
}

// publish stores a token as the rotator does, and tells jobs where.
func (w *world) publish() {
	w.cloud.MustPutVersion(w.tokenSecret(), w.newToken(), map[string]any{"expiration": time.Now().Add(time.Hour).Unix()})
	w.env["SECRETS_MANAGER_URL"], w.env["TOKEN_SECRET"] = w.origin, w.tokenSecret()
}

func (w *world) tokenSecret() string { return w.cloud.Rotations()[0].TokenSecret }

func (w *world) newToken() string {
	return w.cloud.MustMintToken(w.cloud.Rotations()[0].APIKey, time.Hour)
}

// leaveReaderKey puts the reader's key where a person has it.
func (w *world) leaveReaderKey() (file string) {
	file = filepath.Join(w.home, ".config", "token-reader.key")
	w.write(file, w.cloud.ReaderAPIKey()+"\n")
	return file
}

func (w *world) giveReaderKey() { w.env["READER_APIKEY_FILE"] = w.leaveReaderKey() }

// giveComputeToken does what Code Engine does for a job.
func (w *world) giveComputeToken() {
	w.env["CR_TOKEN_FILENAME"] = filepath.Join(w.home, "compute-resource-token")
	w.write(w.env["CR_TOKEN_FILENAME"], "compute-resource-token\n")
}
