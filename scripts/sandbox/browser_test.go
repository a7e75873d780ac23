package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"iam-token-rotator/scripts/programs"
)

// A browser is a headless Chromium with one page. The test controls it by the DevTools protocol, without a port: JSON
// messages, each ended by a zero byte, on the file descriptors 3 and 4.
type browser struct {
	t       *testing.T
	to      io.Writer
	session string
	sent    int

	mu      sync.Mutex
	replies map[int]chan message
	wrong   []string        // exceptions of the page's script, and messages in its console
	asked   map[string]bool // URLs of the page's requests
}

type message struct {
	ID                    int
	Method                string
	Params, Result, Error json.RawMessage
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	args := []string{"--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--user-data-dir=" + t.TempDir()}
	if os.Geteuid() == 0 {
		args = append(args, "--no-sandbox") // Chromium's own sandbox does not work for root
	}
	process := exec.Command(programs.Path(t, "chromium"), args...)
	theirIn, in, errIn := os.Pipe()
	out, theirOut, errOut := os.Pipe()
	process.ExtraFiles = []*os.File{theirIn, theirOut}
	if err := cmp.Or(errIn, errOut, process.Start()); err != nil {
		t.Fatal(err)
	}
	_, _ = theirIn.Close(), theirOut.Close()
	b := &browser{t: t, to: in, replies: map[int]chan message{}, asked: map[string]bool{}}
	go b.listen(out)
	t.Cleanup(func() {
		_ = in.Close() // that ends Chromium
		_ = process.Wait()
	})
	var target struct{ TargetID, SessionID string }
	b.do("Target.createTarget", params{"url": "about:blank"}, &target)
	b.do("Target.attachToTarget", params{"targetId": target.TargetID, "flatten": true}, &target)
	b.session = target.SessionID
	for _, domain := range []string{"Runtime", "Log", "Network", "Page"} {
		b.do(domain+".enable", nil, nil)
	}
	return b
}

func (b *browser) listen(from io.Reader) {
	messages := bufio.NewReader(from)
	for {
		text, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		_ = json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &m)
		b.mu.Lock()
		switch m.Method {
		case "":
			b.replies[m.ID] <- m
		case "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded":
			b.wrong = append(b.wrong, string(m.Params))
		case "Network.requestWillBeSent":
			var p struct{ Request struct{ URL string } }
			_ = json.Unmarshal(m.Params, &p)
			b.asked[p.Request.URL] = true
		}
		b.mu.Unlock()
	}
}

type params map[string]any

// do sends a command and decodes its result.
func (b *browser) do(method string, p params, result any) {
	b.t.Helper()
	b.sent++
	reply := make(chan message, 1)
	b.mu.Lock()
	b.replies[b.sent] = reply
	b.mu.Unlock()
	command := params{"id": b.sent, "method": method, "params": p}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	text, err := json.Marshal(command)
	if err == nil {
		_, err = b.to.Write(append(text, 0))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case m := <-reply:
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error)
		}
		if result != nil {
			_ = json.Unmarshal(m.Result, result)
		}
	case <-time.After(time.Minute):
		b.t.Fatalf("%s: Chromium does not answer", method)
	}
}

// value evaluates an expression in the page and returns the result as text.
func (b *browser) value(expression string) string {
	b.t.Helper()
	var got struct {
		Result           struct{ Value any }
		ExceptionDetails any
	}
	b.do("Runtime.evaluate", params{"expression": expression, "returnByValue": true}, &got)
	if got.ExceptionDetails != nil {
		b.t.Fatalf("%s: %v", expression, got.ExceptionDetails)
	}
	return fmt.Sprint(got.Result.Value)
}

// await waits until an expression is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); b.value(expression) != "true"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("this never became true: %s\nThe page shows: %s", expression, b.value("document.body.innerText"))
		}
	}
}

func (b *browser) key(name, text string, code int) {
	for _, kind := range []string{"keyDown", "keyUp"} {
		b.do("Input.dispatchKeyEvent", params{"type": kind, "key": name, "code": name, "text": text, "windowsVirtualKeyCode": code}, nil)
		text = ""
	}
}

// press moves the focus to a button with the Tab key, checks that the focus is visible, and presses Enter.
func (b *browser) press(name string) {
	b.t.Helper()
	for range 100 {
		b.key("Tab", "", 9)
		if b.value(`document.activeElement.textContent`) == name {
			if b.value(`getComputedStyle(document.activeElement).outlineStyle`) != "solid" {
				b.t.Errorf("%s: its focus is not visible", name)
			}
			b.key("Enter", "\r", 13)
			return
		}
	}
	b.t.Fatalf("no button %q is reached with the Tab key", name)
}
