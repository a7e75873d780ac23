// Command sandbox emulates IBM Cloud (IAM, Secrets Manager, Logs Routing) on one port.
package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"iam-token-rotator/functions/ibmcloudtest"
	"iam-token-rotator/scripts/envfile"
	"iam-token-rotator/scripts/serving"
)

func main() { serving.Main(run) }

// run serves until ctx ends and returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseOptions(args, stdout)
	if err == nil {
		err = serve(ctx, o, stdout, stderr)
	}
	return serving.End(stderr, "sandbox", err)
}

const usage = `usage: sandbox [-addr 127.0.0.1:8480] [-tls-dir DIR] [-rotations 1] [-token-ttl 1h] [-env FILE|-]

Emulates IBM Cloud (IAM, Secrets Manager, Logs Routing) in memory, until SIGTERM or Ctrl-C. Each start
begins with new keys and secrets. Open its address in a browser for a live page. Faults, settings and
the log of requests are under /_sandbox. The page and /_sandbox answer 403 to web pages of other
origins, and to host names other than localhost and that of -addr.

`

const examples = `
examples:
  sandbox -env sandbox.env            then: set -a; . ./sandbox.env
  sandbox -addr 127.0.0.1:0 -env -    a free port; the environment on stdout
  sandbox -addr 0.0.0.0:8480          for other machines and containers too; the environment is for this one
  sandbox -tls-dir tls -env tls.env   HTTPS; trust tls/ca.pem (SSL_CERT_FILE, curl --cacert)
  sandbox -rotations 1000 -token-ttl 15m -env fleet.env
  curl -X POST localhost:8480/_sandbox/faults -d '{"op":"iam.token","times":2,"status":503}'
  curl -X POST localhost:8480/_sandbox/faults -d '{"op":"iam.token","case":"key_disabled"}'
  curl localhost:8480/_sandbox/requests
`

const hint = `Open it in a browser to watch it. To use it, in another terminal:
  set -a; . %s; set +a
  build/local/iam-token-rotator -mode check   # or: make invoke-local
  curl -s $IAM_URL/_sandbox/requests    # what was asked of it
  curl -s $IAM_URL/_sandbox/faults -d '{"op":"iam.token","case":"key_disabled"}'    # an answer of IBM; -X DELETE: no more
`

// Limits of the command line.
const (
	maxRotations = 100_000
	minTokenTTL  = time.Second // IBM allows 15m to 1h; shorter ones let a check see a token expire
	maxTokenTTL  = time.Hour
)

// options are the options of the command line.
type options struct {
	addr, host string        // host:port, and the host alone; port 0 picks a free one
	tlsDir     string        // the folder for ca.pem; empty: plain HTTP
	rotations  int           // at least 1
	tokenTTL   time.Duration // whole seconds
	env        string        // a file, "-" for stdout, or empty for none
}

// parseOptions reads the command line. For -h it prints the help to stdout and returns flag.ErrHelp.
func parseOptions(args []string, stdout io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	flags.StringVar(&o.addr, "addr", "127.0.0.1:8480", "listen on `host:port`; port 0 picks a free one")
	flags.StringVar(&o.tlsDir, "tls-dir", "", "serve HTTPS with a certificate of a new CA, and write the CA's to `DIR`/ca.pem")
	flags.IntVar(&o.rotations, "rotations", 1, "`how many` rotations to create, each with a key secret and a token secret")
	serving.DurationVar(flags, &o.tokenTTL, "token-ttl", maxTokenTTL, "`lifetime` of an access token, 1s to 1h (IBM: 15m to 1h)")
	flags.StringVar(&o.env, "env", "", "once it listens, write the environment to `FILE`, - for stdout; it is removed at the end")
	return o, serving.Parse(flags, args, usage, examples, stdout, func() error {
		var errs []error
		var err error
		if o.host, err = serving.SplitAddr(o.addr); err != nil {
			errs = append(errs, err)
		}
		// The function accepts plain http only on loopback, and the certificate is only for loopback names.
		if ip := net.ParseIP(o.host); ip != nil && !ip.IsLoopback() && !ip.IsUnspecified() {
			errs = append(errs, fmt.Errorf("-addr must be on loopback, or 0.0.0.0 for every address, not %q", o.host))
		}
		if o.rotations < 1 || o.rotations > maxRotations {
			errs = append(errs, fmt.Errorf("-rotations must be 1 to %d, not %d", maxRotations, o.rotations))
		}
		if o.tokenTTL < minTokenTTL || o.tokenTTL > maxTokenTTL || o.tokenTTL%time.Second != 0 {
			errs = append(errs, fmt.Errorf("-token-ttl must be whole seconds from 1s to 1h, not %s", o.tokenTTL))
		}
		return errors.Join(errs...)
	})
}

