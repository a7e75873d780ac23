package readmetest

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"iam-token-rotator/scripts/programs"
)

const changeKeys = "Change the keys without a gap"

// newKeyWorld is one where infra/ibm has been set up, as its page says.
func newKeyWorld(t *testing.T) *world {
	t.Helper()
	programs.Need(t, append([]string{"sh", "go", "make", "curl"}, forAWS...)...)
	w := newWorld(t)
	w.serveIBM()
	w.serveAWS()
	for _, b := range inSection(t, "infra/ibm/README.md", "Set it up", "ibm") {
		w.mustDo(b)
	}
	return w
}

// inSection are the commands of a section that belong to a stage.
func inSection(t *testing.T, path, section, stage string) []*block {
	t.Helper()
	return slices.DeleteFunc(slices.Clone(pageAt(t, path).blocks), func(b *block) bool {
		return b.section != section || b.language != "sh" || !b.is(stage)
	})
}

// keyChange are the steps, and the two for keys that were made in another way.
func keyChange(t *testing.T) (make, doctor, remove, makeByHand, removeByHand *block) {
	t.Helper()
	b := inSection(t, "README.md", changeKeys, "deploy")
	if len(b) != 6 {
		t.Fatalf("the section has %d blocks of commands, want four steps and two others", len(b))
	}
	return b[0], b[1], b[3], b[4], b[5]
}

// do runs a block in a shell of its own.
func (w *world) do(b *block) programs.Result {
	w.t.Helper()
	return programs.Run(w.t, programs.Command{Dir: w.dir, Env: programs.Environ(w.env), Name: "sh", Args: []string{"-euc", b.runnable()}})
}

func (w *world) mustDo(b *block) programs.Result {
	w.t.Helper()
	got := w.do(b)
	if got.Exit != 0 {
		w.t.Fatalf("%s: exit %d: %s", b.where(), got.Exit, scrub(got.All()))
	}
	return got
}

// keyIDs are the ids of the keys of one identity, without that of the sandbox itself.
func (w *world) keyIDs(iamID string) []string {
	w.t.Helper()
	request, _ := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.origin+"/v1/apikeys?pagesize=100&iam_id="+iamID, nil)
	request.Header.Set("Authorization", "Bearer "+w.cloud.MustMintToken(w.cloud.AdminAPIKey(), time.Hour))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		Keys []struct{ ID, Name string } `json:"apikeys"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for _, key := range answer.Keys {
		if strings.HasPrefix(key.Name, "iam-token-rotator-") || key.Name == "rotator-bootstrap" {
			ids = append(ids, key.ID)
		}
	}
	return ids
}

func (w *world) read(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(text)
}

// named is the value of a variable in build/ibm.env.
func (w *world) named(variable string) string {
	w.t.Helper()
	found := regexp.MustCompile(`(?m)^` + variable + `=(.+)$`).FindStringSubmatch(w.read("build/ibm.env"))
	if found == nil {
		w.t.Fatalf("build/ibm.env has no %s", variable)
	}
	return found[1]
}
