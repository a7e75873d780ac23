package readmetest

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// surroundings make a file of a block of Go, with what it takes for granted.
const surroundings = `package example

import (
	"net/http"

	"github.com/IBM/platform-services-go-sdk/logsrouterv3"

	"iam-token-rotator/functions/iamtoken"
)

func example(url, id, key string) (any, any, error) {
`

// Go blocks compile.
func TestGoCompiles(t *testing.T) {
	t.Parallel()
	for _, b := range allBlocks(t) {
		if b.language != "go" {
			continue
		}
		folder := t.TempDir()
		w := &world{t: t}
		source := filepath.Join(folder, "example.go")
		w.write(source, surroundings+b.text+"return client, service, err\n}\n")
		// The file is compiled as if it stood in the module, where nothing is written.
		overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "scripts", "readmetest", "example", "example.go"): source}})
		if err != nil {
			t.Fatal(err)
		}
		w.write(filepath.Join(folder, "overlay.json"), string(overlay))
		build := exec.CommandContext(t.Context(), "go", "build", "-overlay", filepath.Join(folder, "overlay.json"), "iam-token-rotator/scripts/readmetest/example")
		build.Dir = root
		if printed, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", b.where(), err, printed)
		}
	}
}