// environment renders the variables as NAME='value' lines for sh. With a rotationsFile there is a ROTATIONS_FILE
// in place of API_KEY_SECRET and TOKEN_SECRET. The ids for rotatorctl setup, which Terraform prints in a real
// account, are those of the first rotation. The two MANAGED_… secrets create their own keys.
func environment(cloud *ibmcloudtest.Cloud, origin, rotationsFile string) string {
	variables := [][2]string{
		{"SECRETS_MANAGER_URL", origin},
		{"IAM_URL", origin},
		{"LOGS_ROUTING_URL", origin},
		{"SECRETS_MANAGER_APIKEY", cloud.BootstrapAPIKey()},
		{"READER_APIKEY", cloud.ReaderAPIKey()},
		{"ADMIN_APIKEY", cloud.AdminAPIKey()},
		{"ACCOUNT_ID", cloud.AccountID()},
		{"KEY_GROUP_ID", cloud.KeyGroupID()},
		{"TOKEN_GROUP_ID", cloud.TokenGroupID()},
		{"BOOTSTRAP_IAM_ID", cloud.BootstrapIAMID()},
		{"WORKLOAD_IAM_ID", cloud.Rotations()[0].IAMID},
		{"READER_IAM_ID", cloud.ReaderIAMID()},
	}
	if rotationsFile != "" {
		variables = append(variables, [2]string{"ROTATIONS_FILE", rotationsFile})
	} else {
		only := cloud.Rotations()[0]
		variables = append(variables, [2]string{"API_KEY_SECRET", only.APIKeySecret}, [2]string{"TOKEN_SECRET", only.TokenSecret})
	}
	return envfile.Lines(append(variables,
		[2]string{"MANAGED_API_KEY_SECRET", managedKey(cloud, "workload-key", cloud.Rotations()[0].IAMID)},
		[2]string{"MANAGED_BOOTSTRAP_KEY_SECRET", managedKey(cloud, "bootstrap-key", cloud.BootstrapIAMID())}))
}

// managedKey creates a secret that creates keys of a service id: a new one every 15 days, with a lease of 45.
func managedKey(cloud *ibmcloudtest.Cloud, name, iamID string) (id string) {
	return cloud.MustCreateSecret(ibmcloudtest.SecretSpec{
		Type: "iam_credentials", Name: name, IAMID: iamID, ReuseAPIKey: true, TTL: "1080h", RotateDays: 15,
	})
}

// writeRotations writes a ROTATIONS_FILE and returns its absolute path: FILE.rotations.json next to the
// environment file FILE, or a temporary file if env is "-". remove deletes it.
func writeRotations(rotations []ibmcloudtest.Rotation, env string, stderr io.Writer) (path string, remove func(), err error) {
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
		return "", nil, fmt.Errorf("encoding the rotations: %w", err)
	}
	text = append(text, '\n')
	if env == "-" {
		path, err = envfile.WriteTemp("", "rotations-*.json", text, 0o600)
		return path, func() { _ = os.Remove(path) }, err
	}
	if path, err = filepath.Abs(env + ".rotations.json"); err == nil {
		remove, err = envfile.Offer("sandbox", path, string(text), nil, stderr)
	}
	return path, remove, err
}

// serve listens, writes the environment, and answers until ctx ends.
func serve(ctx context.Context, o options, stdout, stderr io.Writer) error {
	var certificates *tls.Config
	if o.tlsDir != "" {
		var err error
		if certificates, err = writeCertificates(o.tlsDir); err != nil {
			return err
		}
	}
	listener, err := serving.Listen(ctx, o.addr)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	cloud := ibmcloudtest.New(ibmcloudtest.Options{Rotations: o.rotations, TokenTTL: o.tokenTTL, Host: o.host, EnvFile: o.env})
	origin := serving.Origin(listener.Addr(), certificates != nil)
	rotationsFile := ""
	if o.rotations > 1 && o.env != "" {
		file, remove, err := writeRotations(cloud.Rotations(), o.env, stderr)
		if err != nil {
			return err
		}
		defer remove()
		rotationsFile = file
	}
	remove, err := envfile.Offer("sandbox", o.env, environment(cloud, origin, rotationsFile), stdout, stderr)
	if err != nil {
		return err
	}
	defer remove()
	_, _ = fmt.Fprintf(stderr, "sandbox: serving IBM Cloud on %s%s\n", origin, others(listener.Addr()))
	envfile.Explain(stdout, hint, o.env)
	return serving.Until(ctx, &http.Server{Handler: cloud, TLSConfig: certificates}, listener, stderr)
}

// others is a warning if other machines can reach the listener. No key in the sandbox is real, but others can
// read and change everything in it.
func others(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok && !tcp.IP.IsLoopback() {
		return ", and to everybody who reaches this machine, on port " + strconv.Itoa(tcp.Port)
	}
	return ""
}

// writeCertificates creates a CA and a server certificate of it for 127.0.0.1, ::1 and localhost. It writes
// the CA's certificate to dir/ca.pem, and creates dir if necessary. The private keys stay in memory.
func writeCertificates(dir string) (*tls.Config, error) {
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "iam-token-rotator sandbox CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, caKey, err := certify(ca, ca, nil)
	if err != nil {
		return nil, err
	}
	leafDER, leafKey, err := certify(&x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}, ca, caKey)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("creating the directory of -tls-dir: %w", err)
	}
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	if err := envfile.WriteWhole(filepath.Join(dir, "ca.pem"), caPEM, 0o644); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: leafKey}},
	}, nil
}

// certify creates a key and a certificate for it, valid for 30 days. If signer is nil, the key itself signs it.
func certify(cert, parent *x509.Certificate, signer *ecdsa.PrivateKey) (der []byte, key *ecdsa.PrivateKey, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, fmt.Errorf("creating a key: %w", err)
	}
	now := time.Now()
	cert.SerialNumber, cert.NotBefore, cert.NotAfter = big.NewInt(now.UnixNano()), now.Add(-time.Hour), now.Add(30*24*time.Hour)
	if der, err = x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, cmp.Or(signer, key)); err != nil {
		return nil, nil, fmt.Errorf("creating a certificate: %w", err)
	}
	return der, key, nil
}
