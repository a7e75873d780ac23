package main

import (
	"crypto/rand"
	"encoding/pem"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
)

// stage is what one path is tried on: a cloud of its own, whose secrets are the canaries, behind a door that can repeat
// to a client what the client sent, and a folder that is HOME, TMPDIR and working directory at once.
type stage struct {
	cloud  *ibmcloudtest.Cloud
	door   *door
	server *httptest.Server
	folder string
	aws    awsCredentials
	proxy  string // password of the user in a proxy's URL
	cr     string // compute resource token
	old    string // the token that is published when the path begins
	reader string // a token of the reader
	admin  string // a token of the administrator
}

type awsCredentials struct{ secretKey, sessionToken string }

// newStage makes a cloud with a token that expires in four minutes already published. It speaks HTTP/2 unless http1.
func newStage(http1 bool) (*stage, error) {
	s := &stage{
		cloud: ibmcloudtest.New(ibmcloudtest.Options{KeyPropagation: -1, RequestLog: 1000}),
		aws:   awsCredentials{"canary-aws-" + rand.Text() + "AbC", "canary-session-" + rand.Text() + rand.Text()},
		proxy: "canary-proxy-" + rand.Text(),
		cr:    "canary-cr-" + rand.Text(),
	}
	only := s.cloud.Rotations()[0]
	expires := time.Now().Add(4 * time.Minute)
	s.reader = s.cloud.MustMintToken(s.cloud.ReaderAPIKey(), time.Hour)
	s.admin = s.cloud.MustMintToken(s.cloud.AdminAPIKey(), time.Hour)
	s.old = s.cloud.MustMintToken(only.APIKey, time.Until(expires))
	s.cloud.MustPutVersion(only.TokenSecret, s.old, map[string]any{"expiration": expires.Unix(), "fingerprint": "0123456789abcdef"})

	var err error
	if s.folder, err = os.MkdirTemp("", "canary-"); err != nil {
		return nil, err
	}
	for _, name := range []string{"home", "out", "log"} {
		if err = os.Mkdir(filepath.Join(s.folder, name), 0o700); err != nil {
			return nil, err
		}
	}
	s.door = &door{cloud: s.cloud, bootstrapKey: s.cloud.BootstrapAPIKey(), workloadKey: only.APIKey}
	s.server = httptest.NewUnstartedServer(s.door)
	s.server.EnableHTTP2 = !http1
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the connections that faults break
	s.server.StartTLS()
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw})
	return s, os.WriteFile(s.authority(), certificate, 0o600)
}

// authority is the file of the server's certificate.
func (s *stage) authority() string { return filepath.Join(s.folder, "ca.pem") }

// home is where programs may leave files, which are searched.
func (s *stage) home() string { return filepath.Join(s.folder, "home") }

// out is where programs write what they are asked to, keys included.
func (s *stage) out() string { return filepath.Join(s.folder, "out") }

// log is where the programs that scripts call are noted.
func (s *stage) log() string { return filepath.Join(s.folder, "log") }

func (s *stage) close() {
	s.door.release()
	s.server.CloseClientConnections()
	s.server.Close()
	_ = os.RemoveAll(s.folder)
}

// canaries are all secrets of the stage, the tokens issued up to now among them.
func (s *stage) canaries() []canary {
	all := []canary{
		{"the bootstrap key", s.cloud.BootstrapAPIKey()},
		{"the workload's key", s.cloud.Rotations()[0].APIKey},
		{"the reader's key", s.cloud.ReaderAPIKey()},
		{"the administrator's key", s.cloud.AdminAPIKey()},
		{"the old token", s.old},
		{"the reader's token", s.reader},
		{"the administrator's token", s.admin},
		{"the AWS secret access key", s.aws.secretKey},
		{"the AWS session token", s.aws.sessionToken},
		{"the proxy's password", s.proxy},
		{"the compute resource token", s.cr},
		{"a connection's session keys", "CLIENT_HANDSHAKE_TRAFFIC_SECRET"}, // as SSLKEYLOGFILE would have them
	}
	for _, secret := range s.door.issuedSecrets() {
		all = append(all, canary{"an issued token or key", secret})
	}
	return all
}

// search cuts up the canaries but for those that the path may print.
func (s *stage) search(allowed map[string]bool) pieces {
	p := pieces{}
	for _, c := range s.canaries() {
		if !allowed[c.value] {
			p.add(c)
		}
	}
	for secret := range allowed {
		p.without(secret)
	}
	return p
}
