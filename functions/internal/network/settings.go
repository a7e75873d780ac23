package network

import (
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"iam-token-rotator/functions/iamtoken"
)

// SettingError is what is wrong with an environment variable. It repeats no value: a URL
// may hold a password.
type SettingError struct{ Name, Problem string }

// checks has the variables of Go and AWS that direct the function's requests (proxies, AWS's
// endpoints) or sign them.
var checks = []struct {
	names string
	check func(string) error
}{
	{"HTTPS_PROXY https_proxy HTTP_PROXY http_proxy", checkProxy},
	{"NO_PROXY no_proxy", checkNoProxy},
	{"AWS_CONTAINER_CREDENTIALS_FULL_URI AWS_EC2_METADATA_SERVICE_ENDPOINT", checkCredentialsURL},
	{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", checkCredentialsPath},
	{"AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN", checkCredential},
	{"AWS_ENDPOINT_URL AWS_ENDPOINT_URL_SECRETS_MANAGER AWS_ENDPOINT_URL_SSM AWS_ENDPOINT_URL_EVENTBRIDGE " +
		"AWS_ENDPOINT_URL_STS AWS_ENDPOINT_URL_SSO AWS_ENDPOINT_URL_SSO_OIDC", checkURL},
}

// CheckEnvironment applies checks to environ, which has the form of os.Environ. Without it Go
// would ignore a proxy that it cannot parse, and connect directly.
func CheckEnvironment(environ []string) (found []SettingError) {
	for _, setting := range environ {
		name, value, _ := strings.Cut(setting, "=")
		for _, c := range checks {
			if value == "" || !slices.Contains(strings.Fields(c.names), name) {
				continue
			}
			if err := c.check(value); err != nil {
				found = append(found, SettingError{name, err.Error()})
			}
		}
	}
	return found
}

var (
	errNoURL      = errors.New("is not a URL: use https://host")
	errInTheClear = errors.New("must begin with https:// (http:// is for loopback only): keys and tokens would travel in the clear")
)

// CheckHost returns an error if the host of a URL contains a placeholder, or what is left
// when a script fills one with nothing. net/url cannot parse some of these URLs.
func CheckHost(value string) error {
	_, authority, found := strings.Cut(value, "://")
	if end := strings.IndexAny(authority, "/?#"); end >= 0 {
		authority = authority[:end]
	}
	authority = authority[strings.LastIndex(authority, "@")+1:]
	if !found || authority == "" {
		return nil
	}
	return iamtoken.CheckHost(authority)
}

// checkURL accepts https to any host, and http to loopback.
func checkURL(value string) error {
	parsed, err := url.Parse(value)
	placeholder := CheckHost(value)
	switch {
	case placeholder != nil:
		return placeholder
	case err != nil || parsed.Hostname() == "":
		return errNoURL
	case !iamtoken.IsConfidential(parsed):
		return errInTheClear
	}
	return nil
}

// IsMetadataHost reports whether AWS gives a role's credentials at that host, without
// TLS: to a container on ECS and EKS, to an instance of EC2 (AWS SDKs reference,
// "Container credential provider", "IMDS credential provider").
func IsMetadataHost(host string) bool {
	switch host {
	case "169.254.170.2", "169.254.170.23", "fd00:ec2::23", "169.254.169.254", "fd00:ec2::254":
		return true
	}
	return false
}

// checkCredentialsURL also accepts http to the hosts from which AWS gives a role's
// credentials.
func checkCredentialsURL(value string) error {
	err := checkURL(value)
	if parsed, _ := url.Parse(value); err == errInTheClear && parsed.Scheme == "http" && IsMetadataHost(parsed.Hostname()) {
		return nil
	}
	return err
}

// checkCredential accepts what a header can hold, except quotes: like line ends they come
// from a file that was not read as a shell reads it.
func checkCredential(value string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\'' }) {
		return errors.New("has white space, quotes or another character that no AWS credential has: look at the file that it comes from")
	}
	return nil
}

// checkCredentialsPath accepts a path. Without the first slash it would change the host that
// it is appended to.
func checkCredentialsPath(value string) error {
	if !strings.HasPrefix(value, "/") {
		return errors.New("is not a path: it begins with /")
	}
	return nil
}

// checkProxy accepts a URL, and host:port, which Go takes for http://host:port.
func checkProxy(value string) error {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	parsed, err := url.Parse(value)
	placeholder := CheckHost(value)
	switch {
	case placeholder != nil:
		return placeholder
	case err != nil || parsed.Hostname() == "" || strings.ContainsAny(parsed.Hostname(), " ,;\"'|\\^`"):
		return errors.New("is not a proxy's URL: use http://host:port")
	case !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, parsed.Scheme):
		return errors.New("has a scheme that is not supported: use http://host:port, https:// or socks5://")
	case strings.Trim(parsed.Path, "/") != "" || strings.ContainsAny(value, "?#"):
		return errors.New("is more than a proxy's URL: use only http://host:port")
	case parsed.Port() != "" && !isPort(parsed.Port()):
		return errors.New("has a port that is not a number from 1 to 65535: use http://host:port")
	}
	return nil
}

// checkNoProxy accepts a list of what Go supports (golang.org/x/net/http/httpproxy): *,
// networks, and hosts, domains and addresses, each with or without a port.
func checkNoProxy(value string) error {
	for _, entry := range strings.Split(value, ",") {
		entry = strings.TrimSpace(entry)
		if entry != "" && entry != "*" && !isNoProxy(entry) {
			return errors.New("has an entry that is neither a host, a domain, an address nor a network: separate entries by commas, without https://")
		}
	}
	return nil
}

func isNoProxy(entry string) bool {
	_, network := netip.ParsePrefix(entry)
	_, address := netip.ParseAddr(strings.Trim(entry, "[]"))
	addressAndPort, err := netip.ParseAddrPort(entry)
	switch {
	case strings.Contains(entry, "/"): // ParseAddr would accept one in the zone of an address
		return network == nil
	case address == nil, err == nil && addressAndPort.Port() > 0:
		return true
	}
	host, port, found := strings.Cut(entry, ":")
	name := strings.TrimPrefix(strings.TrimPrefix(host, "*"), ".")
	return name != "" && (!found || isPort(port)) && !strings.ContainsFunc(name, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune("@?#*=\"'<>{}|\\^`;[]", r)
	})
}

func isPort(text string) bool {
	port, err := strconv.ParseUint(text, 10, 16)
	return err == nil && port > 0
}
