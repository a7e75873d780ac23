package main

import (
	"encoding/base64"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"iam-token-rotator/scripts/programs"
)

// The picture of README.md: go test ./scripts/sandbox -run TestPage -args -picture="$PWD/scripts/sandbox/page.webp"
var picture = flag.String("picture", "", "write a picture of the page to this `file`")

// TestPage uses the page in Chromium as a person would, with the keyboard alone.
func TestPage(t *testing.T) {
	b := startBrowser(t)
	folder := t.TempDir()
	if err := programs.Build(filepath.Join(folder, "build", "local"), map[string]string{"iam-token-rotator": "functions/rotate"}); err != nil {
		t.Fatal(err)
	}
	t.Chdir(folder)
	sandbox := start(t, "build/sandbox.env")
	origin := sandbox.env["IAM_URL"]
	// rotate runs the command that the page shows, and makes the page read the new state at once.
	rotate := func(more string, want bool) {
		t.Helper()
		command := exec.CommandContext(t.Context(), "sh", "-c", b.value(`$("once").textContent`)+more)
		if err := command.Run(); (err == nil) != want {
			t.Fatalf("the command of the page%s: got %v, want success %t", more, err, want)
		}
		b.value("void refresh()")
	}
	const left, newest = `document.querySelector(".left").textContent`, `document.querySelector("td.mono").textContent`

	b.do("Page.navigate", params{"url": origin + "/"}, nil)
	b.await(`document.querySelector(".left")?.textContent === "no token yet"`)
	rotate("", true)
	b.await(`/^59:\d\d$/.test(` + left + `)`)
	b.await(`$("status").textContent.includes("a new version")`)
	first := b.value(newest)

	b.press("Clock forward 10 minutes")
	b.await(`/^49:\d\d$/.test(` + left + `)`)
	b.press("IAM down")
	b.await(`$("faults").textContent === "iam.token unavailable for anyone, until cleared"`)
	rotate(" -timeout 1s", false)
	b.await(`/run (is failing|failed): iam.token answered 503/.test($("requests").textContent)`)
	b.await(`/^Run (is failing|failed): iam.token answered 503/.test($("status").textContent)`)
	b.await(`document.querySelectorAll("svg .cross").length === 1`)
	before := b.value(left)
	b.await(left + ` !== "` + before + `"`)
	if b.value(newest) != first {
		t.Error("there is a new version while IAM is down")
	}
	b.press("Clock forward 10 minutes")
	b.await(`/^39:\d\d$/.test(` + left + `)`)
	b.press("Clear all faults")
	b.await(`$("faults").textContent === "none"`)
	rotate("", true)
	b.await(newest + ` !== "` + first + `"`)
	b.await(`/^59:\d\d$/.test(` + left + `)`)

	b.press("Token lifetime 15 minutes")
	b.await(`$("short").getAttribute("aria-pressed") === "true"`)
	b.press("Expire now")
	b.await(left + ` === "expired"`)
	b.press("Clock forward 10 minutes")
	b.await(`document.querySelector("article .hint").textContent.startsWith("For 10:")`)
	b.await(`document.querySelectorAll("svg .gap").length === 1`)
	rotate("", true)
	b.await(`/^14:\d\d$/.test(` + left + `)`)
	draw(b)
	b.press("key_disabled · 400")
	b.await(`$("faults").textContent === "iam.token key_disabled for anyone, until cleared"`)
	rotate("", false)
	b.await(`$("requests").textContent.includes("iam.token answered 400")`)

	b.press("Copy the command that rotates")
	b.await(`/^(Copied|Selected)/.test($("status").textContent)`)

	secrets := []string{"eyJ"} // how every token begins
	for name, value := range sandbox.env {
		if strings.HasSuffix(name, "APIKEY") {
			secrets = append(secrets, value)
		}
	}
	seen := b.value(`document.documentElement.outerHTML`)
	for i, secret := range secrets {
		if secret == "" || strings.Contains(seen, secret) {
			t.Errorf("the page holds secret %d of %d", i, len(secrets))
		}
	}
	if b.value(`document.documentElement.scrollWidth <= innerWidth`) != "true" {
		t.Error("the page is wider than its window")
	}
	b.mu.Lock()
	for address := range b.asked {
		if !strings.HasPrefix(address, origin+"/") {
			t.Errorf("the page asks %s", address)
		}
	}
	if len(b.wrong) > 0 || len(b.asked) < 4 {
		t.Errorf("%d requests; the console: %q", len(b.asked), b.wrong)
	}
	b.mu.Unlock()

	// The clock is 90 minutes ahead now; ten years are the limit. The error stays until another button works.
	if got, says := sandbox.ask("POST", "/_sandbox/clock", `{"advance":"87598h25m"}`); got != 200 {
		t.Fatal(says)
	}
	b.press("Clock forward 10 minutes")
	b.await(`$("alert").checkVisibility() && $("alert").textContent.includes("answered 400: advance must")`)
	now := b.value(`state.now`)
	b.await(`state.now !== "` + now + `"`)
	b.await(`$("alert").checkVisibility()`)
	b.press("Token lifetime 60 minutes")
	b.await(`!$("alert").checkVisibility()`)
	sandbox.stop()
	b.await(`$("alert").checkVisibility() && $("alert").textContent.includes("does not answer")`)

	// The page's policy lets it load nothing else, and send requests only to its own origin.
	sandbox = start(t, "build/sandbox.env")
	response, err := http.Get(sandbox.env["IAM_URL"] + "/")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	policy := response.Header.Get("Content-Security-Policy")
	if response.StatusCode != 200 || !strings.HasPrefix(policy, "default-src 'none'; connect-src 'self'; ") || strings.Contains(policy, "unsafe") {
		t.Errorf("got %s and the policy %q", response.Status, policy)
	}
	target, err := url.Parse(sandbox.env["IAM_URL"])
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		if r.In.URL.Path != "/" {
			r.Out.Host = "proxy.example" // the sandbox answers 403
		}
	}})
	defer proxy.Close()
	b.do("Page.navigate", params{"url": proxy.URL}, nil)
	b.await(`typeof $ === "function" && $("alert").checkVisibility() && $("alert").textContent.includes("answered 403")`)
}

// draw writes a screenshot to the file of -picture.
func draw(b *browser) {
	if *picture == "" {
		return
	}
	b.do("Emulation.setDeviceMetricsOverride", params{"width": 1100, "height": 760, "deviceScaleFactor": 1, "mobile": false}, nil)
	b.value(`scrollTo(0, 0)`)
	b.await(`innerWidth === 1100 && document.querySelector("svg").clientWidth > 500`)
	var shot struct{ Data string }
	b.do("Page.captureScreenshot", params{"format": "webp", "quality": 60}, &shot)
	raw, err := base64.StdEncoding.DecodeString(shot.Data)
	if err == nil {
		err = os.WriteFile(*picture, raw, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}
