package awstest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// ErrNotInstalled is the error of StartMoto where there is no moto_server.
var ErrNotInstalled = errors.New("moto_server is not installed: pip install 'moto[server]'")

// Moto is a running moto_server.
type Moto struct {
	url     *url.URL
	process *exec.Cmd
	ended   chan struct{}
}

// StartMoto starts moto_server on a free loopback port and returns when it listens. Stop ends it.
func StartMoto() (*Moto, error) {
	path, err := exec.LookPath("moto_server")
	if err != nil {
		return nil, ErrNotInstalled
	}
	process := exec.Command(path, "-H", "127.0.0.1", "-p", "0")
	ours := func(variable string) bool { return strings.HasPrefix(variable, "AWS_") }
	process.Env = append(slices.DeleteFunc(os.Environ(), ours), "PYTHONUNBUFFERED=1")
	stderr, err := process.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	if err := process.Start(); err != nil {
		return nil, fmt.Errorf("starting moto_server: %w", err)
	}
	m := &Moto{process: process, ended: make(chan struct{})}
	m.url, err = readAddress(stderr)
	go func() { _, _ = io.Copy(io.Discard, stderr) }()
	go func() {
		_ = process.Wait()
		close(m.ended)
	}()
	if err != nil {
		m.Stop()
		return nil, err
	}
	return m, nil
}

var listening = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// readAddress reads where moto listens from what it prints. When it ends instead, its last words are
// the reason.
func readAddress(printed io.Reader) (*url.URL, error) {
	var last string
	for lines := bufio.NewScanner(printed); lines.Scan(); last = lines.Text() {
		if found := listening.FindStringSubmatch(lines.Text()); found != nil {
			return url.Parse(found[1])
		}
	}
	return nil, fmt.Errorf("moto_server did not start: %s", last)
}

// URL is the origin of all of its services.
func (m *Moto) URL() string { return m.url.String() }

// ServeHTTP passes a request on, for whoever stands in front of moto.
func (m *Moto) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	httputil.NewSingleHostReverseProxy(m.url).ServeHTTP(w, r)
}

// Ended is closed when moto_server has ended, by itself or by Stop.
func (m *Moto) Ended() <-chan struct{} { return m.ended }

// Stop ends moto_server, and what it holds is gone.
func (m *Moto) Stop() {
	_ = m.process.Process.Kill()
	<-m.ended
}
