package main

import (
	"cmp"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// makefileAlone is a folder with a copy of the Makefile.
func makefileAlone(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	text, err := os.ReadFile("../../Makefile")
	if err = cmp.Or(err, os.WriteFile(filepath.Join(folder, "Makefile"), text, 0o600)); err != nil {
		t.Fatal(err)
	}
	return folder
}

// VERSION and ARCH, from a tag or a person, cannot be a command, an option of the linker or a function of make.
func TestMakeTakesNoCommands(t *testing.T) {
	t.Parallel()
	programs.Need(t, "make", "git")
	folder := t.TempDir()
	marker := filepath.Join(folder, "ran")
	hostile := []string{"$(shell touch " + marker + ")", "$$(touch " + marker + ")", "`touch " + marker + "`", "x;touch " + marker, "x' -X main.x=y", `x" -X main.x=y`, "a b", "é"}
	for _, value := range hostile {
		for _, name := range []string{"VERSION", "ARCH"} {
			given := programs.Command{Dir: "../..", Env: programs.CleanEnviron(), Name: "make", Args: []string{"build", "GO=echo", name + "=" + value}}
			inherited := programs.Command{Dir: "../..", Env: programs.CleanEnviron(name + "=" + value), Name: "make", Args: []string{"build", "GO=echo"}}
			for _, command := range []programs.Command{given, inherited} {
				if got := programs.Run(t, command); got.Exit != 2 {
					t.Errorf("%s=%s: got exit code %d, want 2:\n%s", name, value, got.Exit, got.All())
				}
			}
		}
	}
	if _, err := os.Stat(marker); !os.IsNotExist(err) {
		t.Error("make has run a command in a value")
	}
}

// A variable of another target reaches its program as one argument, whatever the value.
func TestMakeTakesValuesAsText(t *testing.T) {
	t.Parallel()
	programs.Need(t, "make")
	folder := makefileAlone(t)
	err := os.MkdirAll(filepath.Join(folder, "build/local"), 0o700)
	for _, name := range []string{"build/local/sandbox", "build/local/awssandbox", "build/local/invoke", "build/sandbox.env", "go"} {
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), []byte("#!/bin/sh\n[ \"$1\" = build ] || printf '<%s>' \"$@\"\n"), 0o700)
		}
	}
	noError(t, err)
	for _, value := range []string{"x';touch ran;'", `x";touch ran;"`, "$(shell touch ran)", "`touch ran`", "a b"} {
		for target, name := range map[string]string{"sandbox": "ADDR", "aws-sandbox": "ADDR", "invoke-local": "EVENT", "simulate": "BETWEEN"} {
			env := programs.CleanEnviron(name+"="+value, "SVG="+filepath.Join(folder, "svg"))
			got := programs.Run(t, programs.Command{Dir: folder, Env: env, Name: "make", Args: []string{target, "GO=./go", "first=:"}})
			printed, _ := os.ReadFile(filepath.Join(folder, "build/simulation.log"))
			if all := got.All() + string(printed); !strings.Contains(all, "<"+value+">") && !strings.Contains(all, "<-between="+value+">") {
				t.Errorf("make %s with %s=%s: got\n%s, want the value as one argument", target, name, value, all)
			}
			if _, err := os.Stat(filepath.Join(folder, "ran")); !os.IsNotExist(err) {
				t.Fatalf("make %s has run the command in %s=%s", target, name, value)
			}
		}
	}
}

func TestMake(t *testing.T) {
	t.Parallel()
	programs.Need(t, "make")
	folder := makefileAlone(t)
	for _, name := range []string{"local/iam-token-rotator", "local/rotatorctl", "rotate.zip", "ibm.env", "reader.key", "ibm.env.replacing"} {
		file := filepath.Join(folder, "build", name)
		noError(t, cmp.Or(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("#!/bin/sh\necho \"ARN: $SECRETS_MANAGER_APIKEY_ARN; $*\"\n"), 0o700)))
	}
	const deployed = "SECRETS_MANAGER_URL=https://x BOOTSTRAP_SECRET_ARN=arn"
	for _, tt := range []struct {
		args, env, says string
		exit            int
	}{
		{"doctor", deployed, "ARN: arn; doctor", 0},
		{"doctor", deployed + " SECRETS_MANAGER_APIKEY=key", "unset it to check the deployed one, of BOOTSTRAP_SECRET_ARN.\nARN: ; doctor", 0},
		{"logs MINUTES=1", "", "logs --since=1m", 0},
		{"logs MINUTES=00", "", "MINUTES must be a whole number from 1", 2},
		{"logs MINUTES=1000000", "", "MINUTES must be a whole number from 1", 2},
		{"logs MINUTES=", "", "MINUTES must be a whole number from 1", 2},
		{"clean", "", "so these stay in build/:\nibm.env\nibm.env.replacing\nreader.key\n", 0}, // last
	} {
		args := append(strings.Fields(tt.args), "GO=true", "first=:")
		got := programs.Run(t, programs.Command{Dir: folder, Env: programs.CleanEnviron(strings.Fields(tt.env)...), Name: "make", Args: args})
		if got.Exit != tt.exit || !strings.Contains(got.All(), tt.says) {
			t.Errorf("%s make %s: got exit code %d and\n%s, want %d and %q", tt.env, tt.args, got.Exit, got.All(), tt.exit, tt.says)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(folder, "build", "*")); len(left) != 3 {
		t.Errorf("left after make clean: %q, want the three files that were not built", left)
	}
}

// Only YES=1 confirms: with YES=0 and YES=no destroy asks.
func TestMakeDestroyAsks(t *testing.T) {
	t.Parallel()
	programs.Need(t, "make", "git")
	for value, want := range map[string]bool{"1": true, "": false, "0": false, "no": false} {
		got := programs.Run(t, programs.Command{Dir: "../..", Env: programs.CleanEnviron(), Name: "make", Args: []string{"-n", "destroy", "YES=" + value}})
		if got.Exit != 0 || strings.Contains(got.Stdout, "destroy --yes") != want {
			t.Errorf("YES=%s: got exit code %d and\n%s", value, got.Exit, got.All())
		}
	}
}

func TestMakeTakesATagAsText(t *testing.T) {
	t.Parallel()
	programs.Need(t, "make", "git")
	folder := makefileAlone(t)
	run := func(name string, args ...string) programs.Result {
		return programs.Run(t, programs.Command{Dir: folder, Env: programs.CleanEnviron("GIT_CONFIG_GLOBAL=/dev/null"), Name: name, Args: args})
	}
	for _, args := range []string{"init -q", "-c user.name=x -c user.email=x@example.com commit -q --allow-empty -m x", "tag v1;touch${IFS}ran`touch${IFS}ran`$(touch${IFS}ran)'x"} {
		if got := run("git", strings.Fields(args)...); got.Exit != 0 {
			t.Fatalf("git %s: %s", args, got.All())
		}
	}
	got := run("make", "build", "GO=echo")
	if _, err := os.Stat(filepath.Join(folder, "ran")); got.Exit != 0 || !os.IsNotExist(err) || !strings.Contains(got.Stdout, "main.version=v1_touch") {
		t.Errorf("the tag was run, or is not the version: exit code %d, %v\n%s", got.Exit, err, got.All())
	}
}
